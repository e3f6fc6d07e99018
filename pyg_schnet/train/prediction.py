"""``pyg-schnet predict``: the property of new structures."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from pyg_schnet.data import AtomsDataset, Property, StructureLoader
from pyg_schnet.data.ase_files import read_all
from pyg_schnet.data.check import StructureCheck
from pyg_schnet.models import load
from pyg_schnet.models.boundaries import check_boundaries, check_origin
from pyg_schnet.train.evaluation import evaluator
from pyg_schnet.train.extxyz import flat_info, writable
from pyg_schnet.train.task import PropertyTask

if TYPE_CHECKING:
    from ase import Atoms

_FORMATS = {".csv": "csv", ".xyz": "extxyz", ".extxyz": "extxyz"}


def predict_file(
    structures: str,
    *,
    model: str,
    output: str | None = None,
    format: Literal["auto", "csv", "extxyz"] = "auto",
    batch_size: int = 250,
) -> None:
    """Property of the structures in any file that ASE reads.

    Args:
        structures: File of structures (.xyz, .extxyz, .db, .cif, ... or compressed with .gz), positions in Å.
        model: Model file, for example RUN_DIR/model.safetensors, or the name of a pretrained model: qm9-u0, qm9-mu, ...
        output: File to write; by default only a table is printed.
        format: csv (one line for each structure, with what it has in a single number or word) or extxyz (the structures
            as they are, with all they have, and predicted_PROPERTY and predicted_PROPERTY_unit; with a number behind
            it where there is such a name already); auto goes by the ending of the output.
        batch_size: Structures in a batch.
    """
    kind = _kind_of(output, format)
    network = load(model)
    name, unit = network.card.get("target") or "property", network.card.get("unit") or "1"
    images = [atoms for _, atoms in read_all(structures, ":", None)]
    try:
        dataset = AtomsDataset([atoms.copy() for atoms in images])  # without labels, which are not needed
    except ValueError as error:
        raise ValueError(f"{structures}: {error}") from error
    check = StructureCheck([network.card])
    for batch in StructureLoader(dataset, batch_size):
        check.batch(batch)
    check_boundaries(network.readout, torch.cat([data.pbc for data in dataset]))
    check_origin(network.readout, torch.cat([data.origin for data in dataset]))
    task = PropertyTask.from_model(network, Property(name, unit))
    loader = StructureLoader(dataset, batch_size)
    values = torch.cat(evaluator().predict(task, loader)).reshape(len(images), -1).tolist()
    if output is None:
        print(f"{'structure':>9}  {'formula':<16}  {'  '.join(_headers(name, unit, len(values[0])))}")
        for k, (atoms, value) in enumerate(zip(images, values, strict=True)):
            print(f"{k:>9}  {atoms.get_chemical_formula():<16}  {'  '.join(f'{number:.6f}' for number in value)}")
        return
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    (_write_csv if kind == "csv" else _write_extxyz)(Path(output), images, values, name, unit)
    print(f"{len(values):,} values of {name} in {unit} written to {output}")


def _headers(name: str, unit: str, width: int) -> list[str]:
    """Names of the columns: one, or one for each number of a property that is several."""
    return [f"{name} [{unit}]"] if width == 1 else [f"{name}_{k} [{unit}]" for k in range(width)]


def _kind_of(output: str | None, format: str) -> str:
    if format != "auto" or output is None:
        return format
    kind = _FORMATS.get(Path(output).suffix.lower())
    if kind is None:
        raise ValueError(f"output must end in {', '.join(_FORMATS)}, got {output}; or state --format csv or extxyz")
    return kind


def _write_csv(path: Path, images: list[Atoms], values: list[list[float]], name: str, unit: str) -> None:
    notes = [
        {key: value for key, value in flat_info(atoms).items() if isinstance(value, str | int | float)}
        for atoms in images
    ]
    more = list(dict.fromkeys(key for note in notes for key in note))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["structure", "formula", *_headers(name, unit, len(values[0])), *more])
        for k, (atoms, value, note) in enumerate(zip(images, values, notes, strict=True)):
            formula = atoms.get_chemical_formula()
            writer.writerow([k, formula, *map(repr, value), *(note.get(key, "") for key in more)])


def _write_extxyz(path: Path, images: list[Atoms], values: list[list[float]], name: str, unit: str) -> None:
    import ase.io

    written = []
    for atoms, value in zip(images, values, strict=True):
        atoms = writable(atoms)
        label = _free_name(f"predicted_{name}", atoms.info)
        atoms.info[label] = value[0] if len(value) == 1 else value
        atoms.info[f"{label}_unit"] = unit
        written.append(atoms)
    ase.io.write(path, written, format="extxyz", write_results=False)


def _free_name(name: str, taken: dict[str, Any]) -> str:
    """The name itself or, where there is one already, with the next number behind it."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free
