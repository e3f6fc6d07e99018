"""The property of new structures."""

from __future__ import annotations

import csv
import itertools
import math
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch_geometric.data import Batch
from tqdm import tqdm

from pyg_schnet.cli._outputs import check_output
from pyg_schnet.data import to_data
from pyg_schnet.data.ase_files import files_of, read_all
from pyg_schnet.data.charge import warn_of_charge
from pyg_schnet.data.check import StructureCheck
from pyg_schnet.data.extxyz import flat_info, writable
from pyg_schnet.geometry import has_volume
from pyg_schnet.models import AtomisticModel, load
from pyg_schnet.models.atomref import averaged_references, pop_atomref
from pyg_schnet.models.boundaries import check_boundaries, check_origin
from pyg_schnet.models.reading import printable
from pyg_schnet.models.writing import written
from pyg_schnet.nn.atomref import sum_references
from pyg_schnet.pretrained import find

if TYPE_CHECKING:
    from ase import Atoms

Found = Iterator[tuple[int, "Atoms", "Prediction"]]
"""Number, structure and prediction of one structure after the other."""

_FORMATS = {".csv": "csv", ".xyz": "extxyz", ".extxyz": "extxyz"}


def predict_file(
    structures: str,
    model: str,
    output: str | None,
    format: str,
    batch_size: int,
    forces: bool,
    stress: bool,
    untrained_forces: bool,
) -> None:
    """Print or write the property of structures; for the arguments see :func:`pyg_schnet.cli.predict.predict_file`."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be a number of structures, at least 1, got {batch_size}")
    kind = _kind_of(output, format)
    if (forces or stress) and (output is None or kind == "csv"):
        raise ValueError("forces and stress are written to extended xyz; give --output FILE.xyz")
    path = None if output is None else check_output(output, [find(model), *files_of(structures)])
    network = load(model)
    name, unit = (
        printable(network.card.get(entry) or default) for entry, default in (("target", "property"), ("unit", "1"))
    )
    answers = _Derivatives(network, stress, untrained_forces) if forces or stress else _Property(network)
    found = _predictions(answers, structures, batch_size, name)
    if path is None:
        _print_table(found, name, unit)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with written(path) as partial:
        count = (_write_csv if kind == "csv" else _write_extxyz)(partial, found, name, unit)
    what = name + ", forces" * forces + ", stress" * stress
    print(f"{count:,} values of {what} in {unit} written to {output}")


class Prediction(NamedTuple):
    """What a model says of a structure.

    Attributes:
        values: The property, of one or several numbers.
        forces: In eV/Å, shape ``[N, 3]``.
        stress: In eV/Å³, shape ``[3, 3]``.
    """

    values: list[float]
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None


def _predictions(
    answers: _Property | _Derivatives, structures: str, batch_size: int, name: str
) -> Iterator[tuple[int, Atoms, Prediction]]:
    """Number, structure and prediction of one structure after the other; a batch of them is in memory.

    Raises:
        ValueError: If the property is not defined for a structure, or no finite number.
    """
    check, charged = StructureCheck([answers.card], untrained_forces=True), False
    bar = tqdm(desc="Predicting", unit=" structures", leave=False, delay=1.0, disable=None)
    images = (atoms for _, atoms in read_all(structures, ":", None))
    with bar:
        for first in itertools.count(0, batch_size):
            chunk = list(itertools.islice(images, batch_size))
            if not chunk:
                return
            for number, atoms in enumerate(chunk, first):
                charged = charged or warn_of_charge(atoms, where=f"structure {number}")
            try:
                batch = _batch(chunk, first)
                check.batch(batch)
                found = answers(batch, first)
            except ValueError as error:
                raise ValueError(f"{structures}: {error}") from error
            for number, (atoms, prediction) in enumerate(zip(chunk, found, strict=True), first):
                _check_finite(prediction.values, structures, number, name)
                yield number, atoms, prediction
            bar.update(len(chunk))


def _batch(images: list[Atoms], first: int) -> Batch:
    """Structures as a batch, without labels, which are not needed."""
    found = []
    for number, atoms in enumerate(images, first):
        try:
            found.append(to_data(atoms.copy()))
        except ValueError as error:
            raise ValueError(f"structure {number}: {error}") from error
    return Batch.from_data_list(found)


def _check_finite(value: list[float], structures: str, number: int, name: str) -> None:
    """Raise for a prediction that is no number."""
    if not all(map(math.isfinite, value)):
        raise ValueError(
            f"{structures}: {name} of structure {number} is {value[0] if len(value) == 1 else value}, no finite "
            "number; its positions may be far from all that the model has learned from"
        )


def _device() -> torch.device:
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


class _Property:
    """The property that a model has learned; references of the elements are added in float64.

    Args:
        network: Model; its references are taken out.
    """

    def __init__(self, network: AtomisticModel) -> None:
        self.card, self.device = network.card, _device()
        self.atomref, self.mean = pop_atomref(network), averaged_references(network.readout)
        self.network, self.dtype = network.to(self.device), next(network.parameters()).dtype

    def __call__(self, batch: Batch, first: int) -> list[Prediction]:
        """Predictions for a batch whose first structure has this number.

        Raises:
            ValueError: If the property is not defined for a structure.
        """
        check_boundaries(self.network.readout, batch.pbc, first)
        check_origin(self.network.readout, batch.origin, first)
        size = batch.num_graphs
        taken: Any = 0.0
        if self.atomref is not None:
            taken = sum_references(self.atomref, batch.z, batch.batch, size, mean=self.mean)
        batch = batch.to(self.device)
        pos, cell = batch.pos.to(self.dtype), batch.cell.to(self.dtype)
        with torch.no_grad():
            found = self.network(batch.z, pos, batch.batch, cell=cell, pbc=batch.pbc, batch_size=size)
        values = taken + found.reshape(size, -1).cpu().to(torch.float64)
        return [Prediction(value) for value in values.tolist()]


class _Derivatives:
    """An energy with forces, and stress where a structure has one.

    Args:
        network: Model of energies.
        stress: Whether stress is wanted.
        untrained_forces: Whether to allow derivatives of a model that was not trained on forces.

    Raises:
        ValueError: If the model has no energies, or has not learned forces.
    """

    def __init__(self, network: AtomisticModel, stress: bool, untrained_forces: bool) -> None:
        from pyg_schnet.potential import Potential

        self.card, self.stress = network.card, stress
        self.potential = Potential(network, device=_device(), untrained_forces=untrained_forces)
        self.potential.check.derivatives("forces and stress")

    def __call__(self, batch: Batch, first: int) -> list[Prediction]:
        """Predictions for a batch, in two parts where some structures have a stress and others have none."""
        with_stress = batch.pbc.any(dim=1) & has_volume(batch.cell) & self.stress
        if with_stress.all() or not with_stress.any():
            return self._of(batch, bool(with_stress.all()))
        found: dict[int, Prediction] = {}
        for part, stress in ((with_stress, True), (~with_stress, False)):
            chosen = part.nonzero().flatten().tolist()
            answers = self._of(Batch.from_data_list([batch[k] for k in chosen]), stress)
            found.update(zip(chosen, answers, strict=True))
        return [found[k] for k in range(batch.num_graphs)]

    def _of(self, batch: Batch, stress: bool) -> list[Prediction]:
        lattice = {"cell": batch.cell, "pbc": batch.pbc} if bool(batch.pbc.any()) else {}
        found: Any = self.potential(
            batch.z, batch.pos, batch.batch, batch_size=batch.num_graphs, forces=True, stress=stress, **lattice
        )
        energy, forces, stresses = found
        n_atoms = batch.ptr.diff()
        energy = energy.cpu() / self.potential.factor
        values = energy / n_atoms if self.potential.per_atom else energy
        by_structure = forces.cpu().split(n_atoms.tolist())
        return [
            Prediction([value], by_structure[k].numpy(), stresses[k].cpu().numpy() if stress else None)
            for k, value in enumerate(values.tolist())
        ]


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


def _print_table(found: Found, name: str, unit: str) -> None:
    for number, atoms, (values, *_) in found:
        if number == 0:
            print(f"{'structure':>9}  {'formula':<16}  {'  '.join(_headers(name, unit, len(values)))}")
        words = "  ".join(f"{value:.6f}" for value in values)
        print(f"{number:>9}  {atoms.get_chemical_formula():<16}  {words}")


def _write_csv(path: Path, found: Found, name: str, unit: str) -> int:
    """Write a table; its columns are known at the end, so that lines wait in a file without a name.

    Returns:
        Number of structures.
    """
    more: dict[str, None] = {}
    headers: list[str] = []
    count = 0
    with tempfile.TemporaryFile("w+", newline="", encoding="utf-8", dir=path.parent) as body:
        lines = csv.writer(body)
        for number, atoms, (values, *_) in found:
            notes = {key: one for key, one in flat_info(atoms).items() if isinstance(one, str | int | float)}
            more.update(dict.fromkeys(notes))
            headers = headers or _headers(name, unit, len(values))
            formula = atoms.get_chemical_formula()
            lines.writerow([number, formula, *map(repr, values), *(notes.get(key, "") for key in more)])
            count += 1
        body.seek(0)
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            columns = ["structure", "formula", *headers, *more]
            table.writerow(columns)
            table.writerows([*line, *[""] * (len(columns) - len(line))] for line in csv.reader(body))
    return count


def _write_extxyz(path: Path, found: Found, name: str, unit: str) -> int:
    """Write structures with all that they have, and what was predicted; returns their number."""
    import ase.io

    base, count = "predicted_" + re.sub(r"[\s\"'={}\[\]\\,]", "_", name), 0
    with path.open("w", encoding="utf-8", newline="") as file:
        for _, atoms, (values, forces, stress) in found:
            atoms = writable(atoms)
            label = _free_name(base, atoms.info)
            atoms.info[label] = values[0] if len(values) == 1 else values
            atoms.info[f"{label}_unit"] = unit
            if forces is not None:
                atoms.arrays[_free_name("predicted_forces", atoms.arrays)] = forces
            if stress is not None:
                atoms.info[_free_name("predicted_stress", atoms.info)] = stress
            ase.io.write(file, atoms, format="extxyz", write_results=False)
            count += 1
    return count


def _free_name(name: str, taken: dict[str, Any]) -> str:
    """The name itself or, where there is one already, with the next number behind it."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free
