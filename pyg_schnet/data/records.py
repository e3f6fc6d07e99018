"""Records of crystals in JSON files: how they are read, and the structure that one holds."""

from __future__ import annotations

import bz2
import gzip
import lzma
import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyg_schnet.data.isotopes import atomic_number
from pyg_schnet.data.structure import check_cell, check_distinct
from pyg_schnet.models.reading import check_file, described, parse_json, printable


def find_entry(record: Mapping[str, Any], key: str) -> Any:
    """Entry of a record by its name, or by those of dictionaries inside each other, such as ``"outputs.energy"``."""
    value: Any = record
    for part in [key] if key in record else key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def read_records(path: Sequence[str | os.PathLike] | str | os.PathLike) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every record of some files, with words that say where it is from.

    Args:
        path: One or several files, plain or compressed.

    Raises:
        OSError: If one is not there, or no regular file.
        ValueError: If one is not JSON, or a record is not a dictionary.
    """
    for file in [path] if isinstance(path, str | os.PathLike) else path:
        file = check_file(Path(file).expanduser())
        opener: Any = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(file.suffix.lower(), open)
        try:
            with opener(file, "rt", encoding="utf-8") as handle:
                text = handle.read()
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not JSON: it is not text in UTF-8") from error
        except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            if isinstance(error, OSError) and error.errno is not None:  # as of a disk
                raise
            raise ValueError(f"{file} cannot be decompressed: {error}") from error
        for number, record in enumerate(_parsed(text, str(file))):
            if not isinstance(record, Mapping):
                raise ValueError(f"record {number} of {file} is {described(record)}, expected a dictionary")
            name = printable(str(record.get("id", "without id")))[:60]
            yield f"record {number} ({name}) of {file}", record


def _parsed(text: str, file: str) -> list[Any]:
    try:
        content = parse_json(text, file)
    except ValueError as error:
        if getattr(error.__cause__, "msg", None) != "Extra data":
            raise
        lines = enumerate(text.splitlines(), start=1)  # one record per line
        return [parse_json(line, f"line {number} of {file}") for number, line in lines if line.strip()]
    if isinstance(content, dict) and {"columns", "data"} <= set(content):  # Matbench: a pandas table, "split"
        return _table(content, file)
    return content if isinstance(content, list) else [content]


def _table(content: dict[str, Any], file: str) -> list[dict[str, Any]]:
    columns, rows = content["columns"], content["data"]
    for name, value in (("columns", columns), ("data", rows), ("index", content.get("index", []))):
        if not isinstance(value, list):
            raise ValueError(f"{file} is no table: {name!r} must be a list, got {described(value)}")
    ids = content.get("index", range(len(rows)))
    if len(ids) != len(rows):
        raise ValueError(f"{file} is no table: it has {len(rows)} rows, and 'index' {len(ids)} names of rows")
    for number, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(columns):
            raise ValueError(f"{file}: row {number} must have {len(columns)} columns, got {described(row)}")
    return [
        {"id": str(name), **dict(zip(map(str, columns), row, strict=True))} for name, row in zip(ids, rows, strict=True)
    ]


def numbers_of(value: Any, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Finite numbers in float64; texts and truth values are none.

    Args:
        value: What a record holds.
        name: Its name, for the message.
        shape: Shape that it must have; ``None`` for any.

    Raises:
        ValueError: If it is something else.

    Example:
        >>> numbers_of([1, 2.5], "charges")
        array([1. , 2.5])
    """
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "iuf" or not array.size:
        expected = "a number or an array of numbers" if shape is None else f"numbers of shape {list(shape)}"
        raise ValueError(f"{name!r} must be {expected}, got {described(value)}")
    if shape is not None and array.shape != shape:
        raise ValueError(f"{name!r} has shape {list(array.shape)}, expected {list(shape)}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name!r} holds numbers that are not finite")
    return array.astype(np.float64)


_OCCUPANCIES = ("occu", "occupancy", "occupancies")


def structure_of(record: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atomic numbers ``[N]``, positions ``[N, 3]`` in Å and cell ``[3, 3]`` in Å of a record.

    Raises:
        ValueError: If it is no structure that is periodic in three directions, with one element on each site.
    """
    inner = record.get("structure", record)
    if not isinstance(inner, Mapping):
        raise ValueError(f"'structure' must be a dictionary, got {described(inner)}")
    lattice = inner.get("lattice")
    for stated in (inner.get("pbc"), lattice.get("pbc") if isinstance(lattice, Mapping) else None):
        if stated is not None and not np.all(stated):
            raise ValueError(f"it has pbc={stated}, but all directions are periodic here; read it by AtomsDataset")
    if any(inner.get(name) is not None and not _all_one(inner[name]) for name in _OCCUPANCIES):
        raise ValueError("a site is shared by several elements or partly empty")
    if "structure" in record:
        cell = _entry(_entry(inner, "lattice", Mapping, "structure."), "matrix", list, "structure.lattice.")
        symbols, fractions = _sites(_entry(inner, "sites", list, "structure."))
    else:
        cell = record["lattice"] if "lattice" in record else _lattice(_entry(record, "cell", list))
        symbols, fractions = _entry(record, "sym", list), _entry(record, "frac", list)
    cell = numbers_of(cell, "cell", (3, 3))
    numbers = np.array([atomic_number(symbol) for symbol in symbols], dtype=np.int64)
    scaled = numbers_of(fractions, "frac")
    if numbers.size == 0 or scaled.shape != (numbers.size, 3):
        raise ValueError(f"{numbers.size} atoms and coordinates {list(scaled.shape)} do not fit together")
    if abs(np.linalg.det(cell)) < 1e-6:
        raise ValueError("the cell is flat")
    check_cell(cell, np.ones(3, dtype=bool))
    positions = scaled @ cell
    if not np.isfinite(positions).all():
        raise ValueError("a position is too large")
    if _may_coincide(scaled):
        check_distinct(positions, cell, np.ones(3, dtype=bool))
    return numbers, positions, cell


def _entry(record: Any, name: str, kind: type, place: str = "") -> Any:
    if not isinstance(record, Mapping) or name not in record:
        raise ValueError(f"it has no {place + name!r}")
    if not isinstance(record[name], kind):
        expected = "a list" if kind is list else "a dictionary"
        raise ValueError(f"{place + name!r} must be {expected}, got {described(record[name])}")
    return record[name]


def _sites(sites: list[Any]) -> tuple[list[Any], list[Any]]:
    """Elements and coordinates of the sites of a structure of pymatgen."""
    symbols, fractions = [], []
    for number, site in enumerate(sites):
        place = f"structure.sites[{number}]."
        species = _entry(site, "species", list, place)
        if len(species) != 1 or (isinstance(species[0], Mapping) and species[0].get("occu", 1) != 1):
            raise ValueError("a site is shared by several elements or partly empty")
        if not isinstance(species[0], Mapping) or "element" not in species[0]:
            raise ValueError(f"{place}species must name an 'element', got {described(species[0])}")
        symbols.append(species[0]["element"])
        fractions.append(numbers_of(site.get("abc"), f"{place}abc", (3,)))
    return symbols, fractions


def _all_one(occupancies: Any) -> bool:
    return bool(np.all(np.equal(numbers_of(occupancies, "occupancy"), 1)))


def _may_coincide(fractions: np.ndarray) -> bool:
    """Whether two of a few atoms are nearly in the same place, or there are many; in microseconds."""
    if len(fractions) > 64:
        return True
    vec = fractions[:, None] - fractions
    vec -= np.rint(vec)
    return bool(np.count_nonzero((np.abs(vec) < 1e-3).all(-1)) > len(fractions))


def _lattice(cell: list[Any]) -> np.ndarray:
    """Lattice vectors in rows, a along x and b in the xy plane; ASE's ``cellpar_to_cell`` takes 10 times longer.

    Right angles are exact, so that a cubic cell has zeros where it should.
    """
    if len(cell) != 6:
        raise ValueError(f"'cell' must be a, b, c in Å and three angles in degrees, got {described(cell)}")
    a, b, c, alpha, beta, gamma = numbers_of(cell, "cell", (6,)).tolist()
    if min(a, b, c) <= 0 or not 0 < min(alpha, beta, gamma) <= max(alpha, beta, gamma) < 180:
        raise ValueError(f"'cell' must be positive lengths and angles below 180 degrees, got {described(cell)}")
    cos_a, cos_b, cos_g = (0.0 if angle == 90.0 else math.cos(math.radians(angle)) for angle in (alpha, beta, gamma))
    sin_g = math.sin(math.radians(gamma))
    y = (cos_a - cos_b * cos_g) / sin_g
    height = 1.0 - cos_b**2 - y**2
    if not height > 0:
        raise ValueError(f"the angles {alpha}, {beta}, {gamma} span no volume")
    return np.array([[a, 0.0, 0.0], [b * cos_g, b * sin_g, 0.0], [c * cos_b, c * y, c * math.sqrt(height)]])
