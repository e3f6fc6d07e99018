"""Errors as people read them: which units, and how they are printed."""

from __future__ import annotations

from collections.abc import Mapping

from pyg_schnet.units import dimension, factor

_REPORT_UNITS = {
    "energy": ("meV", "kcal/mol"),
    "energy per atom": ("meV/atom",),
    "force": ("meV/Å", "kcal/mol/Å"),
}


def report_units(unit: str) -> tuple[str, ...]:
    """Units in which errors of a property are reported; the first one comes first in tables.

    Args:
        unit: Unit of the property.

    Returns:
        meV and kcal/mol for energies, the same per Å for forces, otherwise the unit itself.

    Example:
        >>> report_units("eV"), report_units("D")
        (('meV', 'kcal/mol'), ('D',))
    """
    return _REPORT_UNITS.get(dimension(unit), (unit,))


def in_report_units(value: float, unit: str) -> dict[str, float]:
    """An error in each unit it is reported in.

    Example:
        >>> in_report_units(0.1, "D")
        {'D': 0.1}
    """
    return {target: value * factor(unit, target) for target in report_units(unit)}


def format_errors(name: str, errors: Mapping[str, float], unit: str, n_structures: int) -> str:
    """Table of errors for the terminal, one line for each measure.

    Args:
        name: Name of the property.
        errors: Measures such as ``{"MAE": 0.05, "RMSE": 0.08}`` in ``unit``.
        unit: Unit of the property.
        n_structures: Number of structures that were tested.

    Example:
        >>> print(format_errors("U0", {"MAE": 0.05}, "eV", 100))
        Error of U0 on 100 test structures
          MAE       50.0 meV     1.15 kcal/mol
    """
    lines = [f"Error of {name} on {n_structures:,} test structures"]
    for measure, value in errors.items():
        columns = "".join(
            f"  {number:7.{_decimals(number)}f} {target}" for target, number in in_report_units(value, unit).items()
        )
        lines.append(f"  {measure:<5}{columns}")
    return "\n".join(lines)


def _decimals(number: float) -> int:
    """Decimals that show about three digits."""
    return 1 if abs(number) >= 10 else 2 if abs(number) >= 1 else 4
