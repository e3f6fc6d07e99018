"""Cutoff windows: the weight of a neighbour at a given distance."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pyg_schnet.ops.checks import positive_length
from pyg_schnet.ops.modules import registered


def cosine_cutoff(dist: Tensor, cutoff: float) -> Tensor:
    r"""Cosine window, eq. (15) of `Schütt et al. (2020) <https://arxiv.org/abs/1812.04690>`_.

    .. math::
        f(d) = \begin{cases} \tfrac{1}{2} \left(\cos(\pi d / r_c) + 1\right) & d < r_c \\ 0 & d \ge r_c \end{cases}

    Value and slope are zero from the cutoff on; the cosine itself would rise again beyond it.

    Args:
        dist: Distances in Å, any shape.
        cutoff: Cutoff :math:`r_c` in Å.

    Returns:
        Dimensionless weights between 0 and 1, shape of ``dist``.

    Example:
        >>> cosine_cutoff(torch.tensor([0.0, 2.5, 5.0, 10.0]), cutoff=5.0)
        tensor([1.0000, 0.5000, 0.0000, 0.0000])
    """
    window = 0.5 * (torch.cos(math.pi * dist / cutoff) + 1.0)
    return torch.where(dist < cutoff, window, 0.0)


def hard_cutoff(dist: Tensor, cutoff: float) -> Tensor:
    """Step window: 1 below the cutoff, 0 from it on.

    Energies jump when an atom crosses the cutoff, which forces do not show; use :func:`cosine_cutoff` for dynamics. A
    cutoff larger than every structure gives the model without cutoff.

    Args:
        dist: Distances in Å, any shape.
        cutoff: Cutoff in Å.

    Returns:
        Dimensionless weights, 0 or 1, shape and dtype of ``dist``.

    Example:
        >>> hard_cutoff(torch.tensor([0.0, 4.9, 5.0]), cutoff=5.0)
        tensor([1., 1., 0.])
    """
    return (dist < cutoff).to(dist.dtype)


class _Cutoff(nn.Module):
    """Holds the cutoff in Å; the window functions above are the equations."""

    vanishes: bool  # whether value and slope are zero at the cutoff

    def __init__(self, cutoff: float) -> None:
        super().__init__()
        self.cutoff = positive_length(cutoff)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.cutoff} Å)"


@registered()
class CosineCutoff(_Cutoff):
    """Cosine window, eq. (15), as a module; see :func:`cosine_cutoff`.

    Args:
        cutoff: Cutoff in Å.

    Raises:
        ValueError: If ``cutoff`` is not positive and finite.
    """

    vanishes = True

    def forward(self, dist: Tensor) -> Tensor:
        """Weights for ``dist`` [Å], same shape."""
        return cosine_cutoff(dist, self.cutoff)


@registered()
class HardCutoff(_Cutoff):
    """Step window as a module; see ``hard_cutoff``.

    Args:
        cutoff: Cutoff in Å.

    Raises:
        ValueError: If ``cutoff`` is not positive and finite.
    """

    vanishes = False

    def forward(self, dist: Tensor) -> Tensor:
        """Weights for ``dist`` [Å], same shape."""
        return hard_cutoff(dist, self.cutoff)
