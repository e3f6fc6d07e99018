"""Activations: the shifted softplus."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyg_schnet.ops import cpu_kernels, is_dense_cpu
from pyg_schnet.ops.dispatch import registered

_LN2 = math.log(2.0)


def shifted_softplus(x: Tensor) -> Tensor:
    r"""Softplus shifted to vanish at zero, eq. (11) of `Schütt et al. (2020) <https://arxiv.org/abs/1812.04690>`_.

    .. math:: \mathrm{ssp}(x) = \ln\left(\tfrac{1}{2} e^x + \tfrac{1}{2}\right)

    Infinitely often differentiable, so that energies built from it have smooth forces, and without overflow. On CPUs
    value and slope are computed together (:func:`pyg_schnet.backends.numba.shifted_softplus`). Elsewhere torch takes the
    linear asymptote :math:`x - \ln 2` above 20, which differs by less than 2.1e-9.

    Args:
        x: Dimensionless pre-activations, any shape.

    Returns:
        Activations, same shape; exactly zero at zero.

    Example:
        >>> shifted_softplus(torch.tensor([0.0, 1000.0]))
        tensor([  0.0000, 999.3068])
    """
    if not is_dense_cpu(x):
        return F.softplus(x) - _LN2
    if torch.is_grad_enabled() and x.requires_grad:
        return _ShiftedSoftplus.apply(x)
    return cpu_kernels().shifted_softplus(x)[0]


class _ShiftedSoftplus(torch.autograd.Function):
    """Value and slope in one pass over memory, the slope being the logistic function."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        value, slope = cpu_kernels().shifted_softplus(x)
        ctx.save_for_backward(x, slope)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * _slope_of(ctx)


class _Logistic(torch.autograd.Function):
    """The slope, known already, as a function of x: σ' = σ (1 - σ)."""

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


@registered()
class ShiftedSoftplus(nn.Module):
    """Module twin of :func:`shifted_softplus`; has no parameters."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply eq. (11) to ``x`` of any shape."""
        return shifted_softplus(x)
