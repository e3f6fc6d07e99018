"""The edges of a graph in the orders in which the kernels walk them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.index import index2ptr

from pyg_schnet.ops.dispatch import is_dense_cpu

MANY_EDGES = 1024
"""Edges at one atom from which on their sum is not made in float32 one after the other: rounding errors add up."""


class SplineGraph(NamedTuple):
    """Edges, and their orders by target, by source and by interval of the spline.

    An order is a pair: ``ptr`` says where the edges of each target (source, interval) begin and end, ``order`` which
    edges these are; ``None`` for edges that lie in that order already.

    Attributes:
        bins: Interval of the spline grid of each edge, the first of its four coefficients, shape ``[E]``.
        source: Source j of each edge, shape ``[E]``.
        target: Target i of each edge, shape ``[E]``.
        target_ptr: By target, shape ``[N_dst + 1]``.
        target_order: By target, shape ``[E]``.
        source_ptr: By source, shape ``[N_src + 1]``; ``None`` until a derivative by features needs it.
        source_order: By source, shape ``[E]``.
        bin_ptr: By interval, shape ``[num_intervals + 1]``; ``None`` until a derivative by coefficients needs it.
        bin_order: By interval, shape ``[E]``.
        undirected: Whether each edge also stands for the one in the other direction; sources are targets then, edges
            lie in the order of their targets, and no other order is needed.
    """

    bins: Tensor
    source: Tensor
    target: Tensor
    target_ptr: Tensor
    target_order: Tensor | None = None
    source_ptr: Tensor | None = None
    source_order: Tensor | None = None
    bin_ptr: Tensor | None = None
    bin_order: Tensor | None = None
    undirected: bool = False

    def transposed(self) -> SplineGraph:
        """The same edges in the other direction, from target to source."""
        if self.undirected:
            return self
        return self._replace(
            source=self.target,
            target=self.source,
            target_ptr=self.source_ptr,
            target_order=self.source_order,
            source_ptr=self.target_ptr,
            source_order=self.target_order,
        )

    def with_sources(self, num_sources: int) -> SplineGraph:
        """With the order by source, made where it is missing."""
        if self.source_ptr is not None or self.undirected:
            return self
        ptr, order = sort_edges(self.source, num_sources)
        return self._replace(source_ptr=ptr, source_order=order)

    def in_both_directions(self) -> SplineGraph:
        """An undirected graph with two edges in the place of each; first all of one direction, then all of the other.

        Weights of the edges have to be repeated in the same way.
        """
        source, target = torch.cat([self.source, self.target]), torch.cat([self.target, self.source])
        ptr, order = sort_edges(target, self.target_ptr.size(0) - 1)
        return SplineGraph(torch.cat([self.bins] * 2), source, target, ptr, order)

    def with_bins(self, num_intervals: int) -> SplineGraph:
        """With the order by interval, made where it is missing."""
        if self.bin_ptr is not None or self.undirected:
            return self
        ptr, order = sort_edges(self.bins, num_intervals)
        return self._replace(bin_ptr=ptr, bin_order=order)


def sort_edges(key: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Order of edges by a key, equal keys in the order they have; ``ptr`` of shape ``[size + 1]`` and ``order``.

    Example:
        >>> sort_edges(torch.tensor([1, 0, 1]), 3)
        (tensor([0, 1, 3, 3]), tensor([1, 0, 2]))
    """
    if is_dense_cpu(key, (torch.int64,)):
        from pyg_schnet.backends import numba as cpu

        return cpu.sort_edges(key, size)
    ordered, order = torch.sort(key, stable=True)
    return index2ptr(ordered, size), order


def is_crowded(ptr: Tensor, source: Tensor | None = None) -> bool:
    """Whether an atom has more than :data:`MANY_EDGES` edges; on CPUs, where looking is cheap.

    Args:
        ptr: Begin and end of each target's edges, shape ``[N + 1]``.
        source: Source of each edge, where these stand for both directions, shape ``[P]``.

    Example:
        >>> is_crowded(torch.tensor([0, 3, 2000]))
        True
    """
    if ptr.device.type != "cpu" or ptr.numel() < 2:
        return False
    counts = ptr.diff()
    if source is not None and source.numel() > 0:
        counts = counts + source.bincount(minlength=counts.size(0))
    return int(counts.max()) > MANY_EDGES


class Pairs(NamedTuple):
    """One edge of each pair of directions.

    Attributes:
        edges: Which edges these are, ascending, shape ``[P]``.
        index: Their ends ``(j, i)``, shape ``[2, P]``.
        ptr: Begin and end of each target's, shape ``[N + 1]``.
    """

    edges: Tensor
    index: Tensor
    ptr: Tensor


def pair_edges(edge_index: Tensor, ptr: Tensor | None, offset: Tensor | None, num_atoms: int) -> Pairs | None:
    """One edge of each pair of directions, of a graph that has every edge in both.

    Edges from an atom to itself, not to an image of it, belong to no pair.

    Args:
        edge_index: ``(j, i)``, shape ``[2, E]``.
        ptr: Begin and end of each target's edges, shape ``[N + 1]``; ``None`` where the order of edges is not known.
        offset: Lattice vectors crossed by each edge, shape ``[E, 3]``; ``None`` for open boundaries.
        num_atoms: Number of atoms N.

    Returns:
        ``None`` for directed graphs, for edges that are not sorted by target and source (images of one atom so that
        reversal turns them round, as this package's own are), and for other devices than CPUs, where nobody asks.

    Example:
        >>> pair_edges(torch.tensor([[1, 2, 0, 0], [0, 0, 1, 2]]), None, None, 3).edges
        tensor([0, 1])
    """
    if not is_dense_cpu(edge_index, (torch.int64,)) or not (offset is None or is_dense_cpu(offset)):
        return None
    from pyg_schnet.backends import numba as cpu

    ptr = cpu.pointer_of_sorted(edge_index[1], num_atoms) if ptr is None else ptr
    found = None if ptr is None else cpu.half_list(edge_index[0], ptr, offset)
    return None if found is None else Pairs(*found)


def spline_graph(
    bins: Tensor, edge_index: Tensor, num_targets: int, target_ptr: Tensor | None = None, *, undirected: bool = False
) -> SplineGraph:
    """Graph for the kernels.

    Args:
        bins: Interval of each edge, shape ``[E]``.
        edge_index: ``(j, i)``, shape ``[2, E]``.
        num_targets: Number of targets.
        target_ptr: Begin and end of each target's edges, for edges sorted by target; otherwise they are sorted here.
        undirected: Whether each edge stands for both directions; edges must be sorted by target then.

    Example:
        >>> graph = spline_graph(torch.tensor([3, 5]), torch.tensor([[0, 1], [1, 0]]), 2)
        >>> graph.target_order
        tensor([1, 0])
    """
    source, target = edge_index[0], edge_index[1]
    order = None
    if target_ptr is None and is_dense_cpu(target, (torch.int64,)):
        from pyg_schnet.backends import numba as cpu

        target_ptr = cpu.pointer_of_sorted(target, num_targets)  # as most are
    if target_ptr is None:
        target_ptr, order = sort_edges(target, num_targets)
    if undirected and order is not None:
        raise ValueError("edges of an undirected graph must be sorted by target")
    return SplineGraph(bins, source, target, target_ptr, order, undirected=undirected)


def check_sources(source: Tensor, num_sources: int) -> None:
    """Raise an IndexError unless sources lie between 0 and ``num_sources - 1``; on CPUs, where looking is cheap."""
    if is_dense_cpu(source, (torch.int64,)) and source.numel() > 0:
        low, high = torch.aminmax(source)
        if low < 0 or high >= num_sources:
            raise IndexError(f"edges name atoms {int(low)} to {int(high)}, but there are {num_sources}")
