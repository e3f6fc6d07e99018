"""All that a structure has, in a form that extended xyz can hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms


def flat_info(atoms: Atoms) -> dict[str, Any]:
    """``atoms.info``, with the key-value pairs and data of a row of ASE's data bases beside the rest.

    Example:
        >>> from ase import Atoms
        >>> flat_info(Atoms("H", info={"name": "x", "key_value_pairs": {"gap": 1.0}}))
        {'gap': 1.0, 'name': 'x'}
    """
    info = dict(atoms.info)
    for place in ("key_value_pairs", "data"):
        if isinstance(info.get(place), Mapping):
            info = {**info.pop(place), **info}
    return info


def writable(atoms: Atoms) -> Atoms:
    """A copy whose ``info`` and ``arrays`` hold all that the structure and the results of its calculator have.

    Arrays of more than two dimensions become rows, and words lose their white space, which extended xyz cannot hold. Of
    constraints, those that fix atoms or directions are kept.

    Args:
        atoms: The structure.
    """
    from ase.constraints import FixAtoms, FixCartesian

    copy = atoms.copy()
    copy.info = {
        key: _as_text(value) if isinstance(value, str) else value
        for key, value in flat_info(atoms).items()
        if value is not None
    }
    for name, value in (getattr(atoms.calc, "results", None) or {}).items():
        _add_result(copy, name, value)
    for name, array in list(copy.arrays.items()):
        if array.ndim > 2 or array.dtype.kind in "OUS":
            copy.arrays[name] = _rows(array)
    copy.set_constraint([fixed for fixed in copy.constraints if isinstance(fixed, FixAtoms | FixCartesian)])
    return copy


def _add_result(atoms: Atoms, name: str, value: Any) -> None:
    from ase.outputs import all_outputs
    from ase.stress import voigt_6_to_full_3x3_stress

    if value is None:
        return
    value = np.asarray(value)
    of_atoms = name in all_outputs and all_outputs[name].shapespec[:1] == ("natoms",)
    if of_atoms and len(value) == len(atoms):
        atoms.arrays.setdefault(name, value)
    else:
        value = voigt_6_to_full_3x3_stress(value) if name == "stress" and value.shape == (6,) else value
        atoms.info.setdefault(name, value.item() if value.ndim == 0 else value)


def _as_text(value: str) -> str:
    """A text as ASE has to be given it to read the same again, in one line; as JSON where it looks like a number."""
    value = value if value.isprintable() else " ".join(value.split())
    ways = (value, f"_JSON {json.dumps(value, ensure_ascii=False)}", value.replace("\\", "\\\\"))
    return next((way for way in ways if _reads(way, value)), value)


def _reads(written: str, value: str) -> bool:
    from ase.io.extxyz import key_val_dict_to_str, key_val_str_to_dict

    try:
        found = key_val_str_to_dict(key_val_dict_to_str({"text": written, "more": 1}))
    except ValueError:
        return False
    return isinstance(found.get("text"), str) and found["text"] == value and len(found) == 2


def _rows(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind in "OUS":
        words = ["_".join(str(word).split()) or "_" for word in array.ravel()]
        array = np.array(words).reshape(array.shape)
    return array.reshape(len(array), -1) if array.ndim > 2 else array
