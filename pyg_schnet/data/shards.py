"""Reference data in shards: many small stores in one folder, written one by one and read as one data set."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch_geometric.data import Data

from pyg_schnet.data.base import StructureDataset
from pyg_schnet.data.labels import STANDARD_LABELS
from pyg_schnet.data.properties import Property
from pyg_schnet.data.store import StructureStore
from pyg_schnet.models.reading import read_json
from pyg_schnet.models.writing import write_whole

SHARDS, COUNTS = "shards", "counts.json"
"""Folder of the shards, and the file in each of them that counts what was made, left out and why."""

KIND_NAMES = (
    "given",
    "relaxed",
    "path",
    "modes",
    "langevin",
    "bonds",
    "torsions",
    "fragments",
    "pairs",
    "dimers",
)
"""Kinds of geometries; structures keep their place in this list."""

PROPERTIES: dict[str, Property] = {name: STANDARD_LABELS[name] for name in ("energy", "forces")}
"""Labels of reference data."""

_COLUMNS = {"z": "atom", "pos": "atom", "forces": "atom", "energy": "", "kind": "", "molecule": ""}
_PARTNER = "molecule_partner"


class ReferenceData(StructureDataset):
    """Structures with energies and forces that ``pyg-schnet reference-data`` has made, in eV and Å.

    Each has ``z`` ``[N]``, ``pos`` ``[N, 3]`` and ``forces`` ``[N, 3]`` in float32, ``energy`` ``[1]`` in float64,
    ``n_atoms`` ``[1]``, ``kind`` ``[1]``, its place in ``KIND_NAMES``, and ``molecule`` ``[1]``, a number that is
    the same for all geometries of a molecule (by its bonds and elements), also in other folders. A fragment is a
    molecule of its own. ``molecule_partner`` ``[1]`` is the number of the other one of a pair, else the same number.
    Split by it (``--data.split_by molecule``): geometries of one molecule are alike, and a random split would put them
    on both sides. No molecule of validation or test is then in training, neither alone nor in a pair. All is read into
    memory.

    Args:
        source: Folder that the command made, or several.
        kinds: Kinds of geometries to take, of ``KIND_NAMES``; all by default.
        transform: Applied to each structure on access; see :class:`StructureDataset`.

    Raises:
        FileNotFoundError: If a folder has no shards.
        ValueError: If there is no such kind, no structure of it, or a shard is damaged.

    Example:
        >>> import tempfile
        >>> structure = Data(
        ...     z=torch.tensor([1]), pos=torch.zeros(1, 3), forces=torch.zeros(1, 3),
        ...     energy=torch.zeros(1, dtype=torch.float64), kind=torch.tensor([0]), molecule=torch.tensor([7]),
        ...     n_atoms=torch.tensor([1]),
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_shard(folder, 0, [structure, structure], {})
        ...     print(len(ReferenceData(folder)))
        2
    """

    properties: dict[str, Property] = PROPERTIES

    def __init__(
        self,
        source: Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
        kinds: Sequence[str] | None = None,
        transform: Callable | None = None,
    ) -> None:
        super().__init__(transform=transform)
        chosen = range(len(KIND_NAMES)) if kinds is None else [_place(kind) for kind in kinds]
        columns: dict[str, list[torch.Tensor]] = {name: [] for name in ("n_atoms", _PARTNER, *_COLUMNS)}
        for folder in [source] if isinstance(source, str | os.PathLike) else source:
            found = shards_in(Path(folder).expanduser())
            if not found:
                raise FileNotFoundError(f"{folder} has no shards; pyg-schnet reference-data makes some")
            for shard in found:
                for name, column in _read(shard, chosen).items():
                    columns[name].append(column)
        if not columns["n_atoms"]:
            raise ValueError(f"there are no structures of the kinds {', '.join(kinds or KIND_NAMES)} in {source}")
        whole = {name: torch.cat(parts) for name, parts in columns.items()}
        self.set_store(
            whole["n_atoms"],
            atoms={name: whole[name] for name, level in _COLUMNS.items() if level},
            structures={name: column for name, column in whole.items() if not _COLUMNS.get(name)},
        )


def _place(kind: str) -> int:
    if kind not in KIND_NAMES:
        raise ValueError(f"kinds of geometries are {', '.join(KIND_NAMES)}, got {kind!r}")
    return KIND_NAMES.index(kind)


def _read(shard: Path, kinds: Iterable[int]) -> dict[str, torch.Tensor]:
    """Columns of the structures of some kinds; none where the shard has none."""
    if not (shard / "structures.json").exists():  # all its geometries were left out
        return {}
    store = StructureStore(shard)
    try:
        if missing := [name for name in _COLUMNS if name not in store.schema]:
            raise ValueError(f"{shard} is no shard of reference data: its structures have no {', '.join(missing)}")
        has_partners = _PARTNER in store.schema  # earlier shards have the number of a pair's first molecule alone
        columns = store.joined([*_COLUMNS, "n_atoms", *[_PARTNER] * has_partners])
    finally:
        store.close()
    columns.setdefault(_PARTNER, columns["molecule"])
    keep = torch.isin(columns["kind"], torch.tensor(list(kinds)))
    if bool(keep.all()):
        return columns
    of_atoms = keep.repeat_interleave(columns["n_atoms"])
    kept = {name: column[of_atoms if _COLUMNS.get(name) else keep] for name, column in columns.items()}
    return kept if bool(keep.any()) else {}


def shards_in(folder: Path) -> list[Path]:
    """Complete shards of a folder, in their order."""
    return sorted(path.parent for path in (folder / SHARDS).glob(f"[0-9]*/{COUNTS}"))


def shard_path(folder: str | os.PathLike[str], number: int) -> Path:
    """Where a shard is when it is complete."""
    return Path(folder) / SHARDS / f"{number:06d}"


def write_shard(
    folder: str | os.PathLike[str], number: int, structures: Sequence[Data], counts: Mapping[str, Any]
) -> None:
    """Write a shard beside its place and move it there when it is whole; one that is there already stays.

    Args:
        folder: Folder of the data.
        number: Place of the shard, from 0 on.
        structures: Its structures; there may be none.
        counts: What ``COUNTS`` is going to hold.
    """
    target = shard_path(folder, number)
    partial = target.with_name(f"partial-{number:06d}-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        if structures:
            StructureStore.create(partial, structures, PROPERTIES).close()
        write_whole(partial / COUNTS, json.dumps(counts, indent=1, ensure_ascii=False) + "\n")
        with contextlib.suppress(FileExistsError, NotADirectoryError):
            if not (target / COUNTS).exists():
                os.rename(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def counts_of(shard: Path) -> dict[str, Any]:
    """What was counted when a shard was made."""
    return dict(read_json(shard / COUNTS))


def remove_partial_shards(folder: str | os.PathLike[str]) -> None:
    """Remove what processes that were killed have left of shards they were writing."""
    for path in (Path(folder) / SHARDS).glob("partial-*"):
        if not _is_alive(int(path.name.rsplit("-", 1)[1])):
            shutil.rmtree(path, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True
