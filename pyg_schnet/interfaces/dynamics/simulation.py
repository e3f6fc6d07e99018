"""Molecular dynamics that can be interrupted at any moment and go on to the last bit."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms, units

from pyg_schnet.interfaces.dynamics.checkpoint import Checkpoint
from pyg_schnet.interfaces.dynamics.integrators import (
    check_supported,
    conserved_energy,
    conserves_momentum,
    integrator_of,
    restore,
    state_of,
)
from pyg_schnet.interfaces.dynamics.interruption import Interruption
from pyg_schnet.interfaces.dynamics.limits import Limits, StateCheck
from pyg_schnet.interfaces.dynamics.outputs import Table, frame_of, frames_in, write_extended_xyz
from pyg_schnet.interfaces.dynamics.progress import StepProgress
from pyg_schnet.interfaces.dynamics.settings import Settings
from pyg_schnet.interfaces.dynamics.velocities import (
    degrees_of_freedom,
    draw_velocities,
    remove_drift,
    temperature_of,
)
from pyg_schnet.models.writing import written
from pyg_schnet.neighbors import VerletList

COLUMNS = (
    "step",
    "time [fs]",
    "potential energy [eV/atom]",
    "kinetic energy [eV/atom]",
    "total energy [eV/atom]",
    "conserved energy [eV/atom]",
    "temperature [K]",
    "pressure [GPa]",
    "volume [Å³]",
    "energy spread [eV/atom]",
    "largest force spread [eV/Å]",
)
"""Of the log; what a simulation does not have stays empty."""

_EVERY = 10  # steps between looks at the distances of large structures
_INTEGRATOR, _NEIGHBORS = "integrator.", "neighbors."


class Files(NamedTuple):
    """Files of a simulation.

    Attributes:
        trajectory: Frames.
        log: Table of energies and temperatures.
        checkpoint: To go on from.
        last_good: The last state within the limits, where a simulation is stopped for having left them.
    """

    trajectory: Path
    log: Path
    checkpoint: Path
    last_good: Path

    @classmethod
    def beside(cls, trajectory: str | Path) -> Files:
        """Files by the name of the trajectory.

        Example:
            >>> [path.name for path in Files.beside("md.traj")]
            ['md.traj', 'md.csv', 'md.checkpoint', 'md-last-good.xyz']
        """
        path = Path(trajectory)
        return cls(
            path,
            path.with_suffix(".csv"),
            path.with_suffix(".checkpoint"),
            path.with_name(f"{path.stem}-last-good.xyz"),
        )


@dataclass(frozen=True)
class Outcome:
    """How a simulation has ended.

    Attributes:
        step: Steps that the files have.
        seconds: Time that it took.
        first: Step that it began with.
        problem: What was not physical; ``None`` where nothing was.
        received: Number of the signal that has ended it; ``None`` where none has.
        flagged: Number of the steps after ``first`` whose spread was beyond its limit, where that is only noted.
    """

    step: int
    seconds: float
    first: int = 0
    problem: str | None = None
    received: int | None = None
    flagged: int = 0


def run_dynamics(
    atoms: Atoms,
    steps: int,
    output: str | Path,
    settings: Settings | None = None,
    *,
    limits: Limits | None = None,
    model: str = "",
    resume: bool = False,
    progress: bool = False,
) -> Outcome:
    """Run molecular dynamics, with trajectory, log and checkpoints.

    A run that is interrupted, by a signal or by the death of its process, and resumed leaves the same trajectory and
    log, byte for byte, as one that is not (on the same machine, with the same number of threads). A checkpoint has the
    state of the integrator and of the random numbers, the structure that the neighbour list was built for, so that
    sums over its edges keep their order, and the lengths of the files, which are cut back to them.

    Args:
        atoms: Structure with a calculator. Momenta that it has are kept unless ``settings.new_velocities``; chains of
            thermostats take its drift and rotation out of them. At the end it is in the last state.
        steps: Number of steps, with those before an interruption.
        output: Trajectory, ending in .xyz, .extxyz or .traj; the other files are named after it, see :class:`Files`.
        settings: Ensemble and its options.
        limits: When to stop; the training data of the models are those of ``atoms.calc``.
        model: What tells the model from others, to be compared when a run is resumed.
        resume: Whether to go on from the checkpoint.
        progress: Whether to show how far it is, on ``stderr``.

    Returns:
        How it has ended. A signal ends it after a step; so does a state outside the limits, the last good one is kept.

    Raises:
        ValueError: If the structure cannot be simulated, is outside the limits to begin with, a checkpoint is there and
            ``resume`` is not set, or the checkpoint is of another simulation.
        FileNotFoundError: If there is no checkpoint to resume.
        ImportError: If the installed ASE has no such ensemble.

    Example:
        >>> import tempfile
        >>> from ase.build import bulk
        >>> from ase.calculators.emt import EMT
        >>> atoms = bulk("Cu", cubic=True)
        >>> atoms.calc = EMT()
        >>> run_dynamics(atoms, 5, Path(tempfile.mkdtemp()) / "md.xyz", Settings("nve", timestep=2.0)).step
        5
    """
    if steps < 0:
        raise ValueError(f"steps must be a number of steps, got {steps}")
    settings, files = settings or Settings(), Files.beside(output)
    saved = Checkpoint.load(files.checkpoint) if resume else None
    if saved is None and files.checkpoint.exists():
        raise ValueError(
            f"there is a checkpoint {files.checkpoint} of an earlier run; go on from it with --resume, choose another "
            "--output, or remove it"
        )
    check_supported(atoms, settings)
    run = _Run(atoms, settings, files, limits or Limits(), model, saved)
    try:
        return run.until(steps, progress)
    finally:
        run.close()


class _State(NamedTuple):
    """A state within the limits."""

    step: int
    positions: np.ndarray
    momenta: np.ndarray
    cell: np.ndarray


class _Run:
    """A simulation and its files; arguments as of :func:`run_dynamics`."""

    def __init__(
        self, atoms: Atoms, settings: Settings, files: Files, limits: Limits, model: str, saved: Checkpoint | None
    ) -> None:
        self.atoms, self.settings, self.files, self.model = atoms, settings, files, model
        self.rng = np.random.default_rng(settings.seed)
        self.step, still = 0, conserves_momentum(settings)
        if saved is not None:
            _check_same(saved, settings, model, atoms, files.checkpoint)
            self.step, self.degrees = saved.step, saved.degrees
            self.rng.bit_generator.state = saved.random
            _set_state(atoms, saved.arrays)
        else:
            if settings.new_velocities or not atoms.has("momenta"):
                draw_velocities(atoms, settings.temperature, self.rng, still=still)
            elif settings.ensemble not in ("nve", "langevin"):
                remove_drift(atoms)
            self.degrees = degrees_of_freedom(atoms, still=still)
        domains = getattr(getattr(atoms.calc, "check", None), "domains", ())
        self.check = StateCheck(limits, domains, settings.temperature)
        self.with_stress = bool(atoms.pbc.all()) and "stress" in atoms.calc.implemented_properties
        self._observe()  # before anything is written: a model may refuse the structure
        if saved is None and (problem := self._problem(thorough=True)):
            raise ValueError(f"the structure to begin with is not physical: {problem}")
        self.integrator = integrator_of(atoms, settings, self.degrees, self.rng)
        if saved is not None:
            inner = {k.removeprefix(_INTEGRATOR): v for k, v in saved.arrays.items() if k.startswith(_INTEGRATOR)}
            restore(self.integrator, inner, saved.numbers)
        self.forces: np.ndarray | None = None  # of the last step, where the integrator takes them
        self.good, self.flagged = self._state(), 0
        files.trajectory.parent.mkdir(parents=True, exist_ok=True)
        noted: Mapping[str, Any] = {} if saved is None else saved.files
        self.trajectory = frames_in(files.trajectory, noted.get("trajectory"))
        try:
            self.log = Table(files.log, COLUMNS, noted.get("log"))
        except BaseException:
            self.trajectory.close()
            raise
        if saved is None:
            self._write()
            self._save()

    def close(self) -> None:
        """Close the files."""
        self.log.close()
        self.trajectory.close()

    def until(self, steps: int, progress: bool) -> Outcome:
        """Go on until so many steps are done, a signal comes, or the state is outside the limits."""
        first, begun = self.step, time.monotonic()
        shown = StepProgress(first, steps, self.settings.timestep, progress)
        problem, saved_at = None, self.step
        with Interruption() as interruption:
            try:
                while self.step < steps and interruption.received is None:
                    if problem := self._advance(last=self.step + 1 == steps):
                        break
                    shown(self.step)
                    if self.step % self.settings.checkpoint_interval == 0:
                        self._save()
                        saved_at = self.step
                if problem is None and saved_at != self.step:
                    self._save()
            finally:
                shown.close()
        if problem is not None:
            self._keep_good()
        seconds = time.monotonic() - begun
        return Outcome(self.step, seconds, first, problem, interruption.received, self.flagged)

    def _advance(self, last: bool) -> str | None:
        """One step; returns what is wrong with the state after it, of which nothing is written then."""
        step = self.step + 1
        try:
            if self.settings.ensemble in ("nve", "langevin"):
                self.forces = self.integrator.step(self.forces)
            else:
                self.integrator.step()
            due = [step % every == 0 for every in (self.settings.log_interval, self.settings.trajectory_interval)]
            thorough = (
                last or any(due) or step % _EVERY == 0 or step % self.settings.checkpoint_interval == 0
            ) or self.check.is_quick(self.atoms)
            problem = self._problem(thorough)
        except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:  # numbers that are not finite
            problem = f"the model cannot be evaluated: {error}"
        if problem is not None:
            return f"step {step:,}, {step * self.settings.timestep / 1000:.6g} ps: {problem}"
        self.step = step
        self.flagged += self.check.flagged is not None
        if thorough:
            self.good = self._state()
        self._write()
        return None

    def _state(self) -> _State:
        """The present state, as copies."""
        return _State(self.step, self.atoms.get_positions(), self.atoms.get_momenta(), self.atoms.cell.array.copy())

    def _keep_good(self) -> None:
        """Write the last state within the limits."""
        good, atoms = self.good, self.atoms.copy()
        atoms.info = {"step": good.step, "time_fs": good.step * self.settings.timestep}
        atoms.set_cell(good.cell, scale_atoms=False)
        atoms.set_positions(good.positions, apply_constraint=False)
        atoms.set_momenta(good.momenta, apply_constraint=False)
        with written(self.files.last_good) as partial:
            write_extended_xyz(partial, frame_of(atoms, **atoms.info))

    def _problem(self, thorough: bool) -> str | None:
        """What is wrong with the present state."""
        return (
            self.check.forces(self.atoms, self.atoms.calc.results["forces"])
            or self.check.temperature(temperature_of(self.atoms, self.degrees))
            or (self.check.distances(self.atoms) if thorough else None)
        )

    def _write(self) -> None:
        """Line and frame of this step, where they are due."""
        if self.step % self.settings.log_interval == 0:
            self.log.write([self.step, self.step * self.settings.timestep, *self._line()])
        if self.step % self.settings.trajectory_interval == 0:
            self._observe()
            time_fs = self.step * self.settings.timestep
            marks = {"beyond_max_spread": True} if self.check.flagged else {}
            self.trajectory.write(frame_of(self.atoms, step=self.step, time_fs=time_fs, **marks))

    def _observe(self) -> np.ndarray | None:
        """Have the calculator evaluate all that is written; returns the stress in eV/Å³ with that of motion."""
        self.atoms.get_potential_energy()
        stress = self.atoms.get_stress(voigt=False, include_ideal_gas=True) if self.with_stress else None
        self.atoms.get_forces()
        return stress

    def _line(self) -> list[float | None]:
        """Numbers of the log, without step and time."""
        stress = self._observe()
        size = len(self.atoms)
        potential, kinetic = self.atoms.get_potential_energy(), self.atoms.get_kinetic_energy()
        conserved = conserved_energy(self.integrator, potential + kinetic)
        results = getattr(self.atoms.calc, "results", {})
        spread, of_forces = results.get("energy_std"), results.get("forces_std")
        return [
            potential / size,
            kinetic / size,
            (potential + kinetic) / size,
            None if conserved is None else conserved / size,
            temperature_of(self.atoms, self.degrees),
            None if stress is None else -np.trace(stress) / 3 / units.GPa,
            self.atoms.get_volume() if self.atoms.cell.rank == 3 else None,
            None if spread is None else spread / size,
            None if of_forces is None else float(np.linalg.norm(of_forces, axis=1).max()),
        ]

    def _save(self) -> None:
        """Write the checkpoint, once trajectory and log are on the disk."""
        files = {"trajectory": self.trajectory.state(), "log": self.log.state()}
        arrays, numbers = state_of(self.integrator)
        arrays = {f"{_INTEGRATOR}{name}": value for name, value in arrays.items()}
        arrays |= {
            "positions": self.atoms.get_positions(),
            "momenta": self.atoms.get_momenta(),
            "cell": self.atoms.cell.array,
            "atomic_numbers": self.atoms.numbers,
        }
        neighbors = getattr(self.atoms.calc, "neighbors", None)
        if isinstance(neighbors, VerletList) and neighbors.built_for is not None:
            arrays |= {f"{_NEIGHBORS}{name}": value.cpu().numpy() for name, value in neighbors.built_for.items()}
        settings = self.settings.as_dict()
        random = dict(self.rng.bit_generator.state)
        Checkpoint(self.step, settings, self.model, self.degrees, random, numbers, files, arrays).save(
            self.files.checkpoint
        )


def _check_same(saved: Checkpoint, settings: Settings, model: str, atoms: Atoms, path: Path) -> None:
    """Raise unless a checkpoint is of this simulation.

    Raises:
        ValueError: If it is not; the message says where they differ.
    """
    given = settings.as_dict()
    differing = [f"{k} {saved.settings.get(k)} and not {v}" for k, v in given.items() if saved.settings.get(k) != v]
    if saved.model != model:
        differing.append("another model")
    if not np.array_equal(saved.arrays.get("atomic_numbers", ()), atoms.numbers):
        differing.append("other atoms")
    if differing:
        raise ValueError(
            f"{path} is of a simulation with {', '.join(differing)}; resume it with what it was begun with, or begin "
            "another one with another --output"
        )


def _set_state(atoms: Atoms, arrays: Mapping[str, np.ndarray]) -> None:
    """Put atoms where a checkpoint has them, with the neighbour list that they had there."""
    atoms.set_cell(arrays["cell"], scale_atoms=False)
    atoms.set_positions(arrays["positions"], apply_constraint=False)
    atoms.set_momenta(arrays["momenta"], apply_constraint=False)
    neighbors = getattr(atoms.calc, "neighbors", None)
    given = {k.removeprefix(_NEIGHBORS): v for k, v in arrays.items() if k.startswith(_NEIGHBORS)}
    if isinstance(neighbors, VerletList) and given:
        device = getattr(atoms.calc, "device", "cpu")
        neighbors(**{name: torch.from_numpy(value).to(device) for name, value in given.items()})
