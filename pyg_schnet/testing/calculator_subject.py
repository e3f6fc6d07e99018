"""Calculators of ASE as subjects of an audit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyg_schnet.testing.result import NotApplicable
from pyg_schnet.testing.structures import Case
from pyg_schnet.testing.subject import Subject, elements_of, length_of


class CalculatorSubject(Subject):
    """A calculator of ASE, in eV and Å; one object for all structures, as in a simulation.

    Args:
        calculator: The calculator; its results are those that are examined.
        cutoff: Cutoff in Å, where it does not say so itself.
    """

    unit = "eV"

    def __init__(self, calculator: Any, unit: str | None = None, cutoff: float | None = None) -> None:
        super().__init__()
        if unit not in (None, "eV"):
            raise ValueError(f"calculators of ASE give eV, got unit={unit!r}; leave it out")
        self.calculator = calculator
        self.name = f"{type(calculator).__name__} (ASE)"
        members = list(getattr(getattr(calculator, "members", None), "models", ()))
        cutoffs = [length_of(getattr(model, "cutoff", None)) for model in (calculator, *members)]
        self.cutoff = cutoff or max((value for value in cutoffs if value is not None), default=None)
        dtype = getattr(calculator, "dtype", None)
        self.dtype = dtype if dtype in (torch.float32, torch.float64) else torch.float64
        stated = [elements_of(getattr(model, "card", {})) for model in members]
        known = [set(elements) for elements in stated if elements is not None]
        self.elements = sorted(set.intersection(*known)) if known else None

    def energies(self, cases: Sequence[Case], dtype: torch.dtype | None = None) -> Tensor:
        """Energies ``[B]``, one structure after the other."""
        self._only_own(dtype)
        return torch.tensor([self._ask(case, "get_potential_energy")[0] for case in cases], dtype=torch.float64)

    def forces(self, case: Case, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Energy and forces ``[N, 3]`` of a structure."""
        self._only_own(dtype)
        forces, energy = self._ask(case, "get_forces", "get_potential_energy")
        return torch.tensor(energy, dtype=torch.float64), torch.as_tensor(forces, dtype=torch.float64)

    def stress(self, case: Case) -> Tensor:
        """Stress ``[3, 3]`` of a structure that is periodic in three directions."""
        return torch.as_tensor(self._ask(case, "get_stress", voigt=False)[0], dtype=torch.float64)

    def _ask(self, case: Case, *what: str, **options: Any) -> list[Any]:
        """Results of the methods of ``ase.Atoms`` with these names."""
        atoms = case.to_atoms()
        atoms.calc = self.calculator
        try:
            return [getattr(atoms, name)(**options) for name in what]
        except NotImplementedError as error:
            reason = str(error) or f"it has no {what[0].removeprefix('get_')}"
            raise NotApplicable(f"{type(self.calculator).__name__}: {reason}") from error

    def _only_own(self, dtype: torch.dtype | None) -> None:
        if dtype not in (None, self.dtype):
            raise NotApplicable("the precision of a calculator is its own")
