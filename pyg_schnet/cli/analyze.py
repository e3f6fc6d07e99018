"""``pyg-schnet analyze``: analyses of :mod:`pyg_schnet.analysis` as commands that write arrays and a picture."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase
import numpy as np

import pyg_schnet  # whose rooms are imported when they are asked for
from pyg_schnet.cli._help import help_of_analyze
from pyg_schnet.cli._options import run_function
from pyg_schnet.cli._outputs import check_output
from pyg_schnet.cli._sentences import UsageError

_MOST_STEPS = 100_000_000  # of dynamics


def probe(structure: str, *, model: str, probe: str = "H", level: float = 3.8, output: str = "probe.npz") -> None:
    """Energy of a probe atom on a smooth surface around a structure: arrays, a picture, and an interactive page.

    Args:
        structure: File that ASE reads; its first structure is used.
        model: Model file, or the name of a pretrained model.
        probe: Chemical symbol of the probe.
        level: Level of the surface in Å⁻².
        output: File of the arrays, .npz; picture and page get the same name with .png and .html.
    """
    path = _check(output, (structure, model), (".npz",), more=(".png", ".html"))
    result = pyg_schnet.analysis.probe_potential(model, _first(structure), probe, isosurface=level)
    _write(result, path, pyg_schnet.plotting.plot_probe_potential)
    from pyg_schnet.models.writing import written

    page = path.with_suffix(".html")
    with written(page) as partial:
        pyg_schnet.plotting.write_probe_html(result, partial)
    energies = result.without_reference
    print(
        f"{probe} on {len(energies):,} points: {energies.min():.3f} to {energies.max():.3f} eV; page to turn in {page}"
    )


def embedding(
    model: str, *, elements: list[str] | None = None, dimensions: int = 2, output: str = "embedding.npz"
) -> None:
    """Map of the embeddings of elements, and whether groups of the periodic table cluster.

    Args:
        model: Model file, or the name of a pretrained model.
        elements: Chemical symbols; by default those that the model was trained on.
        dimensions: Number of leading components used for the score.
        output: File of the arrays, .npz; the picture gets the same name with .png.
    """
    path = _check(output, (model,), (".npz",))
    result = pyg_schnet.analysis.embedding_map(model, elements, dimensions=dimensions)
    _write(result, path, pyg_schnet.plotting.plot_embedding_map)
    print(
        f"score of main groups {result.score:.3f}, with shuffled groups {result.null.mean():.3f} on average, "
        f"{result.null.max():.3f} at most; p = {result.p_value:.2g}"
    )


def dimer(
    first: str,
    second: str,
    *,
    model: str | list[str],
    start: float = 0.6,
    stop: float = 5.0,
    untrained_forces: bool = False,
    output: str = "dimer.csv",
) -> None:
    """Energy and force of two atoms over their distance, by one or several models.

    Args:
        first: Chemical symbol.
        second: Chemical symbol.
        model: Model file or name of a pretrained model; several, as [a.safetensors,b.safetensors], give mean and
            spread.
        start: Shortest distance in Å.
        stop: Longest distance in Å.
        untrained_forces: Whether to allow models that were trained on energies only.
        output: File of the arrays, .csv or .npz; the picture gets the same name with .png.
    """
    path = _check(output, (model,) if isinstance(model, str) else model)
    if not 0.0 < start < stop < math.inf:
        raise ValueError(f"start and stop must be distances in Å, the first one the shorter, got {start} and {stop}")
    distances = np.linspace(start, stop, 221)
    result = pyg_schnet.analysis.dimer_scan(model, first, second, distances, untrained_forces=untrained_forces)
    columns = {
        "distance [Å]": result.distances,
        "energy [eV]": result.energies.mean(0),
        "energy spread [eV]": result.energies.std(0),
        "force [eV/Å]": result.forces.mean(0),
        "force spread [eV/Å]": result.forces.std(0),
    }
    _write(result, path, pyg_schnet.plotting.plot_dimer_scan, columns)
    lowest = result.energies.mean(0).argmin()
    print(f"lowest energy {result.energies.mean(0)[lowest]:.3f} eV at {result.distances[lowest]:.2f} Å")


def modes(
    structure: str,
    *,
    model: str,
    relax: bool = True,
    untrained_forces: bool = False,
    output: str = "modes.csv",
) -> None:
    """Normal modes of vibration of a structure, by a model that was trained on forces.

    Atoms that are fixed in the file do not move. Displacements are written to a separate file for Jmol and ASE.

    Args:
        structure: File that ASE reads; its first structure is used.
        model: Model file, or the name of a pretrained model.
        relax: Whether to relax the structure first.
        untrained_forces: Whether to allow a model that was trained on energies only.
        output: File of the arrays, .csv or .npz; the picture gets the same name with .png, the displacements with
            -displacements.xyz.
    """
    path = _check(output, (structure, model))
    displacements = _check(path.with_name(f"{path.stem}-displacements.xyz"), (structure, model), (".xyz",), more=())
    atoms = _first(structure)
    if relax:
        _relax(atoms, model, untrained_forces)
    result = pyg_schnet.analysis.normal_modes(model, atoms, untrained_forces=untrained_forces)
    columns = {
        "wave number [cm-1]": result.frequencies,
        "imaginary": result.imaginary.astype(float),
        "reduced mass [u]": result.reduced_masses,
    }
    _write(result, path, pyg_schnet.plotting.plot_normal_modes, columns)
    _write_displacements(displacements, atoms, result)
    print(
        f"displacements in {displacements}\n"
        f"{len(result.frequencies)} modes, {result.imaginary.sum()} imaginary; zero-point energy "
        f"{result.zero_point_energy:.4f} eV; largest force {result.residual_force:.1e} eV/Å"
    )


def spectrum(
    structure: str,
    *,
    model: str | None = None,
    picoseconds: float = 10.0,
    timestep: float = 0.5,
    temperature: float = 300.0,
    seed: int = 0,
    untrained_forces: bool = False,
    output: str = "spectrum.csv",
) -> None:
    """Power spectrum of the velocities: of a trajectory with momenta, or of dynamics that are run first.

    Atoms that are fixed in the file do not move in these dynamics.

    Args:
        structure: Trajectory that ASE reads, with momenta; or, with a model, a structure to start from.
        model: Model file, or the name of a pretrained model, for dynamics at constant energy; one that was trained on
            forces.
        picoseconds: Length of the dynamics in ps, after a tenth of it for equilibration.
        timestep: Time between frames, or time step of the dynamics, in fs.
        temperature: Temperature of the dynamics in K.
        seed: Seed of the initial velocities.
        untrained_forces: Whether to allow a model that was trained on energies only.
        output: File of the arrays, .csv or .npz; the picture gets the same name with .png.

    Raises:
        ValueError: If there is no model and no trajectory.
    """
    from ase import units

    from pyg_schnet.data.ase_files import read_all

    path = _check(output, (structure,) if model is None else (structure, model))
    for name, value in (("picoseconds", picoseconds), ("timestep", timestep), ("temperature", temperature)):
        if not 0.0 < value < math.inf:
            raise ValueError(f"{name} must be a positive number, got {value}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    if model is not None and not 1 <= round(1000 * picoseconds / timestep) <= _MOST_STEPS:
        raise ValueError(
            f"{picoseconds} ps in steps of {timestep} fs are {1000 * picoseconds / timestep:.4g} steps, expected 1 to "
            f"{_MOST_STEPS:,}"
        )
    if model is None:
        frames = [atoms for _, atoms in read_all(structure, ":", None)]
        if len(frames) < 2 or not frames[0].has("momenta"):
            raise ValueError(f"{structure} is no trajectory with momenta; give a --model to run dynamics")
        velocities, masses = np.array([atoms.get_velocities() * units.fs for atoms in frames]), frames[0].get_masses()
    else:
        atoms = _first(structure)
        _relax(atoms, model, untrained_forces)
        velocities, masses = _dynamics(atoms, round(1000 * picoseconds / timestep), timestep, temperature, seed)
    result = pyg_schnet.analysis.power_spectrum(velocities, timestep, masses=masses)
    columns = {"wave number [cm-1]": result.wavenumbers, "kinetic energy [eV cm]": result.intensity}
    _write(result, path, pyg_schnet.plotting.plot_power_spectrum, columns)
    line = f"highest line at {result.peaks[0]:.0f} cm-1" if len(result.peaks) else "no line"
    print(f"{len(velocities):,} frames; {line}, resolution {result.resolution:.1f} cm-1")


def filters(model: str, *, interaction: int = 0, output: str = "filters.npz") -> None:
    """Learned radial filters over distance.

    Args:
        model: Model file, or the name of a pretrained model.
        interaction: Interaction to draw, counted from 0; the file contains all of them.
        output: File of the arrays, .npz; the picture gets the same name with .png.
    """
    path = _check(output, (model,), (".npz",))
    try:
        result = pyg_schnet.analysis.radial_filters(model)
    except TypeError as error:  # a model without them
        raise ValueError(str(error)) from error
    n_interactions, n_distances, n_filters = result.values.shape
    if not 0 <= interaction < n_interactions:
        raise ValueError(f"interaction must be from 0 to {n_interactions - 1} in this model, got {interaction}")
    _write(result, path, lambda found: pyg_schnet.plotting.plot_radial_filters(found, interaction=interaction))
    print(f"{n_filters} filters of {n_interactions} interactions at {n_distances} distances")


COMMANDS = {function.__name__: function for function in (probe, embedding, dimer, modes, spectrum, filters)}


def _first(structure: str) -> ase.Atoms:
    """First structure of a file, read as data sets are."""
    from pyg_schnet.data.ase_files import read_all

    return next(atoms for _, atoms in read_all(structure, 0, None))


def _relax(atoms: ase.Atoms, model: str, untrained_forces: bool, fmax: float = 1e-4) -> None:
    from ase.optimize import BFGS

    from pyg_schnet.interfaces import SchNetCalculator

    atoms.calc = SchNetCalculator(model, untrained_forces=untrained_forces)
    if not BFGS(atoms, logfile=None).run(fmax=fmax, steps=2000):
        print(f"not relaxed to {fmax} eV/Å in 2,000 steps; going on from there")


def _dynamics(
    atoms: ase.Atoms, steps: int, timestep: float, temperature: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Velocities in Å/fs ``[steps, N, 3]`` at constant energy, and masses in u ``[N]``."""
    from ase import units
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary, ZeroRotation
    from ase.md.verlet import VelocityVerlet

    # half of what a relaxed structure is given becomes potential energy
    MaxwellBoltzmannDistribution(atoms, temperature_K=2.0 * temperature, rng=np.random.default_rng(seed))
    if not atoms.constraints:  # what is held moves with nothing
        Stationary(atoms)
        if not atoms.pbc.any():
            ZeroRotation(atoms)
    run = VelocityVerlet(atoms, timestep * units.fs)
    run.run(steps // 10)
    velocities = np.empty((steps, len(atoms), 3))
    for k in range(steps):
        run.run(1)
        velocities[k] = atoms.get_velocities() * units.fs
    return velocities, atoms.get_masses()


def _write_displacements(path: Path, atoms: ase.Atoms, result: pyg_schnet.analysis.NormalModes) -> None:
    """One frame for each mode, with the displacements of norm 1 behind the positions, as Jmol animates them."""
    import ase.io

    from pyg_schnet.models.writing import written

    frames = []
    for k, (mode, frequency) in enumerate(zip(result.modes, result.frequencies, strict=True)):
        frame = ase.Atoms(result.numbers, result.positions, cell=atoms.cell, pbc=atoms.pbc)
        frame.info.update(mode=k, wavenumber=float(frequency), reduced_mass=float(result.reduced_masses[k]))
        frame.arrays["displacements"] = mode
        frames.append(frame)
    if frames:
        with written(path) as partial:
            ase.io.write(partial, frames, format="extxyz", columns=["symbols", "positions", "displacements"])


def _check(
    output: str | Path, inputs: Sequence[str], endings: Sequence[str] = (".csv", ".npz"), more: Any = (".png",)
) -> Path:
    """Path of the arrays, if it and those of the files beside it can be written and are none that are read."""
    from pyg_schnet.pretrained import available

    inputs = [one for one in inputs if one not in available()]
    path = check_output(output, inputs, endings)
    for ending in more:
        check_output(path.with_suffix(ending), inputs)
    return path


def _write(result: Any, path: Path, plot: Any, columns: Any = None) -> None:
    """Arrays and picture."""
    import matplotlib

    from pyg_schnet.models.writing import written

    path.parent.mkdir(parents=True, exist_ok=True)
    with written(path) as partial, partial.open("wb") as file:
        if path.suffix == ".npz":
            arrays: dict[str, Any] = _arrays(result)
            np.savez_compressed(file, **arrays)
        else:
            table = np.stack(list(columns.values()), axis=1)
            np.savetxt(file, table, delimiter=",", header=",".join(columns), comments="", encoding="utf-8")
    matplotlib.use("Agg")
    picture = path.with_suffix(".png")
    with pyg_schnet.plotting.style(), written(picture) as partial:
        ax = plot(result)
        ax.figure.savefig(partial, format="png")
    print(f"arrays in {path}, picture in {picture}")


def _arrays(result: Any) -> dict[str, np.ndarray]:
    """Fields of a result, those of results inside it with the name in front; what is ``None`` is left out."""
    arrays = {}
    for field in dataclasses.fields(result):
        value = getattr(result, field.name)
        if dataclasses.is_dataclass(value):
            arrays.update({f"{field.name}_{name}": array for name, array in _arrays(value).items()})
        elif value is not None:
            arrays[field.name] = np.asarray(value)
    return arrays


def run(args: list[str]) -> None:
    """Run one analysis with its arguments.

    Raises:
        UsageError: If there is no such analysis.
    """
    if not args or args[0] in ("-h", "--help"):
        print(help_of_analyze(COMMANDS), end="")
        return
    if args[0] not in COMMANDS:
        raise UsageError(f"unknown analysis {args[0]!r}; it must be one of {', '.join(COMMANDS)}")
    needs = [f"pyg_schnet.{name}" for name in ("interfaces", "analysis", "plotting")]
    run_function(f"analyze {args[0]}", COMMANDS[args[0]], args[1:], needs=needs)
