"""Dense layers by oneDNN's matrix product, where it is faster than torch's choice on x86 CPUs."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyg_schnet.ops._autograd import needs_grad
from pyg_schnet.ops.dispatch import is_dense_cpu

_FEWEST_ROWS = 256  # below, the call costs more than the faster product saves
_MOST_SUMMANDS = 4096  # torch's product is faster for longer sums, those of weight gradients
_FEWEST_COLUMNS = 16


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    r"""Atom-wise dense layer, ``torch.nn.functional.linear`` with the product that is fastest.

    .. math:: y = x W^T + b

    torch multiplies float32 matrices by MKL, which does not use all of the vector units of every CPU; oneDNN, which
    comes with torch, generates code for the CPU at hand. It is used for many rows on CPUs, torch otherwise. The results
    differ by rounding. Differentiable any number of times.

    Args:
        x: Rows, shape ``[N, K]``.
        weight: Shape ``[M, K]``.
        bias: Shape ``[M]``.

    Returns:
        Shape ``[N, M]``.

    Example:
        >>> linear(torch.ones(1, 2), torch.ones(3, 2))
        tensor([[2., 2., 2.]])
    """
    if not is_faster(x, weight):
        return F.linear(x, weight, bias)
    return _Linear.apply(x, weight, bias)


def is_faster(x: Tensor, weight: Tensor) -> bool:
    """Whether :func:`linear` takes another product than torch for these rows and weights."""
    return (
        _onednn_takes(x)  # first: sizes of exported programs must not be looked at
        and x.dim() == 2
        and x.size(0) >= _FEWEST_ROWS
        and min(weight.shape) >= _FEWEST_COLUMNS
        and is_dense_cpu(weight, (torch.float32,))
        and not torch.is_autocast_enabled("cpu")
    )


def _onednn_takes(x: Tensor) -> bool:
    return x.dtype == torch.float32 and is_dense_cpu(x) and _ONEDNN is not None and torch.backends.mkldnn.enabled


_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def forward_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """:func:`linear` without derivative."""
    return _ONEDNN(x, weight, bias, "none", [], "") if is_faster(x, weight) else F.linear(x, weight, bias)


def forward_product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` without derivative, by the product that is fastest; the longest of the three sizes decides."""
    rows, summands = a.shape
    if not _onednn_takes(a) or summands > _MOST_SUMMANDS or max(rows, summands) < _FEWEST_ROWS:
        return a @ b
    if a.stride(0) == 1 and a.t().is_contiguous():  # oneDNN wants rows; torch's own copy takes three times as long
        from pyg_schnet.backends import numba as cpu

        a = cpu.transpose(a.t())
    return _ONEDNN(a, b.t(), None, "none", [], "")


class _Product(torch.autograd.Function):
    """``a @ b``; its derivatives are such products."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return forward_product(a, b)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        return (
            _Product.apply(grad, b.t()) if needs_grad(ctx, 0) else None,
            _Product.apply(a.t(), grad) if needs_grad(ctx, 1) else None,
        )


class _Linear(torch.autograd.Function):
    """``x @ weight.T + bias``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return forward_linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return (
            _Product.apply(grad, weight) if needs_grad(ctx, 0) else None,
            _Product.apply(grad.t(), x) if needs_grad(ctx, 1) else None,
            grad.sum(0) if ctx.needs_input_grad[2] and needs_grad(ctx, 2) else None,
        )
