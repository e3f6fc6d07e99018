"""Energies and their gradients without autograd."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class EnergyGradients(NamedTuple):
    """Energies and their gradients, as a model may know them without autograd; U is its unit of energy.

    Attributes:
        energy: Energies in U, shape ``[B]``.
        grad_pos: Gradient with respect to positions in U/Å, shape ``[N, 3]``; ``None`` where not asked for.
        grad_strain: Gradient with respect to a strain of each structure in U, shape ``[B, 3, 3]``; ``None`` where not
            asked for.
    """

    energy: Tensor
    grad_pos: Tensor | None
    grad_strain: Tensor | None
