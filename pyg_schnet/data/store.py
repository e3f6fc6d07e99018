"""Structures on disk, for sets that do not fit in memory."""

from __future__ import annotations

import copy
import itertools
import json
import os
import re
import sqlite3
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data, OnDiskDataset

from pyg_schnet.data.properties import Property, properties_of
from pyg_schnet.models.reading import check_file, described, read_json

_DTYPES = (
    "bool",
    "uint8",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "complex64",
    "complex128",
)
_STRUCTURES = "structures.db"
_DESCRIPTION = "structures.json"  # put in place last, so a store without it was never finished


class StructureStore(OnDiskDataset):
    """Structures in an SQLite file, read when they are needed; on PyG's :class:`~torch_geometric.data.OnDiskDataset`.

    A store is written once, by :meth:`create`, from any iterable of structures, and opened by its folder afterwards.
    All structures have the same attributes: tensors of one dtype, with one row per atom, edge or structure, and
    strings. Selection, :class:`~pyg_schnet.data.Split` and :class:`~pyg_schnet.data.StructureLoader` (also with worker
    processes, each of which opens the file) work as for data sets in memory.

    Args:
        root: Folder of the store.
        transform: Applied to each structure on access; transforms of batches belong to the loader.

    Raises:
        FileNotFoundError: If the folder holds no complete store.
        ValueError: If its files are damaged; the message names them.

    Example:
        >>> import tempfile
        >>> structures = [Data(z=torch.tensor([1] * n), pos=torch.zeros(n, 3)) for n in (1, 2, 3)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = StructureStore.create(folder, structures)
        ...     print(store, store[2].z)
        ...     store.close()
        StructureStore(3) tensor([1, 1, 1])
    """

    _db: Any  # the open file of the base class
    _is_new = False  # has no file yet

    def __init__(self, root: str | os.PathLike, transform: Callable | None = None) -> None:
        file = Path(root).expanduser() / _DESCRIPTION
        if not file.exists():
            raise FileNotFoundError(f"{root} holds no complete store; make one with StructureStore.create")
        content = read_json(file)
        try:
            attributes, self.properties = _described(content)
        except ValueError as error:
            raise ValueError(f"{file} is not the description of a store: {error}") from error
        self._process_id = os.getpid()
        self._inherited: list[Any] = []
        super().__init__(str(root), transform, schema=_schema(attributes))
        if not self._is_new:
            self._check_open()

    def _check_open(self) -> None:
        """Raise for a data base that is damaged."""
        with self._reading("its structures"):
            check_file(self.processed_paths[0])
            with open(self.processed_paths[0], "rb") as file:  # SQLite makes a data base of an empty file
                if file.read(16) != b"SQLite format 3\0":
                    raise ValueError("it is no data base of SQLite, or not a whole one")
            len(self)
        self.close()

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """Name the file in what goes wrong while it is read."""
        try:
            with _quiet_buffers():
                yield
        except (sqlite3.Error, ValueError, RuntimeError, TypeError, OverflowError) as error:
            file = self.processed_paths[0]
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{what} cannot be read from {file}: {reason}; it is damaged, or of another store"
            ) from error

    @classmethod
    def create(
        cls,
        root: str | os.PathLike,
        structures: Iterable[Data],
        properties: Mapping[str, Property] | None = None,
        chunk_size: int = 1000,
        overwrite: bool = False,
        pre_transform: Callable | None = None,
    ) -> StructureStore:
        """Write structures to a new store, a chunk at a time, and open it.

        Args:
            root: Folder to make.
            structures: A data set, list or generator.
            properties: Targets; by default those of ``structures``, if it is a data set that has them.
            chunk_size: Structures in memory at a time.
            overwrite: Whether to replace an existing store.
            pre_transform: Applied to every structure before it is written, such as
                ``NeighborList(cutoff, periodic=True)``, whose edges training then uses.

        Returns:
            The store.

        Raises:
            FileExistsError: If the folder already holds a store.
            ValueError: If there are no structures, or one has other attributes than the first.
        """
        root = Path(root).expanduser()
        if (root / _DESCRIPTION).exists() and not overwrite:
            raise FileExistsError(f"{root} holds a store already; pass overwrite=True to replace it")
        if properties is None:
            try:
                properties = properties_of(structures)
            except ValueError:
                properties = {}
        iterator = iter(structures) if pre_transform is None else map(pre_transform, structures)
        first = next(iterator, None)
        if first is None:
            raise ValueError("there are no structures to store")
        content = {
            "attributes": _attributes(first),
            "properties": {name: asdict(target) for name, target in properties.items()},
        }
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix="partial-") as folder:
            (Path(folder) / _DESCRIPTION).write_text(json.dumps(content, indent=1) + "\n")
            partial: Any = cls.__new__(cls)
            partial._is_new = True
            partial.__init__(folder)
            partial._write(itertools.chain([first], iterator), content["attributes"], chunk_size)
            for name in (_STRUCTURES, _DESCRIPTION):
                (Path(folder) / name).replace(root / name)
        return cls(root)

    def _write(self, structures: Iterable[Data], attributes: Mapping[str, Any], chunk_size: int) -> None:
        structures = iter(structures)
        while chunk := list(itertools.islice(structures, chunk_size)):
            for number, structure in enumerate(chunk, start=len(self)):
                if (found := _attributes(structure)) != attributes:
                    raise ValueError(
                        f"structure {number} has attributes {found}, the first one {attributes}; "
                        "a store holds one kind of structure"
                    )
            self.extend(chunk)
        self.close()

    @property
    def processed_dir(self) -> str:
        """The folder of the store itself."""
        return self.root

    @property
    def processed_file_names(self) -> str:
        """Name of the SQLite file."""
        return _STRUCTURES

    @property
    def db(self) -> Any:
        """The open file; a process that was forked off opens it again, as SQLite demands."""
        if self._db is not None and self._process_id != os.getpid():
            self._inherited.append(self._db)  # closing it here would release the locks of the parent
            self._db = None
        self._process_id = os.getpid()
        return super().db

    def close(self) -> None:
        """Close the file; it opens again when needed."""
        super().close()
        self._db = None

    def serialize(self, data: Data) -> dict[str, Any]:
        """Attributes as PyG stores them."""
        return {
            key: value.detach().cpu().contiguous() if isinstance(value, Tensor) else value
            for key, value in data.to_dict().items()
        }

    def deserialize(self, data: dict[str, Any]) -> Data:
        """The structure, with tensors of its own: those that PyG makes from the file must not be written to.

        Raises:
            ValueError: If it has not as many atomic numbers as positions.
        """
        _check_row(data)
        return Data(**{key: value.clone() if isinstance(value, Tensor) else value for key, value in data.items()})

    def get(self, idx: int) -> Data:
        """The structure with number ``idx`` of the file."""
        with self._reading(f"structure {idx}"):
            return super().get(idx)

    def multi_get(self, indices: Sequence[int], batch_size: int | None = None) -> list[Data]:
        """Several structures by their numbers in the file, in one query."""
        with self._reading("structures"):
            structures = [self.deserialize(row) for row in self.db.multi_get(indices, batch_size)]
        # what goes wrong in a transform is no damage of the file
        return structures if self.transform is None else [self.transform(one) for one in structures]

    def joined(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Tensors of all structures in the file, joined along their first dimension; faster than one by one.

        Args:
            names: Attributes to read.
        """
        with self._reading("structures"):
            rows = self.db.multi_get(range(super().len()))
            for row in rows:
                _check_row(row)
            return {name: torch.cat([row[name] for row in rows]) for name in names}

    def __getitems__(self, indices: Sequence[int]) -> list[Data]:
        chosen = self.indices()  # PyG's forgets that the data set may be a selection
        return self.multi_get([chosen[i] for i in indices])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_db": None, "_inherited": []}  # an open file can be neither copied nor sent

    def __copy__(self) -> StructureStore:
        other = type(self).__new__(type(self))
        other.__dict__.update(copy.copy(self.__getstate__()))
        return other


@contextmanager
def _quiet_buffers() -> Iterator[None]:
    """Without torch's warning that tensors on the bytes of the file are not writable; they are copied at once."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*buffer is not writable.*", UserWarning)
        yield


def _check_row(row: Mapping[str, Any]) -> None:
    """SQLite holds bytes without their shape: other ones may be read as atomic numbers."""
    if "z" in row and "pos" in row and len(row["z"]) != len(row["pos"]):
        raise ValueError(f"it has {len(row['z'])} atomic numbers and {len(row['pos'])} positions")


def _attributes(structure: Data) -> dict[str, Any]:
    """Dtype and size (-1 for the dimension that is joined in a batch) of every attribute, ``"str"`` for strings."""
    described: dict[str, Any] = {}
    for key, value in structure.to_dict().items():
        if isinstance(value, str):
            described[key] = "str"
            continue
        if not isinstance(value, Tensor) or value.dim() == 0:
            raise ValueError(
                f"attribute {key!r} is {value!r}; a store holds tensors of one dimension or more, and strings"
            )
        size = list(value.shape)
        size[structure.__cat_dim__(key, value)] = -1
        described[key] = [str(value.dtype).removeprefix("torch."), size]
    return dict(sorted(described.items()))


def _described(content: Any) -> tuple[dict[str, Any], dict[str, Property]]:
    """Attributes and targets of a description, all of which are tensors or texts: nothing is unpickled.

    Raises:
        ValueError: If something is missing, or not what :meth:`StructureStore.create` writes.
    """
    for name in ("attributes", "properties"):
        if not isinstance(content, dict) or not isinstance(content.get(name), dict):
            raise ValueError(f"it has no dictionary {name!r}")
    for name, kind in content["attributes"].items():
        if not re.fullmatch(r"\w+", name):
            raise ValueError(f"{described(name)} is not the name of an attribute")
        is_pair = isinstance(kind, list) and len(kind) == 2 and isinstance(kind[1], list) and kind[1]
        sizes = kind[1] if is_pair else []
        is_shape = all(isinstance(one, int) and not isinstance(one, bool) and one >= -1 for one in sizes)
        if kind != "str" and not (is_pair and kind[0] in _DTYPES and is_shape and sizes.count(-1) <= 1):
            raise ValueError(f"attribute {name!r} must be 'str', or dtype and size of a tensor, got {described(kind)}")
    return content["attributes"], {name: _property(name, given) for name, given in content["properties"].items()}


def _property(name: str, given: Any) -> Property:
    known = {field.name: type(field.default) if field.name != "column" else int for field in fields(Property)}
    known |= {"name": str, "unit": str}
    for key, value in given.items() if isinstance(given, dict) else [(given, None)]:
        if key not in known or not (isinstance(value, known[key]) or (key == "column" and value is None)):
            raise ValueError(f"target {name!r} is not a Property: it has {described({key: value})}")
    if not {"name", "unit"} <= set(given):
        raise ValueError(f"target {name!r} is not a Property: it has no name or no unit")
    return Property(**given)


def _schema(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: str if kind == "str" else {"dtype": getattr(torch, kind[0]), "size": tuple(kind[1])}
        for key, kind in attributes.items()
    }
