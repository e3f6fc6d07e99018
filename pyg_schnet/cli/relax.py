"""``pyg-schnet relax``: structures moved to where there are no forces, by a model that was trained on them."""

from __future__ import annotations

from typing import Literal

from pyg_schnet.cli._help import RELAX
from pyg_schnet.cli._options import run_function, with_flags


def run(args: list[str]) -> None:
    """Run the command with its arguments; ``--cell`` needs no value."""
    if any(one in ("-h", "--help") for one in args):
        print(RELAX, end="")
        return
    run_function("relax", relax_file, with_flags(args, ("--cell",)), needs=["pyg_schnet.cli._simulation"])


def relax_file(
    structures: str,
    *,
    model: str | list[str],
    output: str = "relaxed.xyz",
    cell: bool = False,
    batch: int = 1,
    fmax: float = 0.05,
    steps: int = 500,
    optimizer: Literal["fire", "bfgs", "lbfgs", "bfgs-line-search"] = "fire",
    pressure: float = 0.0,
    max_force: float = 1000.0,
    min_distance: float = 0.0,
    untrained_forces: bool = False,
    dtype: Literal["float64", "float32"] = "float64",
    device: str = "cpu",
    threads: int | None = None,
) -> None:
    """Relax the structures of a file, one by one or many at once; the exit status is 3 where one has not converged.

    Args:
        structures: File that ASE reads; atoms that it fixes stay.
        model: Model file or name of a pretrained model; several, as [a.safetensors,b.safetensors], are an ensemble.
        output: Relaxed structures with energy, forces and whether they converged; .xyz, .extxyz or .traj.
        cell: Whether the cell relaxes too.
        batch: Number of structures that are relaxed at once; from 2 on by fire, and without the cell.
        fmax: Largest force at the end in eV/Å.
        steps: Largest number of steps.
        optimizer: How.
        pressure: On the cell in GPa.
        max_force: In eV/Å; a larger force ends the relaxation of a structure.
        min_distance: Part of the shortest distance of such atoms in the training data; closer ones end it.
        untrained_forces: Whether to go on with models that were trained on energies alone.
        dtype: Precision of the network.
        device: Device of the network.
        threads: Threads of the network.
    """
    options = dict(locals())
    from pyg_schnet.cli import _simulation

    _simulation.relax_file(**options)
