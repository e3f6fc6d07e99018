"""``pyg-schnet predict``: the property of new structures."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from pyg_schnet.data import AtomsDataset, Property, StructureLoader
from pyg_schnet.models import load
from pyg_schnet.models.card import check_elements
from pyg_schnet.train.evaluation import evaluator
from pyg_schnet.train.task import PropertyTask


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
        format: csv (one line for each structure) or extxyz (the structures with the property); auto goes by the
            ending of the output.
        batch_size: Structures in a batch.
    """
    network = load(model)
    name, unit = network.card.get("target") or "property", network.card.get("unit") or "1"
    dataset = AtomsDataset(structures)
    check_elements(network.card, torch.cat([data.z for data in dataset]).unique().tolist())
    task = PropertyTask.from_model(network, Property(name, unit))
    loader = StructureLoader(dataset, batch_size)
    found = torch.cat(evaluator().predict(task, loader))
    values = found.reshape(len(found), -1).tolist()
    formulas = [atoms.get_chemical_formula() for atoms in _atoms(dataset)]
    if output is None:
        print(f"{'structure':>9}  {'formula':<16}  {'  '.join(_headers(name, unit, len(values[0])))}")
        for k, (formula, row) in enumerate(zip(formulas, values, strict=True)):
            print(f"{k:>9}  {formula:<16}  {'  '.join(f'{value:.6f}' for value in row)}")
        return
    _write(Path(output), format, dataset, formulas, values, name, unit)
    print(f"{len(values):,} values of {name} in {unit} written to {output}")


def _headers(name: str, unit: str, width: int) -> list[str]:
    """Names of the columns: one, or one for each number of a property that is several."""
    return [f"{name} [{unit}]"] if width == 1 else [f"{name}_{k} [{unit}]" for k in range(width)]


def _atoms(dataset: AtomsDataset) -> list[Any]:
    from pyg_schnet.data import to_atoms

    return [to_atoms(data) for data in dataset]


def _write(
    path: Path, format: str, dataset: AtomsDataset, formulas: list[str], values: list[list[float]], name: str, unit: str
) -> None:
    if format == "auto":
        format = "csv" if path.suffix == ".csv" else "extxyz"
    path.parent.mkdir(parents=True, exist_ok=True)
    if format == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["structure", "formula", *_headers(name, unit, len(values[0]))])
            for k, (formula, row) in enumerate(zip(formulas, values, strict=True)):
                writer.writerow([k, formula, *map(repr, row)])
        return
    import ase.io

    images = _atoms(dataset)
    for atoms, row in zip(images, values, strict=True):
        atoms.calc = None
        atoms.info[f"predicted_{name}"] = row[0] if len(row) == 1 else np.array(row)
        atoms.info[f"predicted_{name}_unit"] = unit
    ase.io.write(path, images, format="extxyz")
