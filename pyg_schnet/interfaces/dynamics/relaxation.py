"""Relaxation of atoms, and of their cell, to where there are no forces."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator

from pyg_schnet.data.extxyz import writable
from pyg_schnet.interfaces.dynamics.limits import Limits, StateCheck

Optimizer = Literal["fire", "bfgs", "lbfgs", "bfgs-line-search"]
"""Robust and cheap; few steps for small structures; few steps for large ones; few steps without overshooting."""


@dataclass(frozen=True)
class Relaxed:
    """How a relaxation has ended; the structure itself is in the state it has ended in.

    Attributes:
        converged: Whether all forces, and where the cell is free those on it, are below the threshold.
        steps: Steps taken.
        fmax: Largest force in eV/Å.
        problem: What was not physical; ``None`` where nothing was. The structure is then in the last good state.
        beyond_max_spread: Whether the models differ by more than ``Limits.max_spread`` in the state it has ended in,
            where this is only noted (``spread_action="flag"``).
    """

    converged: bool
    steps: int
    fmax: float
    problem: str | None = None
    beyond_max_spread: bool = False


def relax(
    atoms: Atoms,
    *,
    fmax: float = 0.05,
    steps: int = 500,
    optimizer: Optimizer = "fire",
    cell: bool = False,
    pressure: float = 0.0,
    limits: Limits | None = None,
    ended: Callable[[], bool] = lambda: False,
) -> Relaxed:
    r"""Move atoms, and where requested the cell, to a minimum of the energy, or of the enthalpy under a pressure.

    .. math:: \max_i |\mathbf F_i| < f_\mathrm{max}

    The cell moves by the logarithm of its deformation (ASE's ``FrechetCellFilter``), along the same path whatever the
    size of the cell. Constraints of the structure are kept.

    Args:
        atoms: Structure with a calculator; it is moved.
        fmax: Threshold of the forces in eV/Å.
        steps: Largest number of steps.
        optimizer: See :data:`Optimizer`.
        cell: Whether the cell is free.
        pressure: On the cell in GPa.
        limits: When to give up; a temperature does not matter.
        ended: Asked after each step whether to stop there.

    Raises:
        ValueError: If an option is out of range, or the cell is to relax where it is not periodic in three directions.

    Example:
        >>> from ase.build import bulk
        >>> from ase.calculators.emt import EMT
        >>> copper = bulk("Cu", a=3.7)
        >>> copper.calc = EMT()
        >>> relax(copper, cell=True, fmax=0.01).converged, round(float(2 * copper.cell[0, 1]), 2)
        (True, 3.59)
    """
    if not 0.0 < fmax < math.inf:
        raise ValueError(f"fmax must be a positive force in eV/Å, got {fmax}")
    if steps < 0:
        raise ValueError(f"steps must be a number of steps, got {steps}")
    if cell and not atoms.pbc.all():
        raise ValueError(
            f"a cell relaxes where it is periodic in three directions, got pbc={atoms.pbc.tolist()}; leave out --cell"
        )
    check = StateCheck(limits or Limits(), getattr(getattr(atoms.calc, "check", None), "domains", ()))
    target = _with_cell(atoms, pressure) if cell else atoms
    run = _optimizer(optimizer)(target, logfile=None)
    good, taken, flagged, problem = atoms.copy(), 0, False, None
    try:
        for _ in run.irun(fmax=fmax, steps=steps):
            if problem := check.forces(atoms, atoms.get_forces(apply_constraint=False)) or check.distances(atoms):
                break
            good, taken, flagged = atoms.copy(), run.get_number_of_steps(), check.flagged is not None
            if ended():
                break
    except (ArithmeticError, np.linalg.LinAlgError) as error:
        problem = f"the model cannot be evaluated: {error}"
    if problem is not None:
        atoms.set_cell(good.cell, scale_atoms=False)
        atoms.set_positions(good.get_positions(), apply_constraint=False)
    largest = float(np.linalg.norm(target.get_forces(), axis=1).max())
    return Relaxed(problem is None and largest < fmax, taken, largest, problem, flagged)


def relaxed_frame(atoms: Atoms, found: Relaxed) -> Atoms:
    """A relaxed structure as it is written: with all that it came with, except for labels of where it was.

    Args:
        atoms: Structure that was relaxed, with its calculator.
        found: How it has ended.

    Returns:
        A copy with energy, forces and, where there is one, stress as results of a calculator, and ``converged``,
        ``relaxation_steps``, ``fmax`` and, where they hold, ``problem`` and ``beyond_max_spread`` in ``info``.
    """
    frame = writable(atoms.copy())  # which has no calculator
    atoms.get_potential_energy()
    names = ("energy", "forces", "stress")
    frame.calc = SinglePointCalculator(frame, **{k: atoms.calc.results[k] for k in names if k in atoms.calc.results})
    frame.info.update(converged=found.converged, relaxation_steps=found.steps, fmax=found.fmax)
    if found.problem is not None:
        frame.info["problem"] = found.problem
    if found.beyond_max_spread:
        frame.info["beyond_max_spread"] = True
    return frame


def _with_cell(atoms: Atoms, pressure: float) -> Any:
    from ase.filters import FrechetCellFilter

    return FrechetCellFilter(atoms, scalar_pressure=pressure * units.GPa)


def _optimizer(name: Optimizer) -> Any:
    from ase import optimize

    classes = {"fire": "FIRE", "bfgs": "BFGS", "lbfgs": "LBFGS", "bfgs-line-search": "BFGSLineSearch"}
    if name not in classes:
        raise ValueError(f"optimizer must be one of {', '.join(get_args(Optimizer))}, got {name!r}")
    return getattr(optimize, classes[name])
