"""Energies and forces of geometries by a method, with what is left out and why."""

from __future__ import annotations

import importlib
import os
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import CalculationFailed, CalculatorSetupError, ReadError
from ase.units import Bohr, Hartree

METHODS = ("GFN2-xTB", "GFN1-xTB", "IPEA1-xTB")
"""Methods of tblite, by their names."""

Evaluate = Callable[[np.ndarray], "tuple[float, np.ndarray]"]
"""Energy in eV and forces in eV/Å, ``[N, 3]``, at positions in Å, ``[N, 3]``."""


class FailedError(RuntimeError):
    """A geometry without a label; its text is the reason by which it is counted."""


class Tally:
    """Counts what was calculated, what was kept, and what was left out for which reason.

    Attributes:
        calls: Number of calculations.
        kept: Number of labels of each kind.
        left_out: Number of geometries that were left out, by reason.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.kept: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()

    def add(self, other: Mapping[str, Any]) -> None:
        """Add what :meth:`as_dict` gave."""
        self.calls += other["calls"]
        self.kept.update(other["kept"])
        self.left_out.update(other["left_out"])

    def as_dict(self) -> dict[str, Any]:
        """The counts as JSON can hold them."""
        return {
            "calls": self.calls,
            "kept": dict(sorted(self.kept.items())),
            "left_out": dict(sorted(self.left_out.items())),
        }


class Method:
    """How energies and forces are calculated: a method of tblite, or any calculator of ASE.

    Args:
        name: One of ``METHODS``, or the path of a class of ASE's calculators, such as
            ``"ase.calculators.emt.EMT"``.
        options: Arguments of the class; of a method of tblite those of ``tblite.interface.Calculator.set``,
            such as ``{"accuracy": 0.1}``.
        charge: Of each structure, for methods of tblite.

    Raises:
        ImportError: If the package of the method is not installed.
        ValueError: If there is no such method or class.

    Example:
        >>> from ase.build import molecule
        >>> water = molecule("H2O")
        >>> energy, forces = Method("ase.calculators.emt.EMT").of(water.numbers)(water.positions)
        >>> forces.shape
        (3, 3)
    """

    def __init__(self, name: str = "GFN2-xTB", options: Mapping[str, Any] | None = None, charge: int = 0) -> None:
        self.name, self.options, self.charge = name, dict(options or {}), charge
        if name in METHODS:
            os.environ.setdefault("OMP_NUM_THREADS", "1")  # a molecule is too small to be shared among threads
            try:
                self._interface, raised = (
                    importlib.import_module(f"tblite.{one}") for one in ("interface", "exceptions")
                )
            except ImportError as error:
                raise ImportError(f"{name} is calculated by tblite: pip install 'pyg_schnet[reference]'") from error
            self._failed = raised.TBLiteRuntimeError
            return
        module, _, of_module = name.rpartition(".")
        if not module:
            raise ValueError(f"method must be {', '.join(METHODS)} or the path of a calculator of ASE, got {name!r}")
        try:
            self._class = getattr(importlib.import_module(module), of_module)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"there is no calculator {name}: {error}") from error
        if charge:
            raise ValueError(f"charge={charge} is of the methods of tblite; give it to {name} by its options")

    def of(self, numbers: np.ndarray) -> Evaluate:
        """Calculator of one molecule, which begins with what it found for the geometry before.

        Args:
            numbers: Atomic numbers, shape ``[N]``.
        """
        if self.name in METHODS:
            return _XTB(self._interface.Calculator, self._failed, self.name, numbers, self.charge, self.options)
        return _OfASE(self._class(**self.options), numbers)


class _XTB:
    """Energy and forces of one molecule by tblite, without the detour by ASE, which takes as long for a small one."""

    def __init__(
        self, of_tblite: Any, failed: type[RuntimeError], method: str, numbers: np.ndarray, charge: int,
        options: Mapping[str, Any],
    ) -> None:  # fmt: skip
        self._class, self._failed, self._method, self._numbers = of_tblite, failed, method, np.asarray(numbers)
        self._electrons = {"charge": float(charge), "uhf": int(self._numbers.sum() - charge) % 2}
        self._options = {"accuracy": 1.0, **options}
        self._calculator: Any = None
        self._before: Any = None

    def __call__(self, positions: np.ndarray) -> tuple[float, np.ndarray]:
        """Energy and forces.

        Raises:
            FailedError: If the electrons have not converged, or atoms are at one place.
            ValueError: If no calculation of the molecule is possible, as there is no such element.
        """
        place = np.asarray(positions, dtype=float) / Bohr
        if self._calculator is None:
            self._calculator = self._made(place)
        try:
            self._calculator.update(place)
            found = self._calculator.singlepoint(self._before)
        except self._failed as error:  # and begin without the electrons that led there
            self._calculator = self._before = None
            raise FailedError("the electrons have not converged") from error
        self._before = found
        return float(found.get("energy")) * Hartree, -np.asarray(found.get("gradient")) * (Hartree / Bohr)

    def _made(self, place: np.ndarray) -> Any:
        distance = np.linalg.norm(place[:, None] - place, axis=-1)
        if distance[np.triu_indices(len(place), k=1)].min(initial=1.0) == 0.0:
            raise FailedError("atoms are at one place")
        try:
            made = self._class(self._method, self._numbers, place, **self._electrons)
            for name, value in {"verbosity": 0, **self._options}.items():
                made.set(name, value)
        except self._failed as error:
            raise _impossible(self._method, self._numbers, error) from error
        return made


class _OfASE:
    """Energy and forces of one molecule by a calculator of ASE."""

    def __init__(self, calculator: Any, numbers: np.ndarray) -> None:
        self._atoms = Atoms(numbers, calculator=calculator)

    def __call__(self, positions: np.ndarray) -> tuple[float, np.ndarray]:
        """Energy and forces.

        Raises:
            FailedError: If the calculation fails, as one that does not converge.
            ValueError: If no calculation of the molecule is possible, as the calculator does not know an element.
        """
        self._atoms.positions = positions
        try:
            return float(self._atoms.get_potential_energy()), np.array(self._atoms.get_forces())
        except (CalculationFailed, ReadError) as error:
            raise FailedError("the calculator failed") from error
        except (CalculatorSetupError, NotImplementedError) as error:
            raise _impossible(type(self._atoms.calc).__name__, self._atoms.numbers, error) from error


def _impossible(method: str, numbers: np.ndarray, error: Exception) -> ValueError:
    """What to say of a method that cannot calculate a molecule, whatever its geometry."""
    formula = Atoms(numbers).get_chemical_formula()
    return ValueError(f"{method} cannot calculate {formula}: {error}; leave it out, or choose another method")


def checked(energy: float, forces: np.ndarray, max_force: float) -> None:
    """Raise for results that teach nothing.

    Args:
        energy: In eV.
        forces: In eV/Å, shape ``[N, 3]``.
        max_force: Largest length of a force in eV/Å.

    Raises:
        FailedError: If a number is not finite, or a force is too large.
    """
    if not (np.isfinite(energy) and np.isfinite(forces).all()):
        raise FailedError("energy or forces are not finite")
    if np.square(forces).sum(1).max() > max_force**2:
        raise FailedError(f"a force is above {max_force:g} eV/Å")
