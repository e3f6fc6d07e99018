"""Charge and spin, which structures may have and models do not know."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms

_CHARGES = ("charge", "total_charge", "net_charge", "molecular_charge", "tot_charge", "formal_charge")
_UNPAIRED = ("spin", "total_spin", "uhf", "nupdown", "magmom", "total_magmom", "magnetic_moment", "unpaired_electrons")
_MULTIPLICITIES = ("multiplicity", "spin_multiplicity", "mult")
_PER_ATOM = {"initial_charges": "charges", "initial_magmoms": "magnetic moments"}
_OF_ROWS = ("data", "key_value_pairs")  # of ASE's databases
_LOOKED_AT = frozenset((*_CHARGES, *_UNPAIRED, *_MULTIPLICITIES, *_OF_ROWS))


def charge_and_spin(atoms: Atoms, labels: Collection[str] = ()) -> str | None:
    """What a structure says of its charge and spin, in words; ``None`` for what is neutral and has no spin.

    Args:
        atoms: Structure; keys of ``atoms.info`` such as ``charge``, ``total_charge``, ``spin`` and ``multiplicity`` are
            looked at, in upper or lower case, and initial charges and magnetic moments. A ``spin`` of 1 beside a
            ``charge`` is a multiplicity, as some data sets have it.
        labels: Keys that are read as labels, and so are not meant.

    Example:
        >>> from ase import Atoms
        >>> charge_and_spin(Atoms("OH", info={"charge": -1, "multiplicity": 1}))
        'charge=-1'
    """
    of_row = [atoms.info.get(place) for place in _OF_ROWS]
    given = {
        key: value for place in (*of_row, atoms.info) if isinstance(place, Mapping) for key, value in place.items()
    }
    lower = {key.lower(): key for key in given if isinstance(key, str) and key not in labels}
    found = [lower[key] for key in _CHARGES if key in lower and _differs(given[lower[key]], 0)]
    found += [lower[key] for key in _MULTIPLICITIES if key in lower and _differs(given[lower[key]], 1)]
    as_multiplicity = any(key in lower for key in _CHARGES)
    for key in _UNPAIRED:
        if key in lower and _differs(given[lower[key]], 0):
            if key == "spin" and as_multiplicity and not _differs(given[lower[key]], 1):
                continue
            found.append(lower[key])
    words = [f"{key}={given[key]}" for key in found]
    words += [
        f"initial {name}"
        for key, name in _PER_ATOM.items()
        if key in atoms.arrays and key not in labels and np.abs(atoms.arrays[key]).max(initial=0.0) > 1e-6
    ]
    return ", ".join(words) or None


def may_be_charge(keys: Iterable[Any]) -> bool:
    """Whether :func:`charge_and_spin` looks at the value of any of these keys of ``atoms.info``.

    Example:
        >>> may_be_charge(["energy", "Spin"]), may_be_charge(["energy"])
        (True, False)
    """
    return any(isinstance(key, str) and key.lower() in _LOOKED_AT for key in keys)


def warn_of_charge(atoms: Atoms, labels: Collection[str] = (), *, where: str = "the structure") -> bool:
    """Warn where a structure has a charge or spin; see :func:`charge_and_spin`.

    Args:
        atoms: Structure.
        labels: Keys that are read as labels.
        where: Which structure it is, in words.

    Returns:
        Whether it was so.
    """
    return _warn(charge_and_spin(atoms, labels), where)


def warn_of_record(record: Mapping[str, Any], labels: Collection[str] = (), *, where: str) -> bool:
    """As :func:`warn_of_charge` for a record of JSON with a ``charge``, its own or that of pymatgen's structure."""
    inner = record.get("structure")
    for given in (record, inner if isinstance(inner, Mapping) else {}):
        if "charge" not in labels and _differs(given.get("charge", 0), 0):
            return _warn(f"charge={given['charge']}", where)
    return False


def _warn(text: str | None, where: str) -> bool:
    if text is not None:
        warnings.warn(
            f"{where} has {text}, but models know neither charge nor spin: all states of a structure look the same to "
            "them, and a model gives that which it was trained on",
            UserWarning,
            stacklevel=4,
        )
    return text is not None


def _differs(value: Any, usual: int) -> bool:
    """Whether a value is a number other than the usual one; what is no number says nothing."""
    try:
        return abs(float(np.asarray(value).item()) - usual) > 1e-6
    except (TypeError, ValueError):
        return False
