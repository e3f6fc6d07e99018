"""Relaxation of many structures at once, by the fast inertial relaxation engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from pyg_schnet.interfaces.batch import BatchCalculator

_LONGEST = 0.2  # Å, of a step of a whole structure


class Relaxation(NamedTuple):
    """How a relaxation of many structures ended.

    Attributes:
        converged: Whether the largest force of each structure is below the limit, shape ``[B]``.
        n_steps: Number of steps of each structure, shape ``[B]``.
        n_evaluations: Number of evaluations of the model for all of them.
    """

    converged: np.ndarray
    n_steps: np.ndarray
    n_evaluations: int


@dataclass
class _Inertia:
    """Velocity and step of one structure, in units where masses are 1, as in ASE's ``FIRE``."""

    velocity: np.ndarray | None = None
    step: float = 0.1
    mixing: float = 0.1
    downhill: int = 0
    number: int = 0

    def move(self, forces: np.ndarray) -> np.ndarray:
        """Displacements in Å, shape ``[N, 3]``, for forces in eV/Å."""
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
        return moved * min(1.0, _LONGEST / max(float(np.linalg.norm(moved)), 1e-300))


def relax(
    structures: Sequence[Atoms], calculator: BatchCalculator, *, fmax: float = 0.05, steps: int = 500
) -> Relaxation:
    r"""Move the atoms of each structure to a minimum of its energy; all that have not arrived are evaluated together.

    Each structure follows the path of ASE's ``FIRE`` by itself, eq. (1) of `Bitzek et al. (2006)
    <https://doi.org/10.1103/PhysRevLett.97.170201>`_ with its parameters,

    .. math:: \mathbf{v} \leftarrow (1 - \alpha)\,\mathbf{v} + \alpha\,|\mathbf{v}|\,\hat{\mathbf{F}}

    while :math:`\mathbf{F} \cdot \mathbf{v} > 0`, and stops where it does not. Constraints of ASE are kept. Cells do
    not change.

    Args:
        structures: Structures; their positions change, and their calculators hold the last energy and forces.
        calculator: Evaluates them.
        fmax: Largest force on an atom in eV/Å with which a structure has arrived.
        steps: Largest number of steps.

    Returns:
        Which structures have arrived, and the number of steps.

    Raises:
        ValueError: If ``fmax`` is not positive, or the calculator refuses a structure.

    Example:
        >>> from ase.build import molecule
        >>> from pyg_schnet import SchNet
        >>> calculator = BatchCalculator(SchNet(16, 16, 2, 20, 5.0), unit="eV")
        >>> relax([molecule("H2O"), molecule("CH4")], calculator, fmax=10.0).n_steps.tolist()
        [0, 0]
    """
    if not fmax > 0:
        raise ValueError(f"fmax must be a positive force in eV/Å, got {fmax!r}")
    states = [_Inertia() for _ in structures]
    converged = np.zeros(len(structures), dtype=bool)
    before = calculator.n_evaluations
    moving = list(range(len(structures)))
    while moving:
        found = calculator([structures[k] for k in moving], ("energy", "forces"))
        left = []
        for k, results in zip(moving, found, strict=True):
            atoms = structures[k]
            forces = _constrained(atoms, results["forces"])
            atoms.calc = SinglePointCalculator(atoms, energy=results["energy"], forces=results["forces"])
            converged[k] = np.square(forces).sum(1).max() < fmax**2
            if not converged[k] and states[k].number < steps:
                atoms.set_positions(atoms.get_positions() + states[k].move(forces))
                left.append(k)
        moving = left
    n_steps = np.array([state.number for state in states], dtype=np.int64)
    return Relaxation(converged, n_steps, calculator.n_evaluations - before)


def _constrained(atoms: Atoms, forces: np.ndarray) -> np.ndarray:
    """Forces without what constraints of ASE hold."""
    forces = forces.copy()
    constraints: Any = atoms.constraints
    for constraint in constraints:
        constraint.adjust_forces(atoms, forces)
    return forces
