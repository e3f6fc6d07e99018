"""Pairs of points within a distance, batched, for any device: all pairs of small structures, bins in large ones.

Both ways describe the candidates of every target as ranges of consecutive points. The ranges are written out chunk by
chunk and filtered at once, so memory is bounded by the chunk and the pairs found, and the pairs come sorted by target.
On CPUs a compiled loop goes through the ranges instead.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyg_schnet.ops.dispatch import wide_dtype
from pyg_schnet.ops.radius import MOST_CANDIDATES, Ranges, close_pairs

DENSE_PAIRS = MOST_CANDIDATES  # all pairs are faster than bins up to this many for each point and target
REACH = (2, 2, 4)  # bins per cutoff along x, y and z; bins along z are consecutive, so many of them cost nothing
MAX_BINS = 2**16  # bins along one axis, so that bin numbers fit in 64 bits for atoms at any distance


def pairs_within(
    points: Tensor,
    point_ptr: Tensor,
    targets: Tensor,
    target_batch: Tensor,
    cutoff: float,
    point_batch: Tensor | None = None,
    omit: Tensor | None = None,
) -> Tensor:
    """All pairs of a point and a target of the same structure closer than the cutoff, sorted by target.

    The distance is that of ``squared_distances``, in the dtype of the points.

    Args:
        points: Sources in Å, shape ``[M, 3]``, those of one structure together.
        point_ptr: First point of each structure and ``M``, shape ``[B + 1]``.
        targets: Targets in Å, shape ``[N, 3]``.
        target_batch: Structure of each target, shape ``[N]``.
        cutoff: Cutoff in Å.
        point_batch: Structure of each point, shape ``[M]``, if it is known already.
        omit: For each target the one point, at its own place, that is no neighbour: the target itself, shape ``[N]``.

    Returns:
        Indices of points (row 0) and targets (row 1), int64, shape ``[2, E]``.

    Example:
        >>> points = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 5.0]])
        >>> pairs_within(points, torch.tensor([0, 3]), points[:1], torch.tensor([0]), cutoff=2.0)
        tensor([[0, 1],
                [0, 0]])
    """
    if points.size(0) == 0 or targets.size(0) == 0:
        return torch.empty((2, 0), dtype=torch.int64, device=points.device)
    n_points = point_ptr.diff()
    n_pairs = int(n_points.index_select(0, target_batch).sum())
    if n_pairs <= DENSE_PAIRS * (points.size(0) + targets.size(0)):
        ranges = Ranges(point_ptr[:-1, None], n_points[:, None], target_batch, None)
    else:
        if point_batch is None:
            point_batch = torch.repeat_interleave(n_points, output_size=points.size(0))
        ranges = bin_ranges(points, point_batch, targets, target_batch, point_ptr.numel() - 1, cutoff)
        assert ranges.order is not None
        points = points.index_select(0, ranges.order)
        if omit is not None:
            omit = torch.empty_like(ranges.order).scatter_(0, ranges.order, arange_like(ranges.order))[omit]
    edges = close_pairs(points, targets, ranges, cutoff, omit)
    if ranges.order is not None:
        edges[0] = ranges.order.index_select(0, edges[0])
    return edges


def bin_ranges(
    points: Tensor,
    point_batch: Tensor,
    targets: Tensor,
    target_batch: Tensor,
    batch_size: int,
    cutoff: float,
) -> Ranges:
    """Sort points into bins and list, for each bin with targets, the ranges of points within reach.

    Bins are numbered structure by structure with z fastest; only occupied bins are stored, so empty space is free. Cost
    and memory grow with the number of points (and the logarithm of a sort).

    Args:
        points: Sources in Å, shape ``[M, 3]``, M > 0.
        point_batch: Structure of each point, shape ``[M]``.
        targets: Targets in Å, shape ``[N, 3]``.
        target_batch: Structure of each target, shape ``[N]``.
        batch_size: Number of structures.
        cutoff: Cutoff in Å.

    Returns:
        Ranges of ``points[order]``, one row for each bin that holds targets.
    """
    wide = wide_dtype(points)
    xyz, goal = points.to(wide), targets.to(wide)
    reach = torch.tensor(REACH, device=points.device)
    index = point_batch[:, None].expand(-1, 3)
    low = xyz.new_full((batch_size, 3), torch.inf).scatter_reduce(0, index, xyz, "amin")
    high = xyz.new_full((batch_size, 3), -torch.inf).scatter_reduce(0, index, xyz, "amax")
    empty = low > high
    low, high = low.masked_fill(empty, 0.0), high.masked_fill(empty, 0.0)
    # a little more than the cutoff, so that rounding never moves a neighbour out of reach
    size = cutoff * (1 + 1e-5) + 4 * torch.finfo(wide).eps * torch.maximum(low.abs(), high.abs())
    width = torch.maximum(size / reach, (high - low) / MAX_BINS)  # [B, 3]
    margin = 2 * reach + 1  # empty bins on either side, so that no range leaves its structure
    n_bins = ((high - low) / width).floor().long() + 1 + 2 * margin  # [B, 3]
    last = n_bins - margin + reach  # bin of targets beyond the points: out of reach of all of them
    first_bin = n_bins.prod(1).cumsum(0) - n_bins.prod(1)

    def bins(positions: Tensor, batch: Tensor) -> Tensor:
        scaled = (positions - low.index_select(0, batch)) / width.index_select(0, batch)
        scaled = torch.minimum(scaled.clamp(min=-(2.0**30)), last.index_select(0, batch).to(wide))  # before int64
        xyz_bin = torch.maximum(scaled.floor().long() + margin, margin - reach - 1)
        xyz_bin = torch.minimum(xyz_bin, last.index_select(0, batch))
        n = n_bins.index_select(0, batch)
        return ((xyz_bin[:, 0] * n[:, 1]) + xyz_bin[:, 1]) * n[:, 2] + xyz_bin[:, 2] + first_bin.index_select(0, batch)

    point_bin, order = bins(xyz, point_batch).sort(stable=True)
    target_bin, row = torch.unique(bins(goal, target_batch), return_inverse=True)
    structure = torch.empty_like(target_bin)
    structure[row] = target_batch
    dx, dy = (torch.arange(-r, r + 1, device=points.device) for r in REACH[:2])
    n_y, n_z = n_bins[structure, 1], n_bins[structure, 2]
    column = (dx[:, None] * n_y[:, None, None] + dy) * n_z[:, None, None]  # [U, 2 reach_x + 1, 2 reach_y + 1]
    begin = (target_bin[:, None] + column.flatten(1)) - REACH[2]
    start = torch.searchsorted(point_bin, begin)
    stop = torch.searchsorted(point_bin, begin + 2 * REACH[2], right=True)
    return Ranges(start, stop - start, row, order)


def arange_like(index: Tensor) -> Tensor:
    """Numbers 0 to ``index.size(0) - 1`` on the device of ``index``."""
    return torch.arange(index.size(0), device=index.device)
