"""Any file that ASE reads as a data set in memory."""

from __future__ import annotations

import bz2
import contextlib
import glob
import gzip
import lzma
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from pyg_schnet.data.ase_formats import read_structures, reason_of
from pyg_schnet.data.base import StructureDataset
from pyg_schnet.data.charge import warn_of_charge
from pyg_schnet.data.convert import convert_structure
from pyg_schnet.data.labels import STANDARD_LABELS, available_labels, list_labels, stored_unit
from pyg_schnet.data.properties import Property
from pyg_schnet.models.reading import check_file

if TYPE_CHECKING:
    from ase import Atoms


class AtomsDataset(StructureDataset):
    """Structures of any files that ASE reads (``.extxyz``, ``.db``, ``.cif``, ..., also gzipped), or of a list.

    Files of several structures give all, also SD files, V3000 included; where ASE reads one of several in some format,
    they are refused. Deuterium and tritium (D, T) are hydrogen. Every structure has ``z``, ``pos``, ``cell``, ``pbc``
    and ``origin`` as in :func:`~pyg_schnet.data.to_data`. A label that at
    least one structure has is there for all: zeros where it is missing, and ``has_<label>`` ``[1]`` tells which. So
    structures with an energy alone and others with forces go in one batch, and a loss leaves out what is missing.

    Args:
        source: A path, a pattern such as ``"run*.xyz"``, ``ase.Atoms`` (also rows of ASE's data bases), or several of
            them: a list, a generator, a trajectory. An ``@`` in a name is a part of the name.
        properties: Unit in the file of further labels by name, such as ``{"formation_energy": "eV"}``, looked for
            everywhere in a structure; see :func:`~pyg_schnet.data.to_data`.
        keys: Name in the file of a label where it differs, such as ``{"energy": "REF_energy"}``.
        index: Which structures of each file, as ASE writes it: ``":"``, ``"::10"``, ``"-1"``.
        pbc: Replaces what the files say, for example ``False`` for molecules in a box.
        format: ASE's name of the format, where the ending of the file does not tell.
        transform: Applied to every single structure on access; see :class:`StructureDataset`.
        dtype: Of positions, cells and labels of atoms; labels of structures are float64.

    Raises:
        FileNotFoundError: If a path does not exist or a pattern fits no file.
        TypeError: If the source holds other things than paths and structures.
        ValueError: If a file cannot be read or holds no structures, a structure is not valid (the message says which
            one), a label that was asked for is in none of them, or ``index`` or ``format`` come without files.

    Example:
        >>> from ase.build import molecule
        >>> dataset = AtomsDataset([molecule("H2O"), molecule("CH4")])
        >>> dataset[1].z
        tensor([6, 1, 1, 1, 1])
    """

    def __init__(
        self,
        source: Sequence[str | os.PathLike] | str | os.PathLike | Atoms | Iterable[Atoms],
        properties: Mapping[str, str] | None = None,
        keys: Mapping[str, str] | None = None,
        index: str = ":",
        pbc: bool | Sequence[bool] | None = None,
        format: str | None = None,
        transform: Callable | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(transform=transform)
        properties, keys = dict(properties or {}), dict(keys or {})
        structures: list[Data] = []
        levels: dict[str, Any] = {name: standard.level for name, standard in STANDARD_LABELS.items()}
        available: dict[str, set[str]] = {}
        read_as_labels, charged = {*properties, *keys.values()}, False
        for where, atoms in read_all(source, index, format):
            charged = charged or warn_of_charge(atoms, read_as_labels, where=where)
            for place, names in available_labels(atoms).items():
                available.setdefault(place, set()).update(names)
            try:
                structure, labels = convert_structure(atoms, properties, keys, pbc, dtype)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
            structures.append(structure)
            for name, label in labels.items():
                if levels.setdefault(name, label.level) != label.level:
                    raise ValueError(f"{where}: {name!r} is of each {label.level}, but of each {levels[name]} before")
        if not structures:
            raise ValueError("the data set has no structures")
        found = [
            name
            for name in (*STANDARD_LABELS, *(n for n in properties if n not in STANDARD_LABELS))
            if any(name in structure for structure in structures)
        ]
        missing = [keys.get(name, name) for name in {**properties, **keys} if name not in found]
        if missing:
            raise ValueError(f"no structure has {', '.join(map(repr, missing))}; {list_labels(available)}")
        self.properties = {
            name: STANDARD_LABELS.get(name) or Property(name, stored_unit(properties[name]), levels[name])
            for name in found
        }
        self._fill(structures)

    def _fill(self, structures: list[Data]) -> None:
        n_atoms = torch.tensor([structure.z.numel() for structure in structures])
        columns = {
            "atom": {name: torch.cat([structure[name] for structure in structures]) for name in ("z", "pos")},
            "structure": {
                name: torch.cat([structure[name] for structure in structures]) for name in ("cell", "pbc", "origin")
            },
        }
        for name, target in self.properties.items():
            rows = n_atoms.tolist() if target.level == "atom" else [1] * len(structures)
            columns[target.level][name] = _column(name, structures, rows)
            columns["structure"][f"has_{name}"] = torch.tensor([name in structure for structure in structures])
        self.set_store(n_atoms, columns["atom"], columns["structure"])


def _column(name: str, structures: list[Data], rows: list[int]) -> Tensor:
    """A label of all structures, zeros for those that do not have it."""
    example = next(structure[name] for structure in structures if name in structure)
    parts = [
        structure[name] if name in structure else example.new_zeros(n, *example.shape[1:])
        for structure, n in zip(structures, rows, strict=True)
    ]
    shapes = {tuple(part.shape[1:]) for part in parts}
    if len(shapes) > 1:
        raise ValueError(
            f"{name!r} does not have the same shape in all structures: {sorted(shapes)}; "
            "numbers of each atom belong in atoms.arrays"
        )
    return torch.cat(parts)


def read_all(source: Any, index: Any, format: str | None) -> Iterator[tuple[str, Atoms]]:
    """Every structure of the ``source`` of a data set, with words that say where it is from; errors of the data set."""
    from ase import Atoms

    if hasattr(source, "select") and hasattr(source, "metadata"):  # one of ASE's data bases
        source = source.select()
    items = [source] if isinstance(source, str | os.PathLike | Atoms) else source
    if not isinstance(items, Iterable) or isinstance(items, Mapping):
        raise TypeError(f"the source is a {type(source).__name__}, expected a path, ase.Atoms, or several of them")
    for number, item in enumerate(items):
        if isinstance(item, str | os.PathLike):
            for path in _expand(item):
                yield from _read_file(path, index, format)
            continue
        if hasattr(item, "toatoms"):  # a row of a data base
            item = item.toatoms(add_additional_information=True)
        if not isinstance(item, Atoms):
            raise TypeError(f"item {number} of the source is a {type(item).__name__}, expected a path or ase.Atoms")
        if index != ":" or format is not None:
            raise ValueError(f"index={index!r} and format={format!r} are of files, but structure {number} is from none")
        yield f"structure {number}", item


def files_of(source: Any) -> list[Path]:
    """Files that the ``source`` of a data set names, by paths or patterns.

    Raises:
        FileNotFoundError: If there is none.
    """
    items = [source] if isinstance(source, str | os.PathLike) else source
    return [path for item in items if isinstance(item, str | os.PathLike) for path in _expand(item)]


def _expand(source: str | os.PathLike) -> list[Path]:
    """The files of a path or pattern."""
    path = Path(source).expanduser()
    if path.exists() or path.is_symlink():
        return [path]
    files = sorted(Path(name) for name in glob.glob(str(path))) if glob.has_magic(str(path)) else []
    if not files:
        hint = "; give what follows the @ as `index`" if "@" in path.name else ""
        raise FileNotFoundError(f"there is no file {path}{hint}")
    return files


def _read_file(path: Path, index: Any, format: str | None) -> Iterator[tuple[str, Atoms]]:
    if not path.is_dir():  # as bundles of trajectories are
        check_file(path)
    count = 0
    with _decompressed(path) as plain:
        structures = read_structures(plain, index, format)
        while True:
            try:
                atoms = next(structures)
            except StopIteration:
                break
            except Exception as error:  # each of ASE's many readers raises what it likes
                raise ValueError(f"ASE cannot read structure {count} of {path}: {reason_of(error)}") from error
            yield f"{path}, structure {count}", atoms
            count += 1
    if count == 0:
        raise ValueError(f"{path} has no structures (index={index!r})")


@contextlib.contextmanager
def _decompressed(path: Path) -> Iterator[Path]:
    """The file itself or, while in use, a plain copy: ASE seeks in files, some 50 times slower in gzipped ones."""
    opener: Any = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(path.suffix.lower())
    if opener is None:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / path.stem
        try:
            with opener(path) as packed, plain.open("wb") as out:
                shutil.copyfileobj(packed, out)
        except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            if isinstance(error, OSError) and error.errno is not None:  # as of a full disk
                raise OSError(
                    error.errno, f"cannot be decompressed to {folder}: {error.strerror}", str(path)
                ) from error
            raise ValueError(f"{path} cannot be decompressed: {error}") from error
        yield plain
