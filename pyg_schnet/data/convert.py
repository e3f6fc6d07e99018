"""Between ``ase.Atoms`` and tensors; the only place of the package that reads the one into the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch_geometric.data import Batch, Data

from pyg_schnet.data.properties import Property, target_values
from pyg_schnet.units import dimension, factor

if TYPE_CHECKING:
    from ase import Atoms
    from ase.cell import Cell

#: The unit in which a label of each dimension is stored.
INTERNAL_UNITS = {
    "energy": "eV",
    "energy per atom": "eV/atom",
    "length": "Å",
    "force": "eV/Å",
    "pressure": "eV/Å³",
    "dipole": "e·Å",
}

#: What ASE's calculators report, in the units in which they do.
STANDARD_LABELS: dict[str, Property] = {
    "energy": Property("energy", "eV", "structure", description="total energy"),
    "forces": Property("forces", "eV/Å", "atom", description="minus the gradient of the energy"),
    "stress": Property("stress", "eV/Å³", "structure", description="dE/dstrain / V, positive under tension"),
    "dipole": Property("dipole", "e·Å", "structure", description="dipole moment"),
}
_SHAPES = {"energy": (1,), "dipole": (1, 3), "stress": (1, 3, 3)}
_RESERVED = ("z", "pos", "cell", "pbc", "batch", "ptr", "edge_index", "edge_shift", "num_nodes")
_MAX_Z = 118
_SAME_PLACE = 1e-6  # Å, or parts of a lattice vector


def stored_unit(unit: str) -> str:
    """The unit in which numbers given in ``unit`` are stored; ``unit`` itself where the package has no preference.

    Wave numbers stay what they are: they are frequencies, which nobody reports in eV.

    Example:
        >>> stored_unit("kcal/mol/Å"), stored_unit("GHz")
        ('eV/Å', 'GHz')
    """
    return unit if unit == "cm-1" else INTERNAL_UNITS.get(dimension(unit), unit)


def to_data(
    atoms: Atoms,
    properties: Mapping[str, str] | None = None,
    keys: Mapping[str, str] | None = None,
    pbc: bool | Sequence[bool] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Data:
    """Convert a structure, with the labels that it carries.

    Every structure gets ``z`` ``[N]``, ``pos`` ``[N, 3]``, ``cell`` ``[1, 3, 3]`` (rows, zeros without a cell) and
    ``pbc`` ``[1, 3]``, so that molecules, slabs and crystals can be in one batch, and come back from :func:`to_atoms`
    as they went in.

    The labels ``energy`` ``[1]``, ``forces`` ``[N, 3]``, ``stress`` ``[1, 3, 3]`` and ``dipole`` ``[1, 3]`` are taken
    from the results of ``atoms.calc`` where it has them; nothing is calculated. Results for other positions than the
    present ones are left out, as ASE does. Labels of whole structures are float64 whatever ``dtype`` is, because
    float32 is spaced by 2 meV at a total energy of 17,600 eV.

    Args:
        atoms: The structure, in Å.
        properties: Further labels by name, each with the unit in which ``atoms`` has it; looked for in ``atoms.info``
            (one value per structure) and ``atoms.arrays`` (one per atom). Numbers are converted to eV, Å, e·Å and their
            quotients; those of other dimensions stay as they are (:func:`stored_unit`). A standard label may be named
            to state another unit.
        keys: Name in ``atoms.info`` or ``atoms.arrays`` of a label, where it differs, such as
            ``{"energy": "REF_energy"}``. Such a label is never taken from the calculator.
        pbc: Replaces ``atoms.pbc``, for example ``False`` for molecules that a program has put in a box.
        dtype: Of positions, cell and labels of atoms.

    Returns:
        The structure. A label that it does not have is not there.

    Raises:
        ValueError: If there are no atoms, an atomic number is not an element's, a number is not finite, a periodic
            direction has no cell vector, or a label has the wrong shape or name.

    Example:
        >>> from ase import Atoms
        >>> data = to_data(Atoms("OH2", [[0, 0, 0], [0, 0, 0.96], [0, 0.93, -0.24]], info={"E": -1.0}),
        ...                properties={"energy": "Hartree"}, keys={"energy": "E"})
        >>> data.z, data.energy
        (tensor([8, 1, 1]), tensor([-27.2114], dtype=torch.float64))
    """
    numbers, pbc_array = _checked_structure(atoms, pbc)
    data = Data(
        z=torch.from_numpy(numbers),
        pos=torch.tensor(atoms.get_positions(), dtype=dtype),
        cell=torch.tensor(atoms.cell.array[None], dtype=dtype),
        pbc=torch.from_numpy(pbc_array[None]),
    )
    for name, (value, unit, level) in _labels(atoms, properties or {}, keys or {}).items():
        data[name] = _label_tensor(name, value, unit, level, len(numbers), dtype)
    return data


def to_atoms(data: Data, properties: Mapping[str, Property] | None = None) -> Atoms:
    """Convert a structure back; the inverse of :func:`to_data`.

    The labels that :func:`to_data` finds by itself go to a
    :class:`~ase.calculators.singlepoint.SinglePointCalculator`, unless ``has_<label>`` says that the structure has
    none. Positions are as exact as their dtype.

    Args:
        data: One structure with ``z`` and ``pos``, perhaps ``cell``, ``pbc`` and labels.
        properties: Further labels to keep, such as the ``properties`` of a data set; they go to ``atoms.info`` (one
            value per structure) or ``atoms.arrays`` (one per atom), in the units that they have.

    Returns:
        The structure.

    Raises:
        ValueError: If ``data`` is a batch, or lacks one of ``properties``.
    """
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.stress import full_3x3_to_voigt_6_stress

    if isinstance(data, Batch):
        raise ValueError(f"got a batch of {data.num_graphs} structures; convert them one by one from to_data_list()")
    host = {name: _to_numpy(data[name]) for name in ("z", "pos", "cell", "pbc") if name in data}
    atoms = Atoms(
        numbers=host["z"],
        positions=host["pos"],
        cell=host["cell"].reshape(3, 3) if "cell" in host else None,
        pbc=host["pbc"].reshape(3) if "pbc" in host else None,
    )
    for name, target in (properties or {}).items():
        if name in STANDARD_LABELS or not bool(data.get(f"has_{target.attribute}", True)):
            continue
        value = _to_numpy(target_values(data, target))
        if target.level == "atom":
            atoms.set_array(name, value)
        else:
            atoms.info[name] = value.item() if value.size == 1 else value[0]
    results = {
        name: _to_numpy(data[name]) for name in STANDARD_LABELS if name in data and bool(data.get(f"has_{name}", True))
    }
    for name, as_ase in (
        ("energy", lambda energy: energy.item()),
        ("stress", lambda stress: full_3x3_to_voigt_6_stress(stress.reshape(3, 3))),
        ("dipole", lambda dipole: dipole.reshape(3)),
    ):
        if name in results:
            results[name] = as_ase(results[name])
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def _to_numpy(value: torch.Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()


def _checked_structure(atoms: Atoms, pbc: bool | Sequence[bool] | None) -> tuple[np.ndarray, np.ndarray]:
    numbers = np.array(atoms.numbers, dtype=np.int64)
    if numbers.size == 0:
        raise ValueError("the structure has no atoms")
    if numbers.min() < 1 or numbers.max() > _MAX_Z:
        wrong = numbers[(numbers < 1) | (numbers > _MAX_Z)][0]
        raise ValueError(f"atomic numbers must be 1 to {_MAX_Z}, got {wrong}")
    positions = atoms.get_positions()
    if not np.isfinite(positions).all():
        wrong = int(np.flatnonzero(~np.isfinite(positions).all(axis=1))[0])
        raise ValueError(f"the position of atom {wrong} is {positions[wrong].tolist()}, expected finite numbers in Å")
    if not np.isfinite(atoms.cell.array).all():
        raise ValueError(f"the cell is {atoms.cell.array.tolist()}, expected finite numbers in Å")
    periodic = np.array(np.broadcast_to(atoms.pbc if pbc is None else pbc, (3,)), dtype=bool)
    _check_distinct(positions, atoms.cell, periodic)
    if (periodic & ~atoms.cell.array.any(axis=1)).any():
        raise ValueError(
            f"the structure has pbc={periodic.tolist()} but a zero cell vector; set atoms.cell or atoms.pbc = False"
        )
    return numbers, periodic


def _check_distinct(positions: np.ndarray, cell: Cell, periodic: np.ndarray) -> None:
    """Raise if two atoms are in the same place, or one in that of a periodic image of the other."""
    from scipy.spatial import KDTree

    if len(positions) == 1 or (periodic & ~cell.array.any(axis=1)).any():
        return
    if periodic.any():
        scaled = cell.complete().scaled_positions(positions)
        scaled[:, periodic] %= 1.0
        scaled[scaled == 1.0] = 0.0  # where a tiny negative number was rounded up
        tree = KDTree(scaled, boxsize=periodic.astype(float))
    else:
        tree = KDTree(positions)
    pairs = tree.query_pairs(_SAME_PLACE)
    if pairs:
        first, second = min(pairs)
        raise ValueError(
            f"atoms {first} and {second} are in the same place, {positions[first].tolist()} Å; remove one of them"
        )


def _labels(atoms: Atoms, properties: Mapping[str, str], keys: Mapping[str, str]) -> dict[str, tuple[Any, str, str]]:
    """Value, unit and level of every label of a structure."""
    found: dict[str, tuple[Any, str, str]] = {}
    results = _valid_results(atoms)
    for name in dict.fromkeys([*STANDARD_LABELS, *properties, *keys]):
        if name in _RESERVED:
            raise ValueError(f"a label cannot be called {name!r}; choose another name and give the key in `keys`")
        standard = STANDARD_LABELS.get(name)
        unit = properties.get(name, standard.unit if standard else None)
        if unit is None:
            raise ValueError(f"the unit of {name!r} is not known; state it in `properties`")
        if standard and dimension(unit) != dimension(standard.unit):
            raise ValueError(f"{name!r} must be given in a unit of {dimension(standard.unit)}, got {unit!r}")
        key = keys.get(name, name)
        if name not in keys and standard and name in results:
            found[name] = results[name], unit, standard.level
        elif (name in keys or name in properties) and (place := label_level(atoms, key)):
            if standard and place != standard.level:
                raise ValueError(f"{name!r} is a label of each {standard.level}, but {key!r} is one of each {place}")
            found[name] = atoms.arrays[key] if place == "atom" else structure_info(atoms)[key], unit, place
    return found


def structure_info(atoms: Atoms) -> dict[str, Any]:
    """``atoms.info``, with the key-value pairs of ASE's data bases, which it holds as a dict of their own."""
    return {**atoms.info.get("key_value_pairs", {}), **atoms.info}


def label_level(atoms: Atoms, key: str) -> str | None:
    """Whether ``key`` is of the whole structure or of each atom; ``None`` where there is no such key."""
    if key in structure_info(atoms):
        return "structure"
    return "atom" if key in atoms.arrays else None


def _valid_results(atoms: Atoms) -> dict[str, Any]:
    """Results of the calculator that belong to the present positions; it is neither asked to calculate nor changed."""
    calc = atoms.calc
    results = getattr(calc, "results", None)
    if not results or (hasattr(calc, "check_state") and calc.check_state(atoms)):
        return {}
    return {name: value for name, value in results.items() if value is not None}


def _label_tensor(name: str, value: Any, unit: str, level: str, n_atoms: int, dtype: torch.dtype) -> torch.Tensor:
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name!r} must be a number or an array of numbers, got {value!r}") from None
    if not np.isfinite(array).all():
        raise ValueError(f"{name!r} holds numbers that are not finite")
    if level == "atom":
        if name == "forces" and array.shape != (n_atoms, 3):
            raise ValueError(f"'forces' must have shape [{n_atoms}, 3], got {list(array.shape)}")
    elif name == "stress":
        array = voigt_to_matrix(array)[None]
    elif name in _SHAPES:
        if array.size != np.prod(_SHAPES[name]):
            raise ValueError(f"{name!r} must have {np.prod(_SHAPES[name])} numbers, got shape {list(array.shape)}")
        array = array.reshape(_SHAPES[name])
    else:
        array = array.reshape(1) if array.size == 1 else array[None]
    array *= factor(unit, stored_unit(unit))
    return torch.tensor(array, dtype=dtype if level == "atom" else torch.float64)


def voigt_to_matrix(array: np.ndarray) -> np.ndarray:
    """A stress as a matrix ``[3, 3]``, from six components xx yy zz yz xz xy, nine, or a matrix.

    Raises:
        ValueError: If there are not six or nine numbers.

    Example:
        >>> voigt_to_matrix(np.arange(6))
        array([[0, 5, 4],
               [5, 1, 3],
               [4, 3, 2]])
    """
    if array.size == 9:
        return array.reshape(3, 3)
    if array.shape != (6,):
        raise ValueError(f"'stress' must have 6 numbers (xx yy zz yz xz xy) or 3 x 3, got shape {list(array.shape)}")
    return array[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
