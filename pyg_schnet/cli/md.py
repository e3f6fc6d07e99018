"""``pyg-schnet md``: molecular dynamics of a structure, by a model that was trained on forces."""

from __future__ import annotations

from typing import Literal

from pyg_schnet.cli._help import MD
from pyg_schnet.cli._options import run_function, with_flags


def run(args: list[str]) -> None:
    """Run the command with its arguments; ``--resume`` needs no value."""
    if any(one in ("-h", "--help") for one in args):
        print(MD, end="")
        return
    run_function("md", run_md, with_flags(args, ("--resume", "--new_velocities")), needs=["pyg_schnet.cli._simulation"])


def run_md(
    structure: str,
    *,
    model: str | list[str],
    steps: int | None = None,
    picoseconds: float | None = None,
    output: str = "md.xyz",
    resume: bool = False,
    ensemble: Literal["nve", "langevin", "nose-hoover", "npt", "npt-anisotropic"] = "langevin",
    timestep: float = 0.5,
    temperature: float = 300.0,
    pressure: float = 0.0,
    friction: float = 0.01,
    thermostat_time: float | None = None,
    barostat_time: float | None = None,
    new_velocities: bool = False,
    seed: int = 0,
    log_interval: int = 100,
    trajectory_interval: int = 100,
    checkpoint_interval: int = 1000,
    max_force: float = 100.0,
    max_temperature: float | None = None,
    min_distance: float = 0.9,
    max_spread: float | None = None,
    spread_action: Literal["stop", "flag"] = "stop",
    untrained_forces: bool = False,
    dtype: Literal["float64", "float32"] = "float64",
    device: str = "cpu",
    threads: int | None = None,
) -> None:
    """Molecular dynamics of the first structure of a file.

    Args:
        structure: File that ASE reads; its velocities are kept, its fixed atoms stay fixed.
        model: Model file or name of a pretrained model; several, as [a.safetensors,b.safetensors], are an ensemble.
        steps: Number of steps, with those before an interruption.
        picoseconds: Length in ps instead of steps.
        output: Trajectory, .xyz, .extxyz or .traj; log (.csv), checkpoint (.checkpoint) are named after it.
        resume: Whether to go on from the checkpoint.
        ensemble: Constant energy, temperature or pressure, and how.
        timestep: In fs.
        temperature: In K.
        pressure: In GPa.
        friction: Of Langevin's equation, in 1/fs.
        thermostat_time: In fs; 100 steps by default.
        barostat_time: In fs; 1,000 steps by default.
        new_velocities: Whether to draw velocities where the file has some.
        seed: Of velocities and random forces.
        log_interval: Steps between lines of the log.
        trajectory_interval: Steps between frames.
        checkpoint_interval: Steps between checkpoints.
        max_force: In eV/Å; a larger force stops the run.
        max_temperature: In K; by default ten times the temperature, and at least 5,000.
        min_distance: Part of the shortest distance of such atoms in the training data; closer ones stop the run.
        max_spread: Standard deviation of a force over the models in eV/Å (calibrated, where they are) that stops the
            run.
        spread_action: Whether it stops the run, or marks frames by the entry ``beyond_max_spread``.
        untrained_forces: Whether to go on with models that were trained on energies alone.
        dtype: Precision of the network.
        device: Device of the network.
        threads: Threads of the network.
    """
    options = dict(locals())
    from pyg_schnet.cli import _simulation

    _simulation.run_md(**options)
