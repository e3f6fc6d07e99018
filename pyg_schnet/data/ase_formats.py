"""Every structure of a file that ASE reads, where its readers take one of several or lose something."""

from __future__ import annotations

import itertools
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyg_schnet.data.isotopes import ISOTOPE_MASSES, with_masses
from pyg_schnet.data.sdf import read_sdf

if TYPE_CHECKING:
    from ase import Atoms


def read_structures(path: Path, index: Any, format: str | None) -> Iterator[Atoms]:
    """Structures of one file, not compressed.

    Args:
        path: The file.
        index: Which ones, as ASE writes it: a string, number or slice.
        format: ASE's name of the format; ``None`` to tell from name and content.

    Raises:
        ValueError: If the file holds several structures in a format of which ASE reads one, or isotopes of hydrogen
            in a format in which ASE does not know them.
        Exception: Whatever ASE's readers raise.
    """
    import ase.io
    from ase.io.formats import filetype

    suffix = path.suffix.lower()
    if format in ("sdf", "mol") or (format is None and suffix in (".sdf", ".sd", ".mol")):
        yield from _chosen(read_sdf(path), index)
        return
    if format == "db" or (format is None and suffix == ".db"):
        yield from _rows(path, "db", index)
        return
    format = format or filetype(str(path), read=True)
    if format == "json":
        yield from _rows(path, "json", index)
        return
    _refuse_several(path, format)
    count = 0
    try:
        for atoms in _read(path, format, index):
            yield atoms
            count += 1
    except KeyError as error:
        symbol = str(error.args[0]).strip().capitalize() if error.args else ""
        if symbol not in ISOTOPE_MASSES:
            raise
        if format not in ("xyz", "extxyz"):
            raise ValueError(
                f"{symbol!r} is an isotope of hydrogen, which ASE does not know in this format; "
                "write H (a model has no isotopes), and masses where they are needed"
            ) from error
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / path.name
            with path.open(encoding="utf-8") as file, plain.open("w", encoding="utf-8") as out:
                out.writelines(with_masses(file))
            yield from itertools.islice(ase.io.iread(plain, index, "extxyz", do_not_split_by_at_sign=True), count, None)


def _read(path: Path, format: str, index: Any) -> Iterator[Atoms]:
    import ase.io

    if format == "proteindatabank":
        yield from _chosen(_models(path), index)
        return
    single = format in _SEVERAL or ase.io.formats.ioformats[format].single
    images = ase.io.iread(path, ":" if single else index, format, do_not_split_by_at_sign=True)
    yield from _chosen(images, index) if single else images


def _chosen(structures: Iterator[Atoms], index: Any) -> Iterator[Atoms]:
    """Those of all structures that ``index`` means."""
    index = _index(index)
    if index == slice(None):
        yield from structures
        return
    images = list(structures)
    if isinstance(index, int) and not -len(images) <= index < len(images):
        return
    yield from [images[index]] if isinstance(index, int) else images[index]


def _index(index: Any) -> int | slice:
    from ase.io.formats import string2index

    index = string2index(index) if isinstance(index, str) else index
    if not isinstance(index, int | slice):
        raise ValueError(f"index must be a number or a slice such as '::10', got {index!r}")
    return index


def _rows(path: Path, kind: str, index: Any) -> Iterator[Atoms]:
    """Rows of ASE's data bases, with their key-value pairs and data, which ``ase.io`` leaves out."""
    import ase.db

    with ase.db.connect(str(path), type=kind) as rows:
        identifiers = [row.id for row in rows.select(columns=["id"], include_data=False)]
        chosen = _index(index)
        for identifier in [identifiers[chosen]] if isinstance(chosen, int) else identifiers[chosen]:
            yield rows.get(identifier).toatoms(add_additional_information=True)


def _models(path: Path) -> Iterator[Atoms]:
    """Models of a PDB file. One record of the cell, at its head, is of all; ASE gives it to the first."""
    import ase.io

    text = path.read_text(encoding="utf-8", errors="replace")
    cells = [match.start() for match in re.finditer(r"(?m)^CRYST1", text)]
    atoms_begin = re.search(r"(?m)^(MODEL|ATOM|HETATM)", text)
    shared = len(cells) == 1 and atoms_begin is not None and cells[0] < atoms_begin.start()
    first = None
    for atoms in ase.io.iread(path, ":", "proteindatabank", do_not_split_by_at_sign=True):
        if len(atoms) == 0 and first is not None:  # of the END behind the last model
            continue
        first = first or atoms
        if shared:
            atoms.cell, atoms.pbc = first.cell, first.pbc
        yield atoms


def _generated(text: str) -> int:
    """Structures of DFTB+'s format: a head, elements, atoms and, unless it is a cluster, origin and three vectors."""
    lines, count = [line for line in text.splitlines() if line.strip()], 0
    while lines and (head := lines[0].split()) and head[0].isdigit() and len(head) > 1:
        del lines[: 2 + int(head[0]) + (0 if head[1].upper() == "C" else 4)]
        count += 1
    return count


def _gromacs(text: str) -> int:
    lines, count = text.splitlines(), 0
    while len(lines) > 2 and lines[1].strip().isdigit():
        del lines[: int(lines[1]) + 3]
        count += 1
    return count


def _matches(pattern: str) -> Callable[[str], int]:
    return lambda text: len(re.findall(pattern, text, re.MULTILINE | re.IGNORECASE))


# how many structures a file holds, for formats in which ASE reads one and files of several are about
_SEVERAL: dict[str, Callable[[str], int]] = {
    "cfg": _matches(r"^\s*number of particles"),
    "cjson": _matches(r"\"chemical ?json\""),
    "gaussian-in": lambda text: 1 + _matches(r"^\s*--link1--")(text),
    "gen": _generated,
    "gromacs": _gromacs,
    "lammps-data": _matches(r"^\s*\d+\s+atoms\b"),
    "res": _matches(r"^TITL\b"),
    "turbomole": _matches(r"^\s*\$coord\b"),
    "vasp": _matches(r"^[ \t]*\d+(?:[ \t]+\d+)*[ \t]*\n(?:[ \t]*s.*\n)?[ \t]*[dck].*$"),
}


def _refuse_several(path: Path, format: str) -> None:
    count = _SEVERAL.get(format)
    if count is not None and (found := count(path.read_text(encoding="utf-8", errors="replace"))) > 1:
        raise ValueError(
            f"it holds {found} structures, of which ASE reads one in the format {format!r}; "
            "give a file to each, or write them to .extxyz"
        )
