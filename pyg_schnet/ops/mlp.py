"""Operator 6: two dense layers with a shifted softplus between them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyg_schnet.ops._autograd import gradients_of, needs_any_grad, needs_grad
from pyg_schnet.ops.dispatch import Backend, is_cast, kernels_for, other_types
from pyg_schnet.ops.softplus import shifted_softplus


def mlp(
    x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, *, backend: Backend = "auto"
) -> Tensor:
    r"""Two dense layers with a shifted softplus between them; differentiable any number of times.

    .. math:: \mathbf{y} = \mathrm{W}_2\, \mathrm{ssp}(\mathrm{W}_1 \mathbf{x} + \mathbf{b}_1) + \mathbf{b}_2

    Args:
        x: Inputs, shape ``[N, F]``.
        weight1: Shape ``[H, F]``.
        bias1: Shape ``[H]``.
        weight2: Shape ``[C, H]``.
        bias2: Shape ``[C]``.
        backend: How it is computed, see :func:`pyg_schnet.ops.kernels_for`.

    Returns:
        Outputs, shape ``[N, C]``.

    Example:
        >>> mlp(torch.zeros(3, 4), torch.ones(2, 4), torch.zeros(2), torch.ones(1, 2), torch.ones(1)).T
        tensor([[1., 1., 1.]])
    """
    inputs = x, weight1, bias1, weight2, bias2
    if kernels_for(backend, *inputs, needs="mlp", unless=_refusal(*inputs)) is None:
        return _composition(*inputs, backend="reference" if backend == "reference" else "auto")
    return _MLP.apply(*inputs)


def _refusal(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> str | None:
    """Reason why the kernel cannot be used; ``None`` if it can. Torch raises the error for shapes that do not fit."""
    n_hidden, n_outputs = weight1.size(0), weight2.size(0)
    shapes = (n_hidden, x.size(-1)), (n_hidden,), (n_outputs, n_hidden), (n_outputs,)
    if x.dim() != 2 or shapes != (weight1.shape, bias1.shape, weight2.shape, bias2.shape):
        return f"its inputs must be rows, and weights and biases fit to them; got inputs of shape {list(x.shape)}"
    return "autocast changes the precision" if is_cast(x) else other_types(x, weight1, bias1, weight2, bias2)


def _composition(
    x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, backend: Backend = "auto"
) -> Tensor:
    """The same by differentiable functions."""
    return F.linear(shifted_softplus(F.linear(x, weight1, bias1), backend=backend), weight2, bias2)


class _MLP(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> Tensor:
        out, hidden, slope = kernels_for("numba").mlp(x, *weights)
        ctx.save_for_backward(x, *weights)
        ctx.kept = hidden, slope
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight1, bias1, weight2, _ = inputs = ctx.saved_tensors
        grad_x, grad_weights = needs_grad(ctx, 0), needs_any_grad(ctx, 1)
        kernels = kernels_for("auto", grad, *inputs)
        if not torch.is_grad_enabled() and kernels is not None:
            chosen = {"grad_x": grad_x, "grad_weights": grad_weights}
            return kernels.mlp_backward(grad, x, weight1, weight2, *ctx.kept, **chosen)
        if grad_x and not grad_weights:  # for forces
            slope = torch.sigmoid(F.linear(x, weight1, bias1))
            return (grad @ weight2 * slope) @ weight1, None, None, None, None
        return tuple(gradients_of(_composition, inputs, grad))
