"""``pyg-schnet lammps``: an input file of LAMMPS with a model as its pair style, on any number of ranks."""

from __future__ import annotations

from typing import Literal

from pyg_schnet.cli._options import run_function


def run(args: list[str]) -> None:
    """Run the command with its arguments."""
    run_function("lammps", run_lammps, args, needs=["pyg_schnet.cli._ranks"])


def run_lammps(
    input: str,
    *,
    model: str,
    elements: str | None = None,
    unit: str | None = None,
    precision: Literal["float64", "float32"] = "float64",
    threads: int | None = None,
    lammps_options: str = "",
    untrained_forces: bool = False,
) -> None:
    """Run an input file of LAMMPS in which "pair_style schnet" stands for a model, spread over the ranks of MPI.

    Args:
        input: Input file in units metal, with the lines "pair_style schnet" and "pair_coeff * * SYMBOL ...".
        model: Model file, for example RUN_DIR/model.safetensors, or the name of a pretrained model.
        elements: Symbols of the atom types, as "Si O", where pair_coeff does not name them.
        unit: Unit of the model's energies, where the model does not know it.
        precision: Precision of the network, float64 or float32.
        threads: Threads of each rank; by default the cores of a node are divided among its ranks.
        lammps_options: Options of LAMMPS itself, as --lammps_options="-var T 300 -log melt.log".
        untrained_forces: Whether to take a model that was trained on energies alone.
    """
    from pyg_schnet.cli import _ranks

    symbols = None if elements is None else elements.replace(",", " ").split()
    _ranks.run_file(
        input,
        model,
        symbols,
        args=lammps_options,
        unit=unit,
        precision=precision,
        threads=threads,
        untrained_forces=untrained_forces,
    )
