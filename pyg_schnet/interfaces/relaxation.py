"""Relaxation of many structures at once, by the fast inertial relaxation engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from pyg_schnet.interfaces.ase_properties import register
from pyg_schnet.interfaces.batch import BatchCalculator
from pyg_schnet.interfaces.dynamics.limits import Limits, StateCheck
from pyg_schnet.interfaces.dynamics.relaxation import Relaxed

_LONGEST = 0.2  # Å, of a step of a whole structure

register()  # standard deviations of ensembles are among the results of calculators


def relax_batch(
    structures: Sequence[Atoms],
    calculator: BatchCalculator,
    *,
    fmax: float = 0.05,
    steps: int = 500,
    limits: Limits | None = None,
    ended: Callable[[], bool] = lambda: False,
) -> list[Relaxed]:
    r"""Move the atoms of each structure to a minimum of its energy; all that have not arrived are evaluated together.

    Each structure follows the path of ASE's ``FIRE`` by itself, eq. (1) of `Bitzek et al. (2006)
    <https://doi.org/10.1103/PhysRevLett.97.170201>`_ with its parameters,

    .. math:: \mathbf{v} \leftarrow (1 - \alpha)\,\mathbf{v} + \alpha\,|\mathbf{v}|\,\hat{\mathbf{F}}

    while :math:`\mathbf{F} \cdot \mathbf{v} > 0`, and stops where it does not. Constraints of ASE are kept. Cells do
    not change. One that is given up, or cannot be evaluated any more, does not stop the others.

    Args:
        structures: Structures; their positions change, and their calculators hold the last results.
        calculator: Evaluates them.
        fmax: Largest force on an atom in eV/Å with which a structure has arrived.
        steps: Largest number of steps.
        limits: When to give one up; a temperature does not matter.
        ended: Asked after each step whether to stop there.

    Returns:
        How the relaxation of each structure has ended. One that was given up is in its last good state.

    Raises:
        ValueError: If ``fmax`` is not positive, or the calculator refuses a structure as it is given.

    Example:
        >>> from ase.build import molecule
        >>> from pyg_schnet import SchNet
        >>> calculator = BatchCalculator(SchNet(16, 16, 2, 20, 5.0), unit="eV")
        >>> [one.steps for one in relax_batch([molecule("H2O"), molecule("CH4")], calculator, fmax=10.0)]
        [0, 0]
    """
    if not 0.0 < fmax < math.inf:
        raise ValueError(f"fmax must be a positive force in eV/Å, got {fmax!r}")
    if steps < 0:
        raise ValueError(f"steps must be a number of steps, got {steps}")
    limits, domains = limits or Limits(), calculator.check.domains
    runs = [_Run(atoms, StateCheck(limits, domains)) for atoms in structures]
    moving = runs
    while moving:
        for run, found in zip(moving, _evaluate(moving, calculator), strict=True):
            run.take(found, fmax)
        moving = [run for run in moving if not run.is_over and run.number < steps]
        if ended():
            break
        for run in moving:
            run.move()
    return [run.ending() for run in runs]


class _Run:
    """One structure with its velocity and step, in units where masses are 1, as in ASE's ``FIRE``."""

    def __init__(self, atoms: Atoms, check: StateCheck) -> None:
        self.atoms, self.check = atoms, check
        self.velocity: np.ndarray | None = None
        self.step, self.mixing, self.downhill, self.number = 0.1, 0.1, 0, 0
        self.is_over = False
        self.problem: str | None = None
        self.forces = np.zeros((len(atoms), 3))  # in eV/Å, without what constraints hold
        self.good: tuple[np.ndarray, dict[str, Any]] | None = None
        self.good_number, self.fmax, self.flagged = 0, math.inf, False

    def take(self, found: dict[str, Any] | str, fmax: float) -> None:
        """Results of the structure where it is now, or why there are none."""
        atoms = self.atoms
        if isinstance(found, str):
            self.problem = f"the model cannot be evaluated: {found}"
        else:
            atoms.calc = SinglePointCalculator(atoms, **found)
            self.problem = self.check.forces(atoms, found["forces"]) or self.check.distances(atoms)
        if self.problem is not None and self.good is not None:
            positions, found = self.good
            atoms.set_positions(positions, apply_constraint=False)
            atoms.calc = SinglePointCalculator(atoms, **found)
        assert not isinstance(found, str)  # the calculator refuses what cannot be evaluated as it is given
        self.forces = _constrained(atoms, found["forces"])
        self.fmax = float(np.linalg.norm(self.forces, axis=1).max())
        self.is_over = self.problem is not None or self.fmax < fmax
        if self.problem is None:
            self.good, self.good_number = (atoms.get_positions(), found), self.number
            self.flagged = self.check.flagged is not None

    def move(self) -> None:
        """Take a step along the forces."""
        forces = self.forces
        if self.velocity is None:
            self.velocity = np.zeros_like(forces)
        elif np.vdot(forces, self.velocity) > 0.0:
            along = forces / np.linalg.norm(forces) * np.linalg.norm(self.velocity)
            self.velocity = (1.0 - self.mixing) * self.velocity + self.mixing * along
            if self.downhill > 5:
                self.step, self.mixing = min(1.1 * self.step, 1.0), 0.99 * self.mixing
            self.downhill += 1
        else:
            self.velocity = np.zeros_like(forces)
            self.step, self.mixing, self.downhill = 0.5 * self.step, 0.1, 0
        self.velocity = self.velocity + self.step * forces
        moved = self.step * self.velocity
        self.number += 1
        moved *= min(1.0, _LONGEST / max(float(np.linalg.norm(moved)), 1e-300))
        self.atoms.set_positions(self.atoms.get_positions() + moved)

    def ending(self) -> Relaxed:
        """How the relaxation has ended."""
        converged = self.is_over and self.problem is None
        return Relaxed(converged, self.good_number, self.fmax, self.problem, self.flagged)


def _evaluate(runs: Sequence[_Run], calculator: BatchCalculator) -> list[dict[str, Any] | str]:
    """Results of all structures; for one that cannot be evaluated after it has moved the reason."""
    images = [run.atoms for run in runs]
    stress = ("stress",) if any(atoms.pbc.any() for atoms in images) else ()
    properties = ("energy", "forces", *stress)
    try:
        return [_of_lattice(one, atoms) for one, atoms in zip(calculator(images, properties), images, strict=True)]
    except (ArithmeticError, ValueError, np.linalg.LinAlgError) as error:
        if not all(run.number for run in runs):
            raise
        if len(runs) == 1:
            return [str(error)]
    return [found for run in runs for found in _evaluate([run], calculator)]


def _of_lattice(results: dict[str, Any], atoms: Atoms) -> dict[str, Any]:
    """Results of a structure, without the stress where nothing is periodic."""
    return results if atoms.pbc.any() else {k: v for k, v in results.items() if not k.startswith("stress")}


def _constrained(atoms: Atoms, forces: np.ndarray) -> np.ndarray:
    """Forces without what constraints of ASE hold."""
    forces = forces.copy()
    constraints: Any = atoms.constraints
    for constraint in constraints:
        constraint.adjust_forces(atoms, forces)
    return forces
