"""Edges of a graph in the orders in which splined convolutions read them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyg_schnet.ops.checks import check_edge_index
from pyg_schnet.ops.dispatch import is_at_hand
from pyg_schnet.ops.sort_edges import check_keys, pointer_of_sorted, sort_edges


class SplineGraph(NamedTuple):
    """Directed edges, and their orders by target, by source and by interval of the spline.

    An order is a pair: ``ptr`` says where the edges of each target (source, interval) begin and end, ``order`` which
    edges these are; ``None`` for edges that lie in that order already.

    Attributes:
        interval: Interval of the spline grid of each edge, the first of its four rows of the table, shape ``[E]``.
        source: Source j of each edge, shape ``[E]``.
        target: Target i of each edge, shape ``[E]``.
        target_ptr: By target, shape ``[N_dst + 1]``.
        target_order: By target, shape ``[E]``.
        source_ptr: By source, shape ``[N_src + 1]``; ``None`` until a derivative with respect to features needs it.
        source_order: By source, shape ``[E]``.
        interval_ptr: By interval, shape ``[num_intervals + 1]``; ``None`` until a derivative with respect to tables
            needs it.
        interval_order: By interval, shape ``[E]``.
    """

    interval: Tensor
    source: Tensor
    target: Tensor
    target_ptr: Tensor
    target_order: Tensor | None = None
    source_ptr: Tensor | None = None
    source_order: Tensor | None = None
    interval_ptr: Tensor | None = None
    interval_order: Tensor | None = None

    def transposed(self) -> SplineGraph:
        """The same edges in the other direction, from target to source."""
        assert self.source_ptr is not None
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
        if self.source_ptr is not None:
            return self
        ptr, order = sort_edges(self.source, num_sources)
        return self._replace(source_ptr=ptr, source_order=order)

    def with_intervals(self, num_intervals: int) -> SplineGraph:
        """With the order by interval, made where it is missing."""
        if self.interval_ptr is not None:
            return self
        ptr, order = sort_edges(self.interval, num_intervals)
        return self._replace(interval_ptr=ptr, interval_order=order)

    def in_both_directions(self) -> SplineGraph:
        """All edges of a half list (:func:`pyg_schnet.ops.half_list`): first as they are, then reversed.

        Attributes of edges, such as their basis, have to be repeated in the same way.
        """
        source, target = torch.cat([self.source, self.target]), torch.cat([self.target, self.source])
        ptr, order = sort_edges(target, self.target_ptr.size(0) - 1)
        return SplineGraph(torch.cat([self.interval] * 2), source, target, ptr, order)


def spline_graph(
    interval: Tensor, edge_index: Tensor, num_targets: int, target_ptr: Tensor | None = None
) -> SplineGraph:
    """Graph for splined convolutions.

    Args:
        interval: Interval of each edge, shape ``[E]``.
        edge_index: ``(j, i)``, shape ``[2, E]``.
        num_targets: Number of targets.
        target_ptr: Begin and end of each target's edges, for edges sorted by target; otherwise they are sorted here.

    Returns:
        Graph with the order by target.

    Example:
        >>> graph = spline_graph(torch.tensor([3, 5]), torch.tensor([[0, 1], [1, 0]]), 2)
        >>> graph.target_order
        tensor([1, 0])
    """
    check_edge_index(edge_index)
    source, target = edge_index[0], edge_index[1]
    order = None
    if target_ptr is None:
        target_ptr = pointer_of_sorted(target, num_targets)  # as most are
    if target_ptr is None:
        target_ptr, order = sort_edges(target, num_targets)
    return SplineGraph(interval, source, target, target_ptr, order)


def spanned(interval: Tensor, num_intervals: int | None) -> tuple[Tensor, int, int | None]:
    """Intervals counted from the first one that occurs, since no atoms are closer than a bond length.

    Args:
        interval: Interval of each edge, shape ``[E]``.
        num_intervals: Number of intervals; ``None`` leaves the intervals as they are.

    Returns:
        Intervals, the first one that occurs (or the even one before it, see
        :meth:`pyg_schnet.ops.filter_table.GridSamples.rows`), and how many there are from it to the last one that
        occurs. On other devices than CPUs, all are assumed to occur, so that nothing waits for the device.

    Example:
        >>> spanned(torch.tensor([5, 3]), 10)
        (tensor([3, 1]), 2, 4)
    """
    if num_intervals is None or interval.numel() == 0 or not is_at_hand(interval):
        return interval, 0, num_intervals
    low, high = (int(end) for end in torch.aminmax(interval))
    low -= low % 2
    return interval - low, low, high - low + 1


def check_sources(source: Tensor, num_sources: int) -> None:
    """Raise an IndexError unless sources lie between 0 and ``num_sources - 1``; checked on CPUs only."""
    check_keys(source, num_sources)
