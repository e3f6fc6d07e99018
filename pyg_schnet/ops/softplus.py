"""The shifted softplus, value and slope in one pass over memory."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyg_schnet.ops.dispatch import Backend, kernels_for

_LN2 = math.log(2.0)
_LINEAR = 40.0  # torch's own threshold, 20, leaves an error of 2.1e-9


def shifted_softplus(x: Tensor, *, backend: Backend = "auto") -> Tensor:
    r"""Softplus shifted to vanish at zero, eq. (11) of `Schütt et al. (2020) <https://arxiv.org/abs/1812.04690>`_.

    .. math:: \mathrm{ssp}(x) = \ln\left(\tfrac{1}{2} e^x + \tfrac{1}{2}\right)

    Infinitely often differentiable, so that energies built from it have smooth forces, and without overflow. The
    composition takes torch's softplus, with the linear asymptote :math:`x - \ln 2` from where both round to the same.

    Args:
        x: Dimensionless pre-activations, any shape.
        backend: How it is computed, see :func:`pyg_schnet.ops.kernels_for`.

    Returns:
        Activations, same shape; exactly zero at zero.

    Example:
        >>> shifted_softplus(torch.tensor([0.0, 1000.0]))
        tensor([  0.0000, 999.3068])
    """
    kernels = kernels_for(backend, x, needs="shifted_softplus")
    if kernels is None or not x.is_floating_point():
        return F.softplus(x, threshold=_LINEAR) - _LN2
    if torch.is_grad_enabled() and x.requires_grad:
        return _ShiftedSoftplus.apply(x)
    return kernels.shifted_softplus(x)[0]


class _ShiftedSoftplus(torch.autograd.Function):
    """The slope is the logistic function."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        value, slope = kernels_for("numba", x).shifted_softplus(x)
        ctx.save_for_backward(x, slope)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * _slope_of(ctx)


class _Logistic(torch.autograd.Function):
    """The precomputed slope as a function of x, with σ' = σ (1 - σ)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        return slope.view_as(slope)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        slope = _slope_of(ctx)
        return grad * (slope - slope * slope), None


def _slope_of(ctx: Any) -> Tensor:
    x, slope = ctx.saved_tensors
    return _Logistic.apply(x, slope) if torch.is_grad_enabled() else slope
