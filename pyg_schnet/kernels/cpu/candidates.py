"""Pairs of points within a distance, among candidates: counted first, then written, so memory is that of the pairs."""

from __future__ import annotations

import torch
from numba import njit, prange
from torch import Tensor

from pyg_schnet.kernels.cpu.run import EXACT_OPTIONS, array, arrays_of, by_work, run

_PRODUCTS = 8  # for each candidate, in units of those of a convolution


@njit(**EXACT_OPTIONS)
def _is_closer(source, target, limit) -> bool:
    """The formula of :func:`pyg_schnet.neighbors.criterion.squared_distances`, in the same order."""
    x, y, z = source[0] - target[0], source[1] - target[1], source[2] - target[2]
    return (x * x + y * y) + z * z < limit


@njit(**EXACT_OPTIONS)
def _count(begin, end, points, targets, start, count, row, omit, limit, found) -> None:
    for i in range(begin, end):
        n = 0
        for k in range(start.shape[1]):
            first = start[row[i], k]
            for j in range(first, first + count[row[i], k]):
                n += _is_closer(points[j], targets[i], limit)
        if omit is not None:
            n -= _is_closer(points[omit[i]], targets[i], limit)
        found[i] = n


@njit(**EXACT_OPTIONS)
def _write(begin, end, points, targets, start, count, row, omit, limit, ptr, edges) -> None:
    for i in range(begin, end):
        e = ptr[i]
        for k in range(start.shape[1]):
            first = start[row[i], k]
            for j in range(first, first + count[row[i], k]):
                if _is_closer(points[j], targets[i], limit) and (omit is None or j != omit[i]):
                    edges[0, e], edges[1, e] = j, i
                    e += 1


@njit(parallel=True, **EXACT_OPTIONS)
def _count_parallel(bounds, points, targets, start, count, row, omit, limit, found) -> None:
    for part in prange(bounds.shape[0] - 1):
        _count(bounds[part], bounds[part + 1], points, targets, start, count, row, omit, limit, found)


@njit(parallel=True, **EXACT_OPTIONS)
def _write_parallel(bounds, points, targets, start, count, row, omit, limit, ptr, edges) -> None:
    for part in prange(bounds.shape[0] - 1):
        _write(bounds[part], bounds[part + 1], points, targets, start, count, row, omit, limit, ptr, edges)


def close_pairs(
    points: Tensor, targets: Tensor, start: Tensor, count: Tensor, row: Tensor, omit: Tensor | None, limit: float
) -> Tensor:
    """Pairs of a point and a target whose squared distance is below a limit, sorted by target.

    The candidates of target ``t`` are ranges of consecutive points, those of ``row[t]``.

    Args:
        points: Points in Å, shape ``[M, 3]``.
        targets: Targets in Å, shape ``[N, 3]``.
        start: First point of each range, shape ``[U, R]``.
        count: Points in each range, shape ``[U, R]``.
        row: Ranges of each target, shape ``[N]``.
        omit: For each target a candidate that is none, shape ``[N]``.
        limit: In Å².

    Returns:
        Points (row 0) and targets (row 1), int64, shape ``[2, E]``.
    """
    candidates = row.new_zeros(row.size(0) + 1)
    torch.cumsum(count.sum(1).index_select(0, row), 0, out=candidates[1:])
    work, cut = _PRODUCTS * int(candidates[-1]), by_work(array(candidates))
    arrays = arrays_of(points, targets, start, count, row, omit)
    arguments = (*arrays, arrays[0].dtype.type(limit))
    ptr = torch.zeros_like(candidates)
    run(_count, _count_parallel, cut, work, *arguments, array(ptr[1:]))
    torch.cumsum(ptr, 0, out=ptr)
    edges = row.new_empty(2, int(ptr[-1]))
    run(_write, _write_parallel, cut, work, *arguments, array(ptr), array(edges))
    return edges
