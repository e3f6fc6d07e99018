"""Unit factors and conversion; inside the package everything is eV, Å, e·Å and atomic mass units.

The factors are those of CODATA 2018, in which the electron charge and Avogadro's number are exact.
"""

from __future__ import annotations

from typing import Any, TypeVar

T = TypeVar("T")

_CHARGE = 1.602176634e-19  # C, exact
_AVOGADRO = 6.02214076e23  # 1/mol, exact
_BOHR = 0.529177210903  # Å
_HARTREE = 27.211386245988  # eV
_PLANCK_C = 1.239841984332e-4  # eV cm
_KCAL_MOL = 4184.0 / (_AVOGADRO * _CHARGE)  # eV
_DEBYE = 1e-11 / (299792458.0 * _CHARGE)  # e·Å, from 1e-21 C m²/s over the speed of light

# unit -> (dimension, factor to the internal unit of that dimension)
_UNITS: dict[str, tuple[str, float]] = {
    "1": ("dimensionless", 1.0),
    "eV": ("energy", 1.0),
    "meV": ("energy", 1e-3),
    "Hartree": ("energy", _HARTREE),
    "kcal/mol": ("energy", _KCAL_MOL),
    "kJ/mol": ("energy", _KCAL_MOL / 4.184),
    "cm-1": ("energy", _PLANCK_C),
    "eV/atom": ("energy per atom", 1.0),
    "meV/atom": ("energy per atom", 1e-3),
    "Å": ("length", 1.0),
    "Bohr": ("length", _BOHR),
    "nm": ("length", 10.0),
    "eV/Å": ("force", 1.0),
    "meV/Å": ("force", 1e-3),
    "kcal/mol/Å": ("force", _KCAL_MOL),
    "Hartree/Bohr": ("force", _HARTREE / _BOHR),
    "eV/Å³": ("pressure", 1.0),
    "GPa": ("pressure", 1e-21 / _CHARGE),  # 1e9 N/m² · 1e-30 m³ / e
    "kbar": ("pressure", 1e-22 / _CHARGE),
    "e·Å": ("dipole", 1.0),
    "D": ("dipole", _DEBYE),
    "e·Bohr": ("dipole", _BOHR),
    "Å²": ("area", 1.0),
    "a₀²": ("area", _BOHR**2),
    "Å³": ("volume", 1.0),
    "a₀³": ("volume", _BOHR**3),
    "cal/(mol K)": ("heat capacity", 1e-3 * _KCAL_MOL),
    "eV/K": ("heat capacity", 1.0),
    "GHz": ("frequency", 1.0),
}


def dimension(unit: str) -> str:
    """Name of the physical dimension of ``unit``, for example ``"energy"``.

    Raises:
        ValueError: If the unit is unknown; the message lists the known ones.

    Example:
        >>> dimension("kcal/mol")
        'energy'
    """
    if unit not in _UNITS:
        raise ValueError(f"unknown unit {unit!r}; known units are {', '.join(sorted(_UNITS))}")
    return _UNITS[unit][0]


def factor(source: str, target: str) -> float:
    """Number by which a value in ``source`` is multiplied to be a value in ``target``.

    Raises:
        ValueError: If a unit is unknown or the two have different dimensions.

    Example:
        >>> round(factor("kcal/mol", "meV"), 4)
        43.3641
    """
    if dimension(source) != dimension(target):
        raise ValueError(
            f"cannot convert {source!r} ({dimension(source)}) to {target!r} ({dimension(target)}): "
            "the dimensions differ"
        )
    return _UNITS[source][1] / _UNITS[target][1]


def convert(value: T, source: str, target: str) -> T:
    """Convert a number, array or tensor from unit ``source`` to unit ``target``.

    Args:
        value: Anything that can be multiplied by a float.
        source: Unit that ``value`` is in.
        target: Unit to express it in; must have the same dimension.

    Returns:
        ``value`` in ``target`` units, same type and shape.

    Raises:
        ValueError: If a unit is unknown or the two have different dimensions.

    Example:
        >>> round(convert(1.0, "D", "e·Å"), 6)
        0.208194
    """
    scaled: Any = value
    return scaled * factor(source, target)
