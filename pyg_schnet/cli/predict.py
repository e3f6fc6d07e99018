"""``pyg-schnet predict``: the property of new structures."""

from __future__ import annotations

from typing import Literal

from pyg_schnet.cli._options import run_function, with_flags


def run(args: list[str]) -> None:
    """Run the command with its arguments; ``--forces`` and ``--stress`` need no value."""
    args = with_flags(args, ("--forces", "--stress"))
    run_function("predict", predict_file, args, needs=["pyg_schnet.cli._prediction"])


def predict_file(
    structures: str,
    *,
    model: str,
    target: str | None = None,
    output: str | None = None,
    format: Literal["auto", "csv", "extxyz"] = "auto",
    batch_size: int = 250,
    forces: bool = False,
    stress: bool = False,
    untrained_forces: bool = False,
) -> None:
    """Property of the structures in any file that ASE reads, of any length.

    Args:
        structures: File of structures (.xyz, .db, .cif, ..., also .gz), positions in Å.
        model: Model file, for example RUN_DIR/model.safetensors, or the name of a pretrained model: qm9-u0, qm9-mu, ...
        target: Which one of the properties of the model; by default all.
        output: File to write; by default only a table is printed.
        format: csv (a line for each structure, with its numbers and words) or extxyz (the structures with all their
            data, predicted_PROPERTY and predicted_PROPERTY_unit; numbered if the name exists); auto chooses by suffix.
        batch_size: Structures in a batch.
        forces: Whether to write forces in eV/Å.
        stress: Whether to write stress in eV/Å³.
        untrained_forces: Whether to allow models of energies alone.
    """
    from pyg_schnet.cli import _prediction

    with_forces = forces or stress
    _prediction.predict_file(
        structures, model, output, format, batch_size, with_forces, stress, untrained_forces, target
    )
