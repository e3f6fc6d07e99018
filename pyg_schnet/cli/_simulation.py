"""Dynamics and relaxations as commands: files in, files and lines out."""

from __future__ import annotations

import hashlib
import signal
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from ase import Atoms

from pyg_schnet.cli._outputs import check_output
from pyg_schnet.data.ase_files import files_of, read_all
from pyg_schnet.interfaces import BatchCalculator, SchNetCalculator, relax_batch
from pyg_schnet.interfaces.dynamics import Files, Limits, Relaxed, Settings, relax, run_dynamics
from pyg_schnet.interfaces.dynamics.interruption import Interruption
from pyg_schnet.interfaces.dynamics.outputs import ENDINGS, frames_in
from pyg_schnet.interfaces.dynamics.progress import speed_of
from pyg_schnet.interfaces.dynamics.relaxation import relaxed_frame
from pyg_schnet.ops.checks import whole_number
from pyg_schnet.pretrained import find

UNPHYSICAL = 3
"""Exit status of a simulation that was stopped, and of relaxations that have not converged."""

_OF_SETTINGS = tuple(Settings.__dataclass_fields__)
_OF_LIMITS = tuple(Limits.__dataclass_fields__)


def run_md(
    structure: str, model: str | list[str], steps: int | None, picoseconds: float | None, output: str, resume: bool,
    untrained_forces: bool, dtype: str, device: str, threads: int | None, **options: Any,
) -> None:  # fmt: skip
    """Run dynamics; for the arguments see :func:`pyg_schnet.cli.md.run_md`."""
    settings = Settings(**{name: options[name] for name in _OF_SETTINGS})
    limits = Limits(**{name: options[name] for name in _OF_LIMITS})
    if (steps is None) == (picoseconds is None):
        raise ValueError("give the length of the simulation, by either --steps or --picoseconds")
    total = settings.steps_of(picoseconds) if steps is None else steps  # type: ignore[arg-type]  # one is given
    models = [model] if isinstance(model, str) else model
    inputs = [*map(find, models), *files_of(structure)]
    files = Files.beside(check_output(output, inputs, ENDINGS))
    for path in files[1:]:
        check_output(path, inputs)
    atoms = next(found for _, found in read_all(structure, 0, None))
    atoms.calc = _calculator(models, untrained_forces, dtype, device, threads)
    print(f"{atoms.get_chemical_formula()}, {_in_words(settings)}; {total:,} steps of {settings.timestep:g} fs")
    found = run_dynamics(
        atoms, total, output, settings, limits=limits, model=_hash_of(models), resume=resume, progress=True
    )
    time = found.step * settings.timestep / 1000
    done = found.step - found.first
    print(f"{found.step:,} steps, {time:.6g} ps; {speed_of(done, found.seconds, settings.timestep)}", flush=True)
    print(f"trajectory in {files.trajectory}, log in {files.log}, checkpoint in {files.checkpoint}", flush=True)
    if found.flagged:
        print(f"in {found.flagged:,} steps the models differed by more than {limits.max_spread:g} eV/Å", flush=True)
    if found.problem is not None:
        print(
            f"pyg-schnet md: stopped at {found.problem}; the last good state is in {files.last_good}", file=sys.stderr
        )
        sys.exit(UNPHYSICAL)
    if found.received is not None:
        name = signal.Signals(found.received).name
        print(f"pyg-schnet md: {name} after step {found.step:,}; go on with --resume", file=sys.stderr)
        sys.exit(128 + found.received)


def relax_file(
    structures: str, model: str | list[str], output: str, batch: int, max_force: float, min_distance: float,
    untrained_forces: bool, dtype: str, device: str, threads: int | None, **options: Any,
) -> None:  # fmt: skip
    """Relax structures; for the arguments see :func:`pyg_schnet.cli.relax.relax_file`."""
    options["limits"] = Limits(max_force=max_force, min_distance=min_distance)
    whole_number(batch, "batch")
    if batch > 1 and (options["cell"] or options["optimizer"] != "fire"):
        raise ValueError(
            f"--batch {batch} moves atoms by fire; leave out --cell and --optimizer, or --batch, which relaxes one "
            "structure after the other"
        )
    models = [model] if isinstance(model, str) else model
    path = check_output(output, [*map(find, models), *files_of(structures)], ENDINGS)
    kind = BatchCalculator if batch > 1 else SchNetCalculator
    calculator = _calculator(models, untrained_forces, dtype, device, threads, kind)
    out, converged, count = None, 0, 0
    with Interruption() as interruption:
        options["ended"] = lambda: interruption.received is not None
        source = read_all(structures, ":", None)
        relaxed = (
            _together(source, calculator, batch, options) if batch > 1 else _one_by_one(source, calculator, options)
        )
        try:
            for atoms, found in relaxed:
                if out is None:  # an older file stays until there is something to write
                    path.parent.mkdir(parents=True, exist_ok=True)
                    out = frames_in(path)
                    print(f"{'structure':>9}  {'formula':<16}  {'steps':>6}  {'energy [eV]':>16}  {'fmax [eV/Å]':>11}")
                frame = relaxed_frame(atoms, found)
                out.write(frame)
                said = found.problem or ("" if found.converged else "not converged")
                print(
                    f"{count:>9}  {atoms.get_chemical_formula():<16}  {found.steps:>6}  "
                    f"{frame.get_potential_energy():>16.6f}  {found.fmax:>11.4f}  {said}".rstrip(),
                    flush=True,
                )
                count, converged = count + 1, converged + found.converged
        finally:
            if out is not None:
                out.close()
    print(f"{converged:,} of {count:,} structures converged; written to {output}", flush=True)
    if interruption.received is not None:
        sys.exit(128 + interruption.received)
    if converged < count:
        sys.exit(UNPHYSICAL)


def _one_by_one(
    source: Iterator[tuple[str, Atoms]], calculator: SchNetCalculator, options: dict[str, Any]
) -> Iterator[tuple[Atoms, Relaxed]]:
    """Structures with how their relaxation has ended, until it is told to end."""
    for where, atoms in source:
        atoms.calc = calculator
        try:
            found = relax(atoms, **options)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        yield atoms, found
        if options["ended"]():
            return


def _together(
    source: Iterator[tuple[str, Atoms]], calculator: BatchCalculator, batch: int, options: dict[str, Any]
) -> Iterator[tuple[Atoms, Relaxed]]:
    """The same for as many structures at a time as there are in a batch."""
    options = {name: options[name] for name in ("fmax", "steps", "limits", "ended")}
    while (group := list(islice(source, batch))) and not options["ended"]():
        images = [atoms for _, atoms in group]
        try:
            found = relax_batch(images, calculator, **options)
        except ValueError as error:
            raise ValueError(f"{_refused(group, calculator)}: {error}") from error
        yield from zip(images, found, strict=True)


def _refused(group: list[tuple[str, Atoms]], calculator: BatchCalculator) -> str:
    """Which structure a calculator refuses, in words."""
    for where, atoms in group:
        try:
            calculator([atoms])
        except ValueError:
            return where
    return f"{group[0][0]} to {group[-1][0]}"


def _calculator(
    models: list[str],
    untrained_forces: bool,
    dtype: str,
    device: str,
    threads: int | None,
    kind: Any = SchNetCalculator,
) -> Any:
    """Calculator of one or several models."""
    if threads is not None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        torch.set_num_threads(threads)
    return kind(
        models if len(models) != 1 else models[0],
        dtype=getattr(torch, dtype),
        device=device,
        untrained_forces=untrained_forces,
    )


def _hash_of(models: list[str]) -> str:
    """What tells models from others: the SHA-256 of their files."""
    return " ".join(hashlib.sha256(Path(find(one)).read_bytes()).hexdigest() for one in models)


def _in_words(settings: Settings) -> str:
    """Ensemble in words.

    Example:
        >>> _in_words(Settings("npt", temperature=300.0, pressure=1.0))
        'npt at 300 K and 1 GPa'
    """
    words = settings.ensemble + (f" at {settings.temperature:g} K" if settings.ensemble != "nve" else "")
    return words + (f" and {settings.pressure:g} GPa" if settings.ensemble.startswith("npt") else "")
