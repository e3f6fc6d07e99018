"""Deuterium and tritium: hydrogen to a model, of another mass."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

#: Masses in u of the symbols that are not an element's own.
ISOTOPE_MASSES = {"D": 2.014101778, "T": 3.016049281}

_PROPERTIES = re.compile(r"(?i)\bproperties\s*=\s*\"?([^\s\"]+)\"?")


def atomic_number(symbol: str) -> int:
    """Atomic number of an element symbol; ``"D"`` and ``"T"`` are hydrogen.

    Raises:
        ValueError: If it is not the symbol of an element.

    Example:
        >>> atomic_number("O"), atomic_number("D")
        (8, 1)
    """
    from ase.data import atomic_numbers

    symbol = symbol.strip().capitalize() if isinstance(symbol, str) else symbol
    number = 0
    if isinstance(symbol, str):
        number = 1 if symbol in ISOTOPE_MASSES else atomic_numbers.get(symbol, 0)
    if number == 0:
        raise ValueError(f"{symbol!r} is not the symbol of an element")
    return number


def with_masses(lines: Iterable[str]) -> Iterator[str]:
    """An (extended) xyz file whose D and T are H with a column of masses, as ASE reads it.

    Frames without isotopes, and frames that have masses of their own, keep their columns.

    Args:
        lines: Lines of the file, each with its end.

    Yields:
        The lines to read instead.
    """
    lines = iter(lines)
    for head in lines:
        yield head
        if not head.strip():
            continue
        comment = next(lines, "")
        yield from _frame(comment, [next(lines, "") for _ in range(int(head.split()[0]))])


def _frame(comment: str, rows: list[str]) -> Iterator[str]:
    from ase.data import atomic_masses

    stated = _PROPERTIES.search(comment)
    columns = stated.group(1) if stated else "species:S:1:pos:R:3"
    fields = columns.split(":")
    widths = [int(width) for width in fields[2::3]]
    names = [name.lower() for name in fields[::3]]
    place = next((sum(widths[:k]) for k, name in enumerate(names) if name in ("species", "symbols")), 0)
    table = [row.split()[: sum(widths)] for row in rows]
    symbols = [row[place].capitalize() for row in table]
    if not any(symbol in ISOTOPE_MASSES for symbol in symbols):
        yield from (comment, *rows)
        return
    own = not {"mass", "masses"}.isdisjoint(names)
    if not own:
        columns_now = f"Properties={columns}:masses:R:1"
        comment = _PROPERTIES.sub(columns_now, comment) if stated else f"{comment.rstrip()} {columns_now}\n"
    yield comment
    for row, symbol in zip(table, symbols, strict=True):
        row[place] = "H" if symbol in ISOTOPE_MASSES else symbol
        mass = [] if own else [repr(float(ISOTOPE_MASSES.get(symbol) or atomic_masses[atomic_number(symbol)]))]
        yield " ".join([*row, *mass]) + "\n"
