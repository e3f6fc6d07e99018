"""Every structure of a file that ASE reads, where its readers take one of several or lose something."""

from __future__ import annotations

import collections
import itertools
import re
import struct
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyg_schnet.data.isotopes import ISOTOPE_MASSES, with_masses
from pyg_schnet.data.labels import voigt_to_matrix
from pyg_schnet.data.sdf import read_sdf
from pyg_schnet.data.xyz_blocks import xyz_blocks

if TYPE_CHECKING:
    from ase import Atoms


_OF_A_PARSER = (
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    NameError,
    ArithmeticError,
    EOFError,
    struct.error,
)
"""What readers run into that do not look at what they read."""


def reason_of(error: Exception) -> str:
    """Why a reader gave up, without what only tells those who know its source.

    Example:
        >>> reason_of(IndexError("list index out of range"))
        'it is no whole file of its format (IndexError)'
        >>> reason_of(ValueError("the cell is flat"))
        'the cell is flat'
    """
    if isinstance(error, UnicodeError):
        return "it is not text"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    if isinstance(error, _OF_A_PARSER) or isinstance(error.__cause__, StopIteration) or "unpack" in str(error):
        return f"it is no whole file of its format ({type(error.__cause__ or error).__name__})"
    if type(error).__name__ == "UnknownFileTypeError":
        return "ASE knows no format of such a name or content"
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    return text if text and type(error) is ValueError else f"{text or 'no reason is given'} ({type(error).__name__})"


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
    from ase.io.formats import filetype, ioformats

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
    if format not in ioformats:
        raise ValueError(f"ASE knows no format {format!r}, and none of such a name or content")
    _refuse_several(path, format)
    if format in ("xyz", "extxyz"):
        _refuse_counts(path)
    count = 0
    try:
        for atoms in _read(path, format, index):
            yield atoms
            count += 1
    except KeyError as error:
        symbol = str(error.args[0]).split()[-1].strip(".").capitalize() if error.args else ""
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
            yield from itertools.islice(_read(plain, "extxyz", index), count, None)


def _read(path: Path, format: str, index: Any) -> Iterator[Atoms]:
    import ase.io

    if format in ("proteindatabank", "cif"):
        yield from _chosen((_models if format == "proteindatabank" else _crystals)(path), index)
        return
    if format == "extxyz" and _index(index) == slice(None):
        with path.open(encoding="utf-8") as file:
            for block in xyz_blocks(file):
                yield from ase.io.iread(block, ":", format, properties_parser=parse_comment)
        return
    single = format in _SEVERAL or ase.io.formats.ioformats[format].single
    options: dict[str, Any] = {"properties_parser": parse_comment} if format == "extxyz" else {}
    images = ase.io.iread(path, ":" if single else index, format, do_not_split_by_at_sign=True, **options)
    for atoms in _chosen(images, index) if single else images:
        if format in _ALWAYS_PERIODIC:
            atoms.pbc = atoms.cell.any(axis=1)
        yield atoms


_ALWAYS_PERIODIC = ("eon", "mustem", "prismatic", "sys")  # formats of boxes, which ASE reads with open boundaries


def parse_comment(line: str) -> dict[str, Any]:
    """Entries of the comment line of extended xyz, with boundaries and lattice as any program writes them.

    ASE takes every text that it does not know, such as ``"t t f"``, for three periodic directions, looks only for
    the names ``pbc`` and ``Lattice`` in just these letters, and refuses a stress of six numbers (xx yy zz yz xz xy).

    Raises:
        ValueError: If ``pbc`` is not three times yes or no, or ``Lattice`` not nine numbers.

    Example:
        >>> parse_comment('pbc="t t f" name=water')
        {'pbc': [True, True, False], 'name': 'water'}
    """
    info = {}
    for key, value in _entries(line).items():
        name = {"pbc": "pbc", "lattice": "Lattice"}.get(key.lower(), key)
        if name == "Lattice" and value is True:  # a word of a sentence
            name = "comment"
        elif name == "Lattice":
            if np.size(value) != 9:
                raise ValueError(f"Lattice must be nine numbers, three vectors in Å, got {value!r}")
            value = value if np.ndim(value) == 2 else np.reshape(value, (3, 3), order="F")  # as ASE reads matrices
        info[name] = _flags(value) if name == "pbc" else value
    return info


def _entries(line: str) -> dict[str, Any]:
    from ase.io.extxyz import key_val_str_to_dict

    try:
        return key_val_str_to_dict(line)
    except ValueError:  # of a stress that is not nine numbers
        hidden = key_val_str_to_dict(re.sub(r"(?<!\S)(stress|virial)\s*=", r"as-given-\1=", line))
    entries = {key.removeprefix("as-given-"): value for key, value in hidden.items()}
    for name in ("stress", "virial"):
        if f"as-given-{name}" in hidden:
            if np.size(entries[name]) not in (6, 9):
                raise ValueError(f"{name} must be 6 numbers (xx yy zz yz xz xy) or 9, got {entries[name]!r}")
            entries[name] = voigt_to_matrix(np.ravel(entries[name]))
    return entries


def _flags(value: Any) -> list[bool]:
    """Three periodic directions, from one word or three."""
    words = re.findall(r"[^\s,\[\]()]+", " ".join(map(str, value)) if np.ndim(value) else str(value))
    flags: list[Any] = [_FLAGS.get(word.lower()) for word in words]
    if len(flags) not in (1, 3) or None in flags:
        raise ValueError(f'pbc must be three of T and F, such as pbc="T T F", got {value!r}')
    return flags if len(flags) == 3 else flags * 3


_FLAGS = dict.fromkeys(("t", "true", "1", "1.0", "yes", "y", ".true."), True)
_FLAGS |= dict.fromkeys(("f", "false", "0", "0.0", "no", "n", ".false."), False)


def _chosen(structures: Iterator[Any], index: Any) -> Iterator[Any]:
    """Those of all structures, or their numbers, that ``index`` means."""
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

    if kind == "db":
        with path.open("rb") as file:  # ASE makes a data base of an empty file
            if file.read(16) != b"SQLite format 3\0":
                raise ValueError("it is no data base of SQLite, or not a whole one")
    with ase.db.connect(str(path), type=kind) as rows:
        identifiers = [row.id for row in rows.select(columns=["id"], include_data=False)]
        for identifier in _chosen(iter(identifiers), index):
            yield rows.get(identifier).toatoms(add_additional_information=True)


def _models(path: Path) -> Iterator[Atoms]:
    """Models of a PDB file. One record of the cell, at its head, is of all; ASE gives it to the first.

    A cell of 1 Å stands for none.
    """
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
        if (atoms.cell.lengths() == 1.0).all():  # what files of molecules have to have there
            atoms.cell, atoms.pbc = None, False
        yield atoms


def _crystals(path: Path) -> Iterator[Atoms]:
    """Crystals of a CIF file. Of several elements on one site, without a word of occupancies, ASE keeps the first.

    Raises:
        ValueError: If there is such a site.
    """
    from ase.geometry import get_distances
    from ase.io.cif import parse_cif

    for block in parse_cif(str(path)):
        if not block.has_structure():
            continue
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "scaled_positions .* are equivalent")  # looked at below
            atoms = block.get_atoms()
        sites = block.get_unsymmetrized_structure()
        if "occupancy" not in atoms.info and atoms.pbc.all():
            nearest = get_distances(sites.positions, atoms.positions, atoms.cell, True)[1].argmin(1)
            if lost := [k for k, atom in enumerate(nearest) if atoms.numbers[atom] != sites.numbers[k]]:
                raise ValueError(
                    f"site {lost[0]} has {sites.symbols[lost[0]]} where {atoms.symbols[nearest[lost[0]]]} is as well; "
                    "choose one ordered structure"
                )
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


def _vasp(text: str) -> int:
    """Structures of VASP's POSCAR: comment, scale, three vectors, elements, numbers, mode and atoms."""
    lines, count = text.splitlines(), 0
    while len(lines) > 7 and len(lines[1].split()) in (1, 3) and all(len(line.split()) >= 3 for line in lines[2:5]):
        if lines[0].lower().startswith("lattice velocities"):
            break
        named = not lines[5].split()[0].isdigit()
        numbers = [int(word) for word in lines[5 + named].split() if word.isdigit()]
        selective = lines[6 + named].strip().lower().startswith("s")
        del lines[: 7 + named + selective + sum(numbers)]
        count += 1
    return count


def _crystal(text: str) -> int:
    """Structures of CRYSTAL's fort.34: dimensions, three vectors, symmetries of four lines each, and atoms."""
    lines, count = [line for line in text.splitlines() if line.strip()], 0
    while len(lines) > 4:
        del lines[: 5 + 4 * int(lines[4].split()[0])]
        del lines[: 1 + int(lines[0].split()[0])]
        count += 1
    return count


def _matches(pattern: str) -> Callable[[str], int]:
    return lambda text: len(re.findall(pattern, text, re.MULTILINE | re.IGNORECASE))


# how many structures a file holds, for formats in which ASE reads one and files of several are about
_SEVERAL: dict[str, Callable[[str], int]] = {
    "abinit-in": _matches(r"^\s*natom\b"),
    "castep-cell": _matches(r"^\s*%block\s+lattice_"),
    "cfg": _matches(r"^\s*number of particles"),
    "cjson": _matches(r"\"chemical ?json\""),
    "crystal": _crystal,
    "dmol-car": _matches(r"^!BIOSYM\b"),
    "espresso-in": _matches(r"^\s*ATOMIC_POSITIONS\b"),
    "gaussian-in": lambda text: 1 + _matches(r"^\s*--link1--")(text),
    "gen": _generated,
    "gromacs": _gromacs,
    "gromos": _matches(r"^TITLE\b"),
    "lammps-data": _matches(r"^\s*\d+\s+atoms\b"),
    "magres": _matches(r"^#\$magres"),
    "nwchem-in": _matches(r"^\s*geometry\b"),
    "onetep-in": _matches(r"^\s*%block\s+positions_"),
    "res": _matches(r"^TITL\b"),
    "struct": _matches(r"\bMODE OF CALC\b"),
    "turbomole": _matches(r"^\s*\$coord\b"),
    "vasp": _vasp,
    "xsf": lambda text: 1 if "ANIMSTEPS" in text.upper() else _matches(r"^\s*(ATOMS|PRIMCOORD)\b")(text),
}


def _refuse_counts(path: Path) -> None:
    """Raise for a structure of more atoms than the file has room for: ASE would look for their lines for ever."""
    size = path.stat().st_size
    with path.open("rb") as lines:
        for number in itertools.count():
            head = next(lines, b"").split()
            if not head or not head[0].isdigit():  # the end, or what ASE has to judge
                return
            if len(head[0]) > len(str(size)) or int(head[0]) > size:
                said = head[0].decode()[:30]
                raise ValueError(f"it says that structure {number} has {said} atoms, but the file has {size:,} bytes")
            collections.deque(itertools.islice(lines, int(head[0]) + 1), maxlen=0)


def _refuse_several(path: Path, format: str) -> None:
    if format not in _SEVERAL:
        return
    try:
        found = _SEVERAL[format](path.read_text(encoding="utf-8", errors="replace"))
    except (ValueError, IndexError):  # not such a file, as ASE will say
        return
    if found > 1:
        raise ValueError(
            f"it holds {found} structures, of which ASE reads one in the format {format!r}; "
            "give a file to each, or write them to .extxyz"
        )
