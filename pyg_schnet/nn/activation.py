"""Activations: the shifted softplus."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn


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
        >>> import torch
        >>> shifted_softplus(torch.tensor([0.0, 1000.0]))
        tensor([  0.0000, 999.3068])
    """
    return F.softplus(x) - math.log(2.0)


class ShiftedSoftplus(nn.Module):
    """Module twin of :func:`shifted_softplus`; has no parameters."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply eq. (11) to ``x`` of any shape."""
        return shifted_softplus(x)
