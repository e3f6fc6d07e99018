"""Graphs of all structures of a data set in memory, computed once and kept beside them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from pyg_schnet.data.loader import can_gather, collate_indices
from pyg_schnet.data.transforms import MARK, NeighborList

MAX_BYTES = 2**30
"""Memory in bytes that the graphs of a data set may take, unless told otherwise."""

_AT_A_TIME = 250  # structures whose graphs are searched together
_NEEDED = {"z", "pos", "cell", "pbc"}


def with_graphs(dataset: Any, cutoff: float, max_bytes: int | None = MAX_BYTES) -> Any | None:
    """A data set whose structures have the edges that :class:`~pyg_schnet.data.NeighborList` makes.

    Where positions stay as they are, neighbours have to be searched once: that is as much as three epochs of training
    on crystals of five atoms save (7 % each). An edge takes 11 bytes: indices within the structure are int32, lattice
    shifts int8 where they fit.

    Args:
        dataset: An :class:`~torch_geometric.data.InMemoryDataset` of structures without a ``transform``, or a selection
            of one; unchanged, the result shares its memory.
        cutoff: Cutoff in Å.
        max_bytes: Memory that the edges may take; ``None`` for any.

    Returns:
        The data set with ``edge_index``, ``edge_shift`` where anything is periodic, and their mark. ``None`` where they
        would take more memory, structures have edges already, or are not in memory as they are.

    Example:
        >>> from pyg_schnet.data.base import StructureDataset
        >>> dataset = StructureDataset()
        >>> dataset.set_store(torch.tensor([1, 2]), {"pos": torch.rand(3, 3), "z": torch.tensor([1, 6, 8])}, {})
        >>> with_graphs(dataset, cutoff=5.0)[1].edge_index
        tensor([[1, 0],
                [0, 1]], dtype=torch.int32)
    """
    if not can_gather(dataset) or "edge_index" in dataset._data or not {"z", "pos"} <= set(dataset._data.keys()):
        return None
    ends = dataset.slices["z"]
    chosen = range(ends.numel() - 1) if dataset._indices is None else dataset._indices
    index = torch.unique(torch.tensor(list(chosen), dtype=torch.int64))
    found = _search(dataset, index, float(cutoff), max_bytes)
    return None if found is None else _joined(dataset, index, float(cutoff), *found)


def size_of_graphs(dataset: Any) -> int:
    """Bytes that the edges of all structures take together."""
    values = (dataset._data.get(name) for name in ("edge_index", "edge_shift"))
    return sum(value.numel() * value.element_size() for value in values if value is not None)


def _search(
    dataset: Any, index: Tensor, cutoff: float, max_bytes: int | None
) -> tuple[list[Tensor], list[Tensor], list[Tensor]] | None:
    """Edges within their structures, their shifts, and the number of each structure's; ``None`` where they are many."""
    whole = copy.copy(dataset)
    whole._indices = None
    pbc = dataset._data.get("pbc")
    search = NeighborList(cutoff, periodic=pbc is not None and bool(pbc.any()))
    others = set(dataset._data.keys()) - _NEEDED
    edges, shifts, counts, size = [], [], [], 0
    for part in index.split(_AT_A_TIME):
        batch = search(collate_indices(whole, part, exclude_keys=others))
        first = batch.ptr[batch.batch[batch.edge_index[1]]]
        edges.append((batch.edge_index - first).to(torch.int32))
        if "edge_shift" in batch:
            shifts.append(_narrow(batch.edge_shift))
        counts.append(batch[MARK][:, 1].long())
        size += sum(x.numel() * x.element_size() for x in (edges[-1], *shifts[-1:]))
        done = sum(map(len, counts))
        if max_bytes is not None and size > max_bytes * done / len(index) and (done > 1000 or size > max_bytes):
            return None
    return edges, shifts, counts


def _narrow(shift: Tensor) -> Tensor:
    """Lattice shifts as int8 where they fit."""
    fits = shift.numel() == 0 or int(shift.abs().max()) <= torch.iinfo(torch.int8).max
    return shift.to(torch.int8 if fits else torch.int32)


def _joined(
    dataset: Any, index: Tensor, cutoff: float, edges: list[Tensor], shifts: list[Tensor], counts: list[Tensor]
) -> Any:
    """The data set with these edges; other structures than those of ``index`` have none, and a mark that says so."""
    count = dataset.slices["z"].numel() - 1
    mark = torch.zeros(count, 2)
    mark[index, 0], mark[index, 1] = cutoff, torch.cat(counts).float()
    bounds = torch.zeros(count + 1, dtype=torch.int64)
    torch.cumsum(mark[:, 1].long(), 0, out=bounds[1:])
    kept = copy.copy(dataset)
    kept._data, kept._data_list = copy.copy(dataset._data), None
    kept._data.edge_index = torch.cat(edges, dim=1)
    kept._data[MARK] = mark
    kept.slices = {**dataset.slices, "edge_index": bounds, MARK: torch.arange(count + 1)}
    if shifts:
        kept._data.edge_shift = torch.cat(shifts)  # of the widest type
        kept.slices["edge_shift"] = bounds
    return kept
