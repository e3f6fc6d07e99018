"""Molecules of MDL files (.sdf, .mol), of which ASE reads the first one and no V3000."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyg_schnet.data.isotopes import ISOTOPE_MASSES, atomic_number

if TYPE_CHECKING:
    from ase import Atoms

# charge of an atom by the number in its line, where no line "M  CHG" follows
_CHARGES = {1: 3, 2: 2, 3: 1, 5: -1, 6: -2, 7: -3}


def read_sdf(path: Path) -> Iterator[Atoms]:
    """Every molecule of a file of MDL's formats V2000 and V3000.

    The title is kept as ``atoms.info["name"]``, data items under their names, formal charges as their sum in
    ``atoms.info["charge"]`` where it is not zero, and masses of isotopes.

    Raises:
        ValueError: If a record is not such a molecule, or a drawing in two dimensions.
    """
    lines: list[str] = []
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("$$$$"):
                yield _molecule(lines)
                lines = []
            else:
                lines.append(line.rstrip("\n"))
    if any(line.strip() for line in lines):
        yield _molecule(lines)


def _molecule(lines: Sequence[str]) -> Atoms:
    from ase import Atoms
    from ase.data import atomic_masses

    if len(lines) < 4:
        raise ValueError(f"a record has {len(lines)} lines, expected three lines of header, counts and atoms")
    end = next((k for k, line in enumerate(lines) if line.startswith("M  END")), len(lines))
    if next((not line.startswith(">") for line in lines[end + 1 :] if line.strip()), False):
        raise ValueError("after 'M  END' comes neither a data item nor '$$$$'; put '$$$$' between molecules")
    symbols, positions, charges, masses = (_v3000 if "V3000" in lines[3] else _v2000)(lines[:end])
    numbers = [atomic_number(symbol) for symbol in symbols]
    if len(numbers) > 1 and lines[1][20:22] == "2D" and not np.any(np.array(positions)[:, 2]):
        raise ValueError("it is a drawing in two dimensions, not a structure; make coordinates in three first")
    atoms = Atoms(numbers, positions)
    isotopes = {k: ISOTOPE_MASSES[symbol] for k, symbol in enumerate(symbols) if symbol in ISOTOPE_MASSES}
    isotopes |= {k: _mass(numbers[k], number) for k, number in masses.items()}
    if isotopes:
        atoms.set_masses([isotopes.get(k, atomic_masses[number]) for k, number in enumerate(numbers)])
    if lines[0].strip():
        atoms.info["name"] = lines[0].strip()
    if charge := sum(charges.values()):
        atoms.info["charge"] = charge
    atoms.info.update(_items(lines[end + 1 :]))
    return atoms


def _mass(number: int, mass_number: int) -> float:
    """Mass of an isotope in u; of others than those of hydrogen, its mass number."""
    return {2: ISOTOPE_MASSES["D"], 3: ISOTOPE_MASSES["T"]}.get(mass_number * (number == 1), float(mass_number))


def _v2000(lines: Sequence[str]) -> tuple[list[str], list[list[float]], dict[int, int], dict[int, int]]:
    """Symbols, positions, and charges and mass numbers of those atoms that have any; columns are of fixed width."""
    count = _int(lines[3][:3], "the number of atoms")
    if count < 0:
        raise ValueError(f"the number of atoms must not be negative, got {count}")
    rows = lines[4 : 4 + count]
    if len(rows) < count:
        raise ValueError(f"a record has {len(rows)} lines of atoms, its header says {count}")
    symbols, positions = zip(*map(_atom, rows, range(count)), strict=True) if rows else ((), ())
    charges = {k: _CHARGES.get(_whole(row[36:39]), 0) for k, row in enumerate(rows)}
    masses: dict[int, int] = {}
    properties = lines[4 + count :]
    if any(line.startswith(("M  CHG", "M  RAD")) for line in properties):
        charges = {}
    for line in properties:
        kept = {"M  CHG": charges, "M  ISO": masses}.get(line[:6])
        if kept is not None:
            values = [_int(value, f"an entry of the line {line[:6]!r}") for value in line[9:].split()]
            if len(values) % 2 or not all(1 <= atom <= count for atom in values[::2]):
                raise ValueError(
                    f"a line {line[:6]!r} must have pairs of an atom, 1 to {count}, and a number: {line!r}"
                )
            kept.update((atom - 1, value) for atom, value in zip(values[::2], values[1::2], strict=True))
    return list(symbols), list(positions), charges, masses


def _int(text: str, what: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{what} must be a whole number, got {text!r}") from None


def _position(words: Sequence[str], atom: int) -> list[float]:
    try:
        return [float(word) for word in words[:3]] if len(words) >= 3 else [float("")]
    except ValueError:
        raise ValueError(f"the position of atom {atom} must be three numbers, got {' '.join(words)!r}") from None


def _atom(row: str, atom: int) -> tuple[str, list[float]]:
    """Symbol and position of a line: by its columns or, where a program did not keep to them, its words."""
    try:
        symbol, position = row[31:34].strip(), [float(row[start : start + 10]) for start in (0, 10, 20)]
    except ValueError:
        symbol, position = "", []
    if not symbol.isalpha():
        *words, symbol = row.split()[:4] or [""]
        position = _position(words, atom)
    return symbol, position


def _v3000(lines: Sequence[str]) -> tuple[list[str], list[list[float]], dict[int, int], dict[int, int]]:
    symbols: list[str] = []
    positions: list[list[float]] = []
    charges: dict[int, int] = {}
    masses: dict[int, int] = {}
    inside, rest = False, ""
    for line in lines:
        if not line.startswith("M  V30 "):
            continue
        rest += line[7:].strip()
        if rest.endswith("-"):  # goes on in the next line
            rest = rest[:-1]
            continue
        words, rest = rest.split(), ""
        if words[:2] in (["BEGIN", "ATOM"], ["END", "ATOM"]):
            inside = words[0] == "BEGIN"
        elif inside:
            options = dict(word.split("=", 1) for word in words[6:] if "=" in word)
            for name, kept in (("CHG", charges), ("MASS", masses)):
                if name in options:
                    kept[len(symbols)] = _int(options[name], f"{name} of atom {len(symbols)}")
            positions.append(_position(words[2:5], len(symbols)))
            symbols.append(words[1])
    return symbols, positions, charges, masses


def _items(lines: Sequence[str]) -> dict[str, Any]:
    """Data items, ``> <NAME>`` and lines up to an empty one; numbers where they are numbers."""
    items: dict[str, list[str]] = {}
    name = None
    for line in lines:
        if line.startswith(">") and "<" in line:
            name, closed, _ = line[line.index("<") + 1 :].rpartition(">")
            if not closed:
                raise ValueError(f"a data item must begin with a name, as in '> <NAME>', got {line!r}")
            items[name] = []
        elif name is not None and line.strip():
            items[name].append(line.strip())
        else:
            name = None
    return {name: _number("\n".join(text)) for name, text in items.items()}


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _whole(text: str) -> int:
    return int(text) if text.strip().lstrip("-").isdigit() else 0
