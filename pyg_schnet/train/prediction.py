"""``pyg-schnet predict``: the property of new structures."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Literal

import torch

from pyg_schnet.data import AtomsDataset, Property, StructureLoader
from pyg_schnet.data.check import StructureCheck
from pyg_schnet.models import load
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
    check = StructureCheck([network.card])
    for batch in StructureLoader(dataset, batch_size):
        check.batch(batch)
    task = PropertyTask.from_model(network, Property(name, unit))
    loader = StructureLoader(dataset, batch_size)
    values = torch.cat(evaluator().predict(task, loader)).tolist()
    formulas = [atoms.get_chemical_formula() for atoms in _atoms(dataset)]
    if output is None:
        print(f"{'structure':>9}  {'formula':<16}  {name} [{unit}]")
        for k, (formula, value) in enumerate(zip(formulas, values, strict=True)):
            print(f"{k:>9}  {formula:<16}  {value:.6f}")
        return
    _write(Path(output), format, dataset, formulas, values, name, unit)
    print(f"{len(values):,} values of {name} in {unit} written to {output}")


def _atoms(dataset: AtomsDataset) -> list[Any]:
    from pyg_schnet.data import to_atoms

    return [to_atoms(data) for data in dataset]


def _write(
    path: Path, format: str, dataset: AtomsDataset, formulas: list[str], values: list[float], name: str, unit: str
) -> None:
    if format == "auto":
        format = "csv" if path.suffix == ".csv" else "extxyz"
    path.parent.mkdir(parents=True, exist_ok=True)
    if format == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["structure", "formula", f"{name} [{unit}]"])
            writer.writerows(zip(range(len(values)), formulas, map(repr, values), strict=True))
        return
    import ase.io

    images = _atoms(dataset)
    for atoms, value in zip(images, values, strict=True):
        atoms.calc = None
        atoms.info[f"predicted_{name}"] = value
        atoms.info[f"predicted_{name}_unit"] = unit
    ase.io.write(path, images, format="extxyz")
