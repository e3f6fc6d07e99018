"""One face for all that is audited: energies and derivatives of structures."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from pyg_schnet.testing.result import NotApplicable
from pyg_schnet.testing.structures import Case, displaced

Kind = Literal["sum", "mean", "intensive", "other"]
"""How outputs grow with the structure: with its atoms, as means that are multiplied by them, not at all, or neither."""

REACH = 5.0
"""Length in Å over which forces count in the scale of energies, where the cutoff is not known."""


class Subject:
    """What is audited, with energies and derivatives in float64, whatever it computes in.

    Attributes:
        name: What the report calls it.
        unit: Unit of its energies, ``"U"`` where it is not known.
        kind: See :data:`Kind`; means are multiplied by the number of atoms.
        cutoff: Cutoff in Å; ``None`` where it is not known.
        elements: Atomic numbers that it knows; ``None`` for all.
        dtype: Precision of the examined calculation.
        notes: What else the report has to say.
        takes_cells: Whether it takes periodic structures.
    """

    name: str
    unit: str = "U"
    kind: Kind = "sum"
    cutoff: float | None = None
    elements: Sequence[int] | None = None
    dtype: torch.dtype = torch.float64
    takes_cells: bool = True

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._known: dict[int, tuple[Case, Tensor, Tensor]] = {}
        self._calm: dict[int, float] = {}  # scale for each atom of displaced structures

    def energies(self, cases: Sequence[Case], dtype: torch.dtype | None = None) -> Tensor:
        """Energies ``[B]`` of structures in one call, detached."""
        raise NotImplementedError

    def forces(self, case: Case, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Energy and forces ``[N, 3]`` of a structure, as its users get them."""
        raise NotImplementedError

    def stress(self, case: Case) -> Tensor:
        """Stress ``[3, 3]`` of a structure that is periodic in three directions."""
        raise NotImplementedError

    def with_edges(self, case: Case, cutoff: float) -> Tensor:
        """Energy with all pairs closer than ``cutoff`` as edges."""
        raise NotApplicable("it takes no edges")

    def gradients_across(self, cases: Sequence[Case]) -> list[float]:
        """For each structure of a batch, the largest gradient of its energy at atoms of the others."""
        raise NotApplicable("it takes one structure at a time")

    def curvature(self, case: Case) -> Tensor:
        """Gradient of a sum over forces, as training on forces needs it, ``[N, 3]``."""
        raise NotApplicable("it has no second derivatives")

    @property
    def eps(self) -> float:
        """Relative rounding of the precision."""
        return torch.finfo(self.dtype).eps

    def known(self, case: Case) -> tuple[Tensor, Tensor]:
        """Energy and forces of a structure, computed once."""
        if id(case) not in self._known:
            self._known[id(case)] = (case, *self.forces(case))  # the case is kept, so that its id stays taken
        return self._known[id(case)][1:]

    def scale(self, case: Case) -> float:
        r"""How strongly an energy answers to relative changes of the numbers that it is made of, in its unit.

        .. math:: S = |E| + \sum_i |\mathbf{F}_i|\, r_\mathrm{cut}

        and at least as much for each atom as in the calmest structure known, with atoms displaced by 0.1 Å: energies
        that are small by chance and forces that vanish by symmetry are not more exact than others. Rounding of relative
        size ε moves the energy by a multiple of ε S.
        """
        reach = self.cutoff or REACH
        energy, forces = self.known(case)
        if id(case) not in self._calm:
            other = displaced(case, reach)
            found, pull = (float(value) for value in _sizes(*self.forces(other), reach))
            # atoms out of reach say nothing of those within
            self._calm[id(case)] = (found + pull) / len(other.z) if pull > 0.01 * found else float("inf")
        calm = min((value for value in self._calm.values() if 0.0 < value < float("inf")), default=0.0)
        return max(float(sum(_sizes(energy, forces, reach))), len(case.z) * calm)


def _sizes(energy: Tensor, forces: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """Size of an energy, and of the work of forces along a length."""
    return energy.abs(), forces.norm(dim=1).sum() * reach


def elements_of(card: Any) -> list[int] | None:
    """Atomic numbers that a model was trained on, by its card."""
    from ase.data import atomic_numbers

    symbols = card.get("elements") if isinstance(card, dict) else None
    known = [atomic_numbers[one] for one in symbols if one in atomic_numbers] if isinstance(symbols, list) else []
    return known or None


def length_of(value: Any) -> float | None:
    """A cutoff that is a positive number; anything else is not known."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    is_length = isinstance(value, numbers.Real) and not isinstance(value, bool) and 0 < float(value) < float("inf")
    return float(value) if is_length else None
