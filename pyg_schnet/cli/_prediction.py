"""The property of new structures."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from pyg_schnet.cli._outputs import check_output
from pyg_schnet.data import AtomsDataset, StructureLoader
from pyg_schnet.data.ase_files import files_of, read_all
from pyg_schnet.data.check import StructureCheck
from pyg_schnet.data.extxyz import flat_info, writable
from pyg_schnet.models import AtomisticModel, load
from pyg_schnet.models.atomref import pop_atomref
from pyg_schnet.models.boundaries import check_boundaries, check_origin
from pyg_schnet.models.reading import printable
from pyg_schnet.models.writing import written
from pyg_schnet.nn import MeanReadout
from pyg_schnet.nn.atomref import sum_references
from pyg_schnet.pretrained import find

if TYPE_CHECKING:
    from ase import Atoms

_FORMATS = {".csv": "csv", ".xyz": "extxyz", ".extxyz": "extxyz"}


def predict_file(structures: str, model: str, output: str | None, format: str, batch_size: int) -> None:
    """Print or write the property of structures; for the arguments see :func:`pyg_schnet.cli.predict.predict_file`."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be a number of structures, at least 1, got {batch_size}")
    kind = _kind_of(output, format)
    path = None if output is None else check_output(output, [find(model), *files_of(structures)])
    network = load(model)
    name, unit = (
        printable(network.card.get(entry) or default) for entry, default in (("target", "property"), ("unit", "1"))
    )
    images = [atoms for _, atoms in read_all(structures, ":", None)]
    try:
        dataset = AtomsDataset([atoms.copy() for atoms in images])  # without labels, which are not needed
        values = _predict(network, dataset, batch_size).tolist()
    except ValueError as error:
        raise ValueError(f"{structures}: {error}") from error
    _check_finite(values, structures, name)
    if path is None:
        print(f"{'structure':>9}  {'formula':<16}  {'  '.join(_headers(name, unit, len(values[0])))}")
        for k, (atoms, value) in enumerate(zip(images, values, strict=True)):
            print(f"{k:>9}  {atoms.get_chemical_formula():<16}  {'  '.join(f'{number:.6f}' for number in value)}")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with written(path) as partial:
        (_write_csv if kind == "csv" else _write_extxyz)(partial, images, values, name, unit)
    print(f"{len(values):,} values of {name} in {unit} written to {output}")


def _check_finite(values: list[list[float]], structures: str, name: str) -> None:
    """Raise for a prediction that is no number."""
    for k, value in enumerate(values):
        if not all(map(math.isfinite, value)):
            raise ValueError(
                f"{structures}: {name} of structure {k} is {value[0] if len(value) == 1 else value}, no finite number; "
                "its positions may be far from all that the model has learned from"
            )


def _predict(network: AtomisticModel, dataset: AtomsDataset, batch_size: int) -> torch.Tensor:
    """Property of each structure in float64, shape ``[B, C]``; references of the elements are added in float64.

    Args:
        network: Model; its references are taken out.
        dataset: Structures.
        batch_size: Structures in a batch.

    Raises:
        ValueError: If the property is not defined for a structure.
    """
    loader = StructureLoader(dataset, batch_size)
    check = StructureCheck([network.card])
    for batch in loader:
        check.batch(batch)
    check_boundaries(network.readout, torch.cat([data.pbc for data in dataset]))
    check_origin(network.readout, torch.cat([data.origin for data in dataset]))
    atomref, mean = pop_atomref(network), isinstance(network.readout, MeanReadout)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    network, dtype = network.to(device), next(network.parameters()).dtype
    values = []
    for batch in tqdm(loader, "Predicting", leave=False, delay=1.0):
        size = batch.num_graphs
        taken: Any = 0.0
        if atomref is not None:
            taken = sum_references(atomref, batch.z, batch.batch, size, mean=mean)
        batch = batch.to(device)
        pos, cell = batch.pos.to(dtype), batch.cell.to(dtype)
        with torch.no_grad():
            found = network(batch.z, pos, batch.batch, cell=cell, pbc=batch.pbc, batch_size=size)
        values.append(taken + found.reshape(size, -1).cpu().to(torch.float64))
    return torch.cat(values)


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
        label = _free_name("predicted_" + re.sub(r"[\s\"'={}\[\]\\,]", "_", name), atoms.info)
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
