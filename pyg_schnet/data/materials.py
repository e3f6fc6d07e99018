"""Crystals with properties from JSON: Matbench, the Materials Project, pymatgen structures, mlearn."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pyg_schnet.data.base import StructureDataset
from pyg_schnet.data.charge import warn_of_record
from pyg_schnet.data.labels import (
    STANDARD_LABELS,
    check_energy_key,
    check_stress_key,
    is_gradient,
    stored_unit,
    voigt_to_matrix,
)
from pyg_schnet.data.properties import Property
from pyg_schnet.data.records import find_entry, numbers_of, read_records, structure_of
from pyg_schnet.data.structure import near_origin
from pyg_schnet.models.reading import described
from pyg_schnet.units import dimension, factor


class MaterialsDataset(StructureDataset):
    """Crystals of JSON files: an array of records, one record per line, or the table of a Matbench task.

    A record holds the structure either as ``sym`` (element symbols), ``frac`` (fractional coordinates) and ``cell``
    (a, b, c in Å and three angles in degrees) or ``lattice`` (vectors in rows, Å), or as pymatgen writes it, as a
    ``structure``. All three directions are periodic. Fields are those of :func:`~pyg_schnet.data.to_data`, ``name``
    (the ``id`` of a record), and the labels. A label that a record lacks is zero and marked by ``has_<label>``.

    Args:
        path: File or several files, plain or compressed as ``.gz``, ``.bz2`` or ``.xz``.
        properties: Unit in the file of each label by name, such as ``{"e_form": "eV"}`` for Matbench's perovskites,
            or ``{"last_phdos_peak": "cm-1"}``. Units are converted as in :func:`~pyg_schnet.data.to_data`.
        keys: Entry of a record that holds a label, where it differs from its name, such as ``{"energy":
            "outputs.energy"}`` for an entry of a nested dictionary.
        keep: Further entries of the records to keep unchanged, such as ``("fold",)``: whole numbers or strings.
        select: Values of entries by which records are selected, such as ``{"fold": [0, 1, 2]}``.
        transform: Applied to each structure on access; see :class:`StructureDataset`.
        dtype: Precision of positions, cells and labels of atoms; labels of structures are float64.

    Raises:
        OSError: If a file does not exist, or is not a regular file.
        ValueError: If a file has none of these forms, a record is not a structure (the message says which), or no
            record has a label.
    """

    def __init__(
        self,
        path: Sequence[str | os.PathLike] | str | os.PathLike,
        properties: Mapping[str, str],
        keys: Mapping[str, str] | None = None,
        keep: Sequence[str] = (),
        select: Mapping[str, Sequence[int | str]] | None = None,
        transform: Callable | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(transform=transform)
        self.properties = {name: _property(name, unit) for name, unit in properties.items()}
        keys = {name: name for name in properties} | dict(keys or {})
        self._check_keys(keys, properties)
        structures: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # numbers, positions, cell
        labels: dict[str, list[np.ndarray | None]] = {name: [] for name in properties}
        kept: dict[str, list[Any]] = {name: [] for name in ("id", *keep)}
        charged = False
        for entry, values in (select or {}).items():
            if isinstance(values, str) or not isinstance(values, Sequence):
                raise ValueError(f"select must give a list of values of {entry!r}, got {described(values)}")
        for where, record in read_records(path):
            if any(find_entry(record, entry) not in values for entry, values in (select or {}).items()):
                continue
            charged = charged or warn_of_record(record, keys.values(), where=where)
            try:
                structures.append(structure_of(record))
                for name, column in labels.items():
                    value = self._label(name, find_entry(record, keys[name]), len(structures[-1][0]))
                    is_minus = name == "forces" and value is not None and is_gradient(keys[name])
                    column.append(-value if value is not None and is_minus else value)
            except ValueError as error:
                raise ValueError(f"{where} is not a labelled structure: {error}") from error
            for name, column in kept.items():
                column.append(find_entry(record, name))
        if not structures:
            raise ValueError(f"{path} has no structures" + (f" with {select}" if select else ""))
        for name, column in labels.items():
            if all(value is None for value in column):
                raise ValueError(f"no record of {path} has {keys[name]!r}")
        try:
            self._fill(structures, labels, kept, properties, dtype)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def _check_keys(self, keys: Mapping[str, str], units: Mapping[str, str]) -> None:
        if "stress" in units:
            check_stress_key(keys["stress"], units["stress"])
        if "energy" in units:
            check_energy_key("energy", keys["energy"])

    def _label(self, name: str, value: Any, n_atoms: int) -> np.ndarray | None:
        if value is None:
            return None
        array = numbers_of(value, name)
        if name == "stress":
            array = voigt_to_matrix(array)
        if self.properties[name].level == "atom" and array.shape[:1] != (n_atoms,):
            raise ValueError(f"{name!r} has shape {list(array.shape)}, expected a row for each of the {n_atoms} atoms")
        expected = {"energy": (), "forces": (n_atoms, 3), "dipole": (3,)}.get(name, array.shape)
        if array.shape != expected:
            raise ValueError(f"{name!r} has shape {list(array.shape)}, expected {list(expected)}")
        return array

    def _fill(
        self,
        structures: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
        labels: dict[str, list[np.ndarray | None]],
        kept: dict[str, list[Any]],
        units: Mapping[str, str],
        dtype: torch.dtype,
    ) -> None:
        counts = [len(numbers) for numbers, _, _ in structures]
        periodic = np.ones(3, dtype=bool)
        placed = [near_origin(positions, dtype, cell, periodic) for _, positions, cell in structures]
        columns: dict[str, dict[str, Any]] = {
            "atom": {
                "z": torch.from_numpy(np.concatenate([numbers for numbers, _, _ in structures])),
                "pos": torch.from_numpy(np.concatenate([positions for positions, _ in placed])).to(dtype),
            },
            "structure": {
                "cell": torch.from_numpy(np.stack([cell for _, _, cell in structures])).to(dtype),
                "pbc": torch.ones(len(structures), 3, dtype=torch.bool),
                "origin": torch.from_numpy(np.stack([origin for _, origin in placed])),
            },
        }
        for name, target in self.properties.items():
            per_atom = target.level == "atom"
            example = next(value for value in labels[name] if value is not None)
            shape = example.shape[per_atom:]
            if others := {value.shape[per_atom:] for value in labels[name] if value is not None} - {shape}:
                shapes = " and ".join(str(list(one)) for one in (shape, *others))
                raise ValueError(f"{name!r} does not have the same shape in all records: {shapes}")
            parts = [
                np.zeros((n, *shape) if per_atom else shape) if value is None else value
                for value, n in zip(labels[name], counts, strict=True)
            ]
            array = (np.concatenate if per_atom else np.stack)(parts) * factor(units[name], target.unit)
            columns[target.level][name] = torch.from_numpy(array).to(dtype if per_atom else torch.float64)
            columns["structure"][f"has_{name}"] = torch.tensor([value is not None for value in labels[name]])
        for name, column in kept.items():
            if all(isinstance(value, int) and abs(value) < 2**63 for value in column):
                columns["structure"][name] = torch.tensor(column)
            elif all(isinstance(value, str) for value in column):
                columns["structure"]["name" if name == "id" else name] = column
            elif name != "id":
                raise ValueError(f"{name!r} can only be kept if all records have a whole number, or all a string")
        self.set_store(torch.tensor(counts), columns["atom"], columns["structure"])


class MLearn(MaterialsDataset):
    """Bulk cells with energies and forces of `Zuo et al. (2020) <https://doi.org/10.1021/acs.jpca.9b08723>`_, mlearn.

    The files have a virial stress in kbar, positive under compression, as VASP has it; it is stored with ASE's sign,
    in eV/Å³. Its shear components come in an order that differs from element to element, and that no file states.
    The elastic entries show ``"xx yy zz xy yz xz"`` for Li, Si and Ge and ``"xx yy zz xy xz yz"`` for Mo.

    Args:
        path: File or several files, such as ``"Li_training.json.gz"``.
        stress_order: The order of the six components of the stress; ``None`` leaves the stress out.
        transform: Applied to each structure on access; see :class:`StructureDataset`.
        dtype: Of positions, cells and forces.

    Raises:
        ValueError: If ``stress_order`` does not name the six components, or as :class:`MaterialsDataset`.
    """

    def __init__(
        self,
        path: Sequence[str | os.PathLike] | str | os.PathLike,
        stress_order: str | None = None,
        transform: Callable | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        voigt = ["xx", "yy", "zz", "yz", "xz", "xy"]
        order = voigt if stress_order is None else stress_order.split()
        if sorted(order) != sorted(voigt):
            raise ValueError(f"stress_order must name {' '.join(voigt)} in some order, got {stress_order!r}")
        self._to_voigt = [order.index(component) for component in voigt]
        units = {"energy": "eV", "forces": "eV/Å"} | ({} if stress_order is None else {"stress": "kbar"})
        keys = {"energy": "outputs.energy", "forces": "outputs.forces", "stress": "outputs.virial_stress"}
        super().__init__(path, units, keys, keep=("group",), transform=transform, dtype=dtype)

    def _check_keys(self, keys: Mapping[str, str], units: Mapping[str, str]) -> None:
        """The virial stress of these files is known to be one, with the sign of a pressure."""

    def _label(self, name: str, value: Any, n_atoms: int) -> np.ndarray | None:
        if name == "stress" and value is not None:
            value = -numbers_of(value, "virial_stress", (6,))[self._to_voigt]
        return super()._label(name, value, n_atoms)


def _property(name: str, unit: str) -> Property:
    standard = STANDARD_LABELS.get(name)
    if standard is None:
        return Property(name, stored_unit(unit))
    if dimension(unit) != dimension(standard.unit):
        raise ValueError(f"{name!r} must be given in a unit of {dimension(standard.unit)}, got {unit!r}")
    return standard
