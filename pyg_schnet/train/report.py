"""Errors as people read them: which units, and how they are printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyg_schnet.models.reading import printable
from pyg_schnet.units import dimension, factor

_REPORT_UNITS = {
    "energy": ("meV", "kcal/mol"),
    "energy per atom": ("meV/atom",),
    "force": ("meV/Å", "kcal/mol/Å"),
    "pressure": ("GPa", "eV/Å³"),
}


NO_TEST = "No structures are left for a test; the model is saved without test errors"


def report_units(unit: str) -> tuple[str, ...]:
    """Units in which errors of a property are reported; the first one comes first in tables.

    Args:
        unit: Unit of the property.

    Returns:
        meV and kcal/mol for energies, the same per Å for forces, otherwise the unit itself; also wave numbers stay.

    Example:
        >>> report_units("eV"), report_units("D"), report_units("cm-1")
        (('meV', 'kcal/mol'), ('D',), ('cm-1',))
    """
    return (unit,) if unit == "cm-1" else _REPORT_UNITS.get(dimension(unit), (unit,))


def in_report_units(value: float, unit: str) -> dict[str, float]:
    """An error in each unit it is reported in.

    Example:
        >>> in_report_units(0.1, "D")
        {'D': 0.1}
    """
    return {target: value * factor(unit, target) for target in report_units(unit)}


@dataclass(frozen=True)
class Errors:
    """Errors of one quantity on test structures.

    Attributes:
        name: What was predicted.
        unit: Unit of the errors.
        mae: Mean absolute error.
        rmse: Root mean square error.
    """

    name: str
    unit: str
    mae: float
    rmse: float

    def as_dict(self) -> dict[str, Any]:
        """Errors in each unit they are reported in, as JSON can hold them."""
        return {"mae": in_report_units(self.mae, self.unit), "rmse": in_report_units(self.rmse, self.unit)}


def format_errors(errors: Sequence[Errors], n_structures: int) -> str:
    """Table of errors for the terminal.

    Args:
        errors: Errors, one for each quantity.
        n_structures: Number of structures that were tested.

    Example:
        >>> print(format_errors([Errors("U0", "eV", mae=0.05, rmse=0.08)], 1000))
        Errors on 1,000 test structures
          U0                MAE       50.0 meV       1.15 kcal/mol
                           RMSE       80.0 meV       1.84 kcal/mol
    """
    lines = [f"Errors on {n_structures:,} test structures"]
    for row in errors:
        for measure, value in (("MAE", row.mae), ("RMSE", row.rmse)):
            numbers = in_report_units(value, row.unit)
            columns = "".join(f"  {number:9.{_decimals(number)}f} {unit}" for unit, number in numbers.items())
            lines.append(f"  {printable(row.name) if measure == 'MAE' else '':<16}{measure:>5}{columns}")
    return "\n".join(lines)


def _decimals(number: float) -> int:
    """Decimals that show about three digits."""
    return 1 if abs(number) >= 10 else 2 if abs(number) >= 1 else 4
