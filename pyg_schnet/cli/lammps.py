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
    lammps_options: str | None = None,
    untrained_forces: bool = False,
) -> None:
    """Run an input file of LAMMPS in which "pair_style schnet" stands for a model, spread over the ranks of MPI.

    Args:
        input: Input file in units metal, with the lines "pair_style schnet" and "pair_coeff * * SYMBOL ...".
        model: Model file, RUN_DIR/model.safetensors, or a pretrained one.
        elements: Symbols of the atom types, as "Si O", if not in pair_coeff.
        unit: Unit of its energies, where the model does not know it.
        precision: Precision of the network, float64 or float32.
        threads: Threads of each rank; by default the cores of a node are divided among its ranks.
        lammps_options: Of LAMMPS itself, as "-var T 300".
        untrained_forces: Whether to take a model that was trained on energies alone.
    """
    from pyg_schnet.cli import _ranks

    symbols = None if elements is None else elements.replace(",", " ").split()
    _ranks.run_file(
        input,
        model,
        symbols,
        args=lammps_options or "",
        unit=unit,
        precision=precision,
        threads=threads,
        untrained_forces=untrained_forces,
    )
