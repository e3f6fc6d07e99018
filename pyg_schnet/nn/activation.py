"""Activations: the shifted softplus."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LN2 = math.log(2.0)


def shifted_softplus(x: Tensor) -> Tensor:
    r"""Softplus shifted to vanish at zero, eq. (11) of `Schütt et al. (2020) <https://arxiv.org/abs/1812.04690>`_.

    .. math:: \mathrm{ssp}(x) = \ln\left(\tfrac{1}{2} e^x + \tfrac{1}{2}\right)

    Infinitely often differentiable, so that energies built from it have smooth forces. It does not overflow: above 20
    torch takes the linear asymptote :math:`x - \ln 2`, which differs by less than 2.1e-9.

    Args:
        x: Dimensionless pre-activations, any shape.

    Returns:
        Activations, same shape; exactly zero at zero.

    Example:
        >>> shifted_softplus(torch.tensor([0.0, 1000.0]))
        tensor([  0.0000, 999.3068])
    """
    if torch.compiler.is_compiling():
        return F.softplus(x) - _LN2
    if torch.is_grad_enabled() and x.requires_grad:
        return _ShiftedSoftplus.apply(x)
    return F.softplus(x).sub_(_LN2)


class _ShiftedSoftplus(torch.autograd.Function):
    """The shift done in place, and derivatives by the logistic function: ssp' = σ, ssp'' = σ (1 - σ)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return F.softplus(x).sub_(_LN2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            return grad * torch.sigmoid(x)
        return torch.ops.aten.softplus_backward(grad, x, 1.0, 20.0)


class ShiftedSoftplus(nn.Module):
    """Module twin of :func:`shifted_softplus`; has no parameters."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply eq. (11) to ``x`` of any shape."""
        return shifted_softplus(x)
