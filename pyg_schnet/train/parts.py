"""Parts of batches for the processes of a run, so that each has as much to do as the others."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DistributedSampler
from torch_geometric.data import Batch, InMemoryDataset

from pyg_schnet.train.batches import ResumedBatches


def balanced_parts(loads: np.ndarray, num_parts: int) -> list[np.ndarray]:
    """Places of structures, divided so that the sums of their loads are about equal.

    The largest that is left goes to the part that has least, so the largest part has at most 4/3 of what is possible
    (`Graham (1969) <https://doi.org/10.1137/0117039>`_), and far less where no structure stands out.

    Args:
        loads: Work that each structure is, such as its number of edges, shape ``[B]``.
        num_parts: Number of parts.

    Returns:
        Places in each part, in ascending order.

    Raises:
        ValueError: If there are fewer structures than parts.

    Example:
        >>> [part.tolist() for part in balanced_parts(np.array([5, 1, 2, 2]), 2)]
        [[0], [1, 2, 3]]
    """
    if len(loads) < num_parts:
        raise ValueError(f"{len(loads)} structures cannot be divided among {num_parts} processes; use fewer of them")
    parts: list[list[int]] = [[] for _ in range(num_parts)]
    heap = [(0.0, k) for k in range(num_parts)]
    for place in np.argsort(-np.asarray(loads, dtype=np.float64), kind="stable").tolist():
        load, least = heap[0]
        parts[least].append(place)
        heapq.heapreplace(heap, (load + float(loads[place]) + 1e-6, least))  # empty structures are dealt out as well
    return [np.array(sorted(part), dtype=np.int64) for part in parts]


def evaluation_parts(n_structures: int, batch_size: int, num_parts: int) -> list[list[list[int]]]:
    """Batches of an evaluation for each of several processes: each structure once, and as many batches for all.

    Args:
        n_structures: Number of structures.
        batch_size: Structures in a batch; one more at times, so that all processes have as many batches.
        num_parts: Number of processes.

    Returns:
        Batches of each process, as lists of indices; fewer for some only where there are fewer structures than
        processes.

    Example:
        >>> evaluation_parts(5, 2, 2)
        [[[0, 2], [4]], [[1], [3]]]
    """
    parts = [np.arange(n_structures)[k::num_parts] for k in range(num_parts)]
    fewest = max(n_structures // num_parts, 1)
    num_batches = min(-(-len(parts[0]) // batch_size), fewest) if n_structures else 0
    return [
        [batch.tolist() for batch in np.array_split(part, num_batches) if len(batch)] if num_batches else []
        for part in parts
    ]


class RankBatches(DistributedSampler):
    """The part of one process of each batch that all processes take together.

    Every process draws the same batches, so they are those of a run of one process with batches as large. Lightning
    leaves loaders with a ``DistributedSampler`` as they are.

    Args:
        batches: Batches of all processes together.
        loads: Work that each structure is, shape ``[n]``; ``None`` gives all processes as many structures.
        num_parts: Number of processes.
        part: Number of this one.
    """

    def __init__(self, batches: ResumedBatches, loads: np.ndarray | None, num_parts: int, part: int) -> None:
        super().__init__(range(len(batches)), num_parts, part, shuffle=False)  # type: ignore[arg-type]
        self.batches = batches
        self.loads = loads

    @property
    def sampler(self) -> Any:
        """Order of the structures."""
        return self.batches.sampler

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before every epoch."""
        super().set_epoch(epoch)
        self.batches.sampler.set_epoch(epoch)  # type: ignore[union-attr]

    def leave_out(self, epoch: int, batches: int) -> None:
        """Leave out the first ``batches`` of one epoch; others are whole."""
        self.batches.leave_out(epoch, batches)

    def num_left_out(self) -> int:
        """Batches that are left out of the present epoch."""
        return self.batches.num_left_out()

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:  # type: ignore[override]
        for batch in self.batches:
            index = np.array(batch)
            loads = np.ones(len(index)) if self.loads is None else self.loads[index]
            yield index[balanced_parts(loads, self.num_replicas)[self.rank]].tolist()


class GivenBatches(DistributedSampler):
    """Batches that are the same in every epoch, and those of one process alone.

    Args:
        batches: Indices of each batch.
        num_parts: Number of processes.
        part: Number of this one.
    """

    def __init__(self, batches: list[list[int]], num_parts: int, part: int) -> None:
        super().__init__(range(len(batches)), num_parts, part, shuffle=False)  # type: ignore[arg-type]
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:  # type: ignore[override]
        return iter(self.batches)


def loads_in_memory(dataset: Any) -> np.ndarray | None:
    """Work that each structure of a data set in memory is: edges where there are any, else atoms.

    Args:
        dataset: Data set, or a selection of one.

    Returns:
        Shape ``[n]``; ``None`` for others, of which every structure would have to be read.

    Example:
        >>> from pyg_schnet.data.base import StructureDataset
        >>> dataset = StructureDataset()
        >>> dataset.set_store(torch.tensor([1, 2]), {"pos": torch.rand(3, 3), "z": torch.tensor([1, 6, 8])}, {})
        >>> loads_in_memory(dataset)
        array([1, 2])
    """
    slices = getattr(dataset, "slices", None)
    if not isinstance(dataset, InMemoryDataset) or not isinstance(slices, dict):
        return None
    bounds = next((slices[name] for name in ("edge_index", "z", "pos") if isinstance(slices.get(name), Tensor)), None)
    if bounds is None:
        return None
    sizes = bounds.diff()
    return (sizes if dataset._indices is None else sizes[torch.tensor(list(dataset._indices))]).numpy()


def loads_of_batch(batch: Batch) -> np.ndarray:
    """Work that each structure of a batch is: edges where there are any, else atoms, shape ``[B]``."""
    edge_index = batch.get("edge_index")
    owner = batch.batch if edge_index is None else batch.batch[edge_index[1].long()]
    return owner.bincount(minlength=batch.num_graphs).numpy()
