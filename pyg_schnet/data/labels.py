"""Labels that structures carry: where they are found, what they must look like, and their units and signs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from pyg_schnet.data.properties import Property
from pyg_schnet.units import dimension, factor

if TYPE_CHECKING:
    from ase import Atoms

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
_RESERVED = ("z", "pos", "cell", "pbc", "origin", "batch", "ptr", "edge_index", "edge_shift", "num_nodes")
_RESULTS, _INFO, _ROW, _ROW_DATA, _ARRAYS = (
    "the results of the calculator",
    "atoms.info",
    "the key-value pairs of the row",
    "the data of the row",
    "atoms.arrays",
)
_STALE = "results for other positions, which are left out,"
_ASYMMETRY = 0.1  # of the largest component of a stress


class Label(NamedTuple):
    """One label of a structure.

    Attributes:
        value: What the structure has.
        unit: Its unit.
        level: ``"structure"`` or ``"atom"``.
    """

    value: Any
    unit: str
    level: str


def stored_unit(unit: str) -> str:
    """The unit in which numbers given in ``unit`` are stored; ``unit`` itself where the package has no preference.

    Wave numbers stay what they are: they are frequencies, which are not reported in eV.

    Example:
        >>> stored_unit("kcal/mol/Å"), stored_unit("GHz")
        ('eV/Å', 'GHz')
    """
    return unit if unit == "cm-1" else INTERNAL_UNITS.get(dimension(unit), unit)


def find_labels(
    atoms: Atoms, properties: Mapping[str, str], keys: Mapping[str, str], pbc: np.ndarray
) -> dict[str, Label]:
    """The labels of a structure by name; arguments and errors of :func:`~pyg_schnet.data.to_data`."""
    found: dict[str, Label] = {}
    places = _places(atoms)
    for name in dict.fromkeys([*STANDARD_LABELS, *properties, *keys]):
        if name in _RESERVED:
            raise ValueError(f"a label cannot be called {name!r}; choose another name and give the key in `keys`")
        named, key, standard = name in keys or name in properties, keys.get(name, name), STANDARD_LABELS.get(name)
        unit = _unit_of(name, key, properties)
        place = _place_of(key, places if named else {_RESULTS: places[_RESULTS]})
        if place is None:
            continue
        check_energy_key(name, key)
        if name == "stress":
            _check_not_scaled(key)
        value = places[place][key]
        level = _level_of(key, value, place, len(atoms))
        if standard and level != standard.level:
            if place == _ARRAYS or np.ndim(value) == 0:
                raise ValueError(f"{name!r} is a label of each {standard.level}, but {key!r} is one of each {level}")
            level = standard.level
        found[name] = Label(value, unit, level)
        if name == "stress":
            found[name] = _as_stress(key, found[name], atoms, pbc, stated=name in properties)
        elif name == "forces" and is_gradient(key):
            found[name] = Label(-_numbers(key, value), unit, level)
    return found


def available_labels(atoms: Atoms) -> dict[str, set[str]]:
    """Names of all that a structure carries, by the place where it is."""
    places = _places(atoms)
    places[_STALE] = {} if places[_RESULTS] else getattr(atoms.calc, "results", None) or {}
    return {place: {str(key) for key in entries} for place, entries in places.items()}


def list_labels(available: Mapping[str, set[str]]) -> str:
    """What :func:`available_labels` gives, in words."""
    known = set().union(*(available.get(place, ()) for place in (_INFO, _ROW, _ROW_DATA, _ARRAYS)))
    words = f"atoms.info and atoms.arrays have {', '.join(sorted(known)) or 'nothing'}"
    results = [(place, available[place]) for place in (_RESULTS, _STALE) if available.get(place)]
    return words + "".join(f"; {place} have {', '.join(sorted(names))}" for place, names in results)


def label_tensor(name: str, label: Label, n_atoms: int, dtype: torch.dtype) -> torch.Tensor:
    """A label as it is stored: of structures ``[1, ...]`` in float64, of atoms ``[N, ...]`` in ``dtype``.

    Raises:
        ValueError: If it is no array of finite numbers, or not of the right shape.
    """
    array = _numbers(name, label.value)
    if label.level == "atom":
        if name == "forces":
            if array.shape == (3 * n_atoms,):
                array = array.reshape(n_atoms, 3)
            if array.shape != (n_atoms, 3):
                raise ValueError(f"'forces' must have shape [{n_atoms}, 3], got {list(array.shape)}")
        elif array.shape[:1] != (n_atoms,):
            raise ValueError(f"{name!r} must have a row for each of {n_atoms} atoms, got shape {list(array.shape)}")
    elif name == "stress":
        array = _symmetric(voigt_to_matrix(array))[None]
    elif name in _SHAPES:
        if array.size != np.prod(_SHAPES[name]):
            raise ValueError(f"{name!r} must have {np.prod(_SHAPES[name])} numbers, got shape {list(array.shape)}")
        array = array.reshape(_SHAPES[name])
    else:
        array = array.reshape(1) if array.size == 1 else array[None]
    stored = STANDARD_LABELS[name].unit if name in STANDARD_LABELS else stored_unit(label.unit)
    array = array * factor(label.unit, stored)
    dtype = dtype if label.level == "atom" else torch.float64
    if not np.abs(array).max(initial=0.0) <= torch.finfo(dtype).max:
        raise ValueError(f"{name!r} holds numbers that are too large for {str(dtype).removeprefix('torch.')}")
    return torch.tensor(array, dtype=dtype)


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
    if array.shape not in ((6,), (1, 6)):
        raise ValueError(f"'stress' must have 6 numbers (xx yy zz yz xz xy) or 3 x 3, got shape {list(array.shape)}")
    return array.reshape(6)[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]


def check_stress_key(key: str, unit: str) -> None:
    """Raise for a key of a stress that names something else: a virial, a strain derivative, or a pressure.

    Args:
        key: Key in the file.
        unit: Its unit.

    Raises:
        ValueError: If the key, or a unit of energy, says so; their signs and sizes are other ones.

    Example:
        >>> check_stress_key("REF_stress", "GPa")
        >>> check_stress_key("pressure_tensor", "GPa")
        Traceback (most recent call last):
        ValueError: 'pressure_tensor' [GPa] is a pressure, -1 times the stress; keep the stress in eV/Å³, positive ...
    """
    kind = _kind_of_stress(key)
    kind = "virial" if kind == "stress" and dimension(unit) == "energy" else kind
    if kind != "stress":
        what = {"virial": "-V", "strain derivative": "V", "pressure": "-1"}[kind]
        raise ValueError(f"{key!r} [{unit}] is a {kind}, {what} times the stress; {_ADVICE}")


def check_energy_key(name: str, key: str) -> None:
    """Raise for a total energy that is called one per atom in the file.

    Raises:
        ValueError: If it is.
    """
    if name == "energy" and re.search(r"(per[^a-z]?|/)(atom|site)", key.lower()):
        raise ValueError(
            f"{key!r} is an energy per atom by its name, and 'energy' that of a whole structure; give it a name of its "
            f"own, properties={{{key!r}: 'eV/atom'}}, or multiply by the number of atoms"
        )


def is_gradient(key: str) -> bool:
    """Whether a key of forces names the gradient of the energy, minus the forces.

    Raises:
        ValueError: If it names both, or a negative gradient in words that may mean either.

    Example:
        >>> is_gradient("dft_total_gradient"), is_gradient("REF_forces")
        (True, False)
    """
    name = key.lower()
    if re.search(r"grad(?!e|ual)|(^|_)d(e|y|v)_?d[rxq]", name) is None:
        return False
    if re.search("force|neg|minus|^-", name):
        raise ValueError(
            f"{key!r} may be the gradient of the energy or minus that, the forces; rename it to one of the two"
        )
    return True


_ADVICE = "keep the stress in eV/Å³, positive under tension, which is -virial/V"
_KINDS = {
    "virial": r"virial|(^|[^a-z])virs?([^a-z]|$)",
    "strain derivative": r"(^|[^a-z])d(e|u|v|energy)_?d_?(strain|eps)|strain_?(deriv|grad)",
    "pressure": r"pressure|compress",
}


def _symmetric(stress: np.ndarray) -> np.ndarray:
    if np.abs(stress - stress.T).max() > _ASYMMETRY * np.abs(stress).max():
        raise ValueError(f"'stress' must be symmetric, got {stress.tolist()}; are its 9 numbers those of 3 x 3?")
    return stress


def _kind_of_stress(key: str) -> str:
    """What a key of a stress names: ``"stress"``, or one of those that differ from it in sign or size.

    Raises:
        ValueError: If it may be two of them, or of either sign.
    """
    name = key.lower()
    found = [kind for kind, pattern in _KINDS.items() if re.search(pattern, name)]
    if len(found) > 1 or (found and "stress" in name):
        others = [*found, *(["stress"] if "stress" in name else [])]
        raise ValueError(f"{key!r} may be a {' or a '.join(others)}, of either sign; {_ADVICE}, under a plain name")
    if re.search(r"(^|[^a-z])(neg|negative|minus)([^a-z]|$)|^-", name):
        kind = found[0] if found else "stress"
        raise ValueError(f"{key!r} may be a {kind} or minus that; {_ADVICE}, under a plain name")
    return found[0] if found else "stress"


def _check_not_scaled(key: str) -> None:
    """Raise for a key of a virial per atom or volume, or a stress per atom, where that of the whole is meant.

    Raises:
        ValueError: If it is one.
    """
    found = re.search(r"(per[^a-z]?|/)(atom|site|vol(ume)?)([^a-z]|$)", key.lower())
    if found and (not found[2].startswith("vol") or _kind_of_stress(key) != "stress"):
        raise ValueError(f"{key!r} is per {found[2]} by its name, so that its size is not clear; {_ADVICE}")


def _as_stress(key: str, label: Label, atoms: Atoms, pbc: np.ndarray, *, stated: bool) -> Label:
    """The stress in the sign of the package, of what a key and a unit say it is."""
    kind, energy = _kind_of_stress(key), dimension(label.unit) == "energy"
    if kind == "pressure":
        if energy:
            raise ValueError(f"{key!r} is a pressure, but {label.unit!r} is a unit of energy; {_ADVICE}")
        return Label(-voigt_to_matrix(_numbers(key, label.value)), label.unit, "structure")
    if kind == "stress" and not energy:
        return label
    return _stress_of_virial(key, label, atoms, pbc, stated=stated, sign=1.0 if kind == "strain derivative" else -1.0)


def _stress_of_virial(
    key: str, label: Label, atoms: Atoms, pbc: np.ndarray, *, stated: bool, sign: float = -1.0
) -> Label:
    """The stress in eV/Å³, ``sign`` / V times a virial or strain derivative in a unit of energy."""
    if stated and dimension(label.unit) != "energy":
        raise ValueError(
            f"{key!r} in {label.unit} may be a virial or a stress, of either sign; {_ADVICE}, under a name without "
            "'virial', or state a unit of energy for a virial"
        )
    if not pbc.any() or not atoms.cell.volume > 0:
        raise ValueError(
            f"{key!r} is a virial, but the structure has pbc={pbc.tolist()} and a cell of {atoms.cell.volume:.6g} Å³; "
            "a stress needs a periodic structure in a cell with a volume"
        )
    scale = factor(label.unit, "eV") if stated else 1.0
    value = sign * scale / atoms.cell.volume * voigt_to_matrix(_numbers(key, label.value))
    return Label(value, "eV/Å³", "structure")


def _unit_of(name: str, key: str, properties: Mapping[str, str]) -> str:
    standard = STANDARD_LABELS.get(name)
    unit = properties.get(name, standard.unit if standard else None)
    if unit is None:
        swapped = f"; `keys` has the names of labels first, {{{key!r}: {name!r}}}" if key in STANDARD_LABELS else ""
        raise ValueError(f"the unit of {name!r} is not known; state it in `properties`{swapped}")
    of_virial = name == "stress" and dimension(unit) == "energy"
    if standard and dimension(unit) != dimension(standard.unit) and not of_virial:
        raise ValueError(f"{name!r} must be given in a unit of {dimension(standard.unit)}, got {unit!r}")
    return unit


def _places(atoms: Atoms) -> dict[str, dict[str, Any]]:
    """All that may be a label, by the place where it is; ``None`` is none."""
    info = dict(atoms.info)
    of_row = {_ROW: info.pop("key_value_pairs", None), _ROW_DATA: info.get("data")}
    if isinstance(of_row[_ROW_DATA], Mapping):
        del info["data"]
    places = {_RESULTS: _valid_results(atoms), _INFO: info, **of_row, _ARRAYS: dict(atoms.arrays)}
    known = {
        place: {key: value for key, value in entries.items() if value is not None}
        for place, entries in places.items()
        if isinstance(entries, Mapping)
    }
    for name in ("numbers", "positions"):
        known[_ARRAYS].pop(name, None)
    return known


def _valid_results(atoms: Atoms) -> dict[str, Any]:
    """Results of the calculator that belong to the present positions; it is neither asked to calculate nor changed."""
    calc = atoms.calc
    results = getattr(calc, "results", None)
    if not results or (hasattr(calc, "check_state") and calc.check_state(atoms)):
        return {}
    return dict(results)


def _place_of(key: str, places: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Where ``key`` is; ``None`` where it is not.

    Raises:
        ValueError: If it is in two places, with different values.
    """
    found = [place for place, entries in places.items() if key in entries]
    for other in found[1:]:
        if not _is_same(places[found[0]][key], places[other][key]):
            raise ValueError(
                f"{key!r} is in {found[0]} and in {other}, with different values; remove or rename one of them"
            )
    return found[0] if found else None


def _is_same(first: Any, second: Any) -> bool:
    try:
        a, b = (np.asarray(value, dtype=np.float64) for value in (first, second))
    except (TypeError, ValueError):
        return False
    if {a.size, b.size} == {6, 9}:
        a, b = voigt_to_matrix(a), voigt_to_matrix(b)
    return a.size == b.size and np.allclose(a.ravel(), b.ravel(), rtol=1e-6, atol=1e-9)


def _level_of(key: str, value: Any, place: str, n_atoms: int) -> str:
    """Whether a label is of the structure or of each atom, by its place, what ASE says of its name, or its shape."""
    from ase.outputs import all_outputs

    if place == _ARRAYS:
        return "atom"
    if key in all_outputs:
        return "atom" if all_outputs[key].shapespec[:1] == ("natoms",) else "structure"
    try:
        shape = np.shape(value)
    except ValueError:  # rows of different lengths
        shape = ()
    return "atom" if place in (_RESULTS, _ROW_DATA) and shape[:1] == (n_atoms,) else "structure"


def _numbers(name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
        if array.dtype.kind == "c" or (array.dtype.kind == "b" and array.ndim == 0):  # a bare word of extxyz is True
            raise ValueError("neither true nor complex")
        array = array.astype(np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name!r} must be a number or an array of numbers, got {value!r}") from None
    if not np.isfinite(array).all():
        raise ValueError(f"{name!r} holds numbers that are not finite; leave it out where it is not known")
    return array
