"""Pairs of points within a distance among candidates, counted first and then written, to save memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.backends import tuning
from pyg_schnet.backends.numba.edge_lengths import length
from pyg_schnet.backends.numba.lib.buffers import arrays_of
from pyg_schnet.backends.numba.lib.compiler import EXACT, njit
from pyg_schnet.backends.numba.lib.parallel import equal_work, is_large, run


@njit(**EXACT)
def _is_closer(source, target, limit) -> bool:
    """The formula of :func:`pyg_schnet.neighbors.criterion.squared_distances`, in the same order."""
    x, y, z = source[0] - target[0], source[1] - target[1], source[2] - target[2]
    return (x * x + y * y) + z * z < limit


@njit(**EXACT)
def _count(begin, end, points, targets, start, count, row, omit, limit, found) -> None:
    for i in range(begin, end):
        n = 0
        for k in range(start.shape[1]):
            first = start[row[i], k]
            for j in range(first, first + count[row[i], k]):
                n += _is_closer(points[j], targets[i], limit)
        if omit.shape[0] > 0:
            n -= _is_closer(points[omit[i]], targets[i], limit)
        found[i] = n


@njit(**EXACT)
def _write(begin, end, points, targets, start, count, row, omit, limit, ptr, edges) -> None:
    for i in range(begin, end):
        e = ptr[i]
        for k in range(start.shape[1]):
            first = start[row[i], k]
            for j in range(first, first + count[row[i], k]):
                if _is_closer(points[j], targets[i], limit) and (omit.shape[0] == 0 or j != omit[i]):
                    edges[0, e], edges[1, e] = j, i
                    e += 1


@njit(**EXACT)
def _accumulate(counts) -> None:
    """Cumulative sums of counts, in place; the first entry is zero."""
    for i in range(1, counts.shape[0]):
        counts[i] += counts[i - 1]


@njit(**EXACT)
def _candidates(count, row) -> np.ndarray:
    """Where the candidates of each target begin and end in a list of all."""
    ptr = np.zeros(row.shape[0] + 1, np.int64)
    for i in range(row.shape[0]):
        ptr[i + 1] = ptr[i] + count[row[i]].sum()
    return ptr


@njit(**EXACT)
def _find(points, targets, start, count, row, omit, limit) -> np.ndarray:
    n_targets = row.shape[0]
    ptr = np.zeros(n_targets + 1, np.int64)
    _count(0, n_targets, points, targets, start, count, row, omit, limit, ptr[1:])
    _accumulate(ptr)
    edges = np.empty((2, ptr[-1]), np.int64)
    _write(0, n_targets, points, targets, start, count, row, omit, limit, ptr, edges)
    return edges


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
        omit: For each target a candidate to leave out, shape ``[N]``.
        limit: In Å².

    Returns:
        Points (row 0) and targets (row 1), int64, shape ``[2, E]``.
    """
    arrays = arrays_of(points, targets, start, count, row, row[:0] if omit is None else omit)
    arguments, candidates = (*arrays, arrays[0].dtype.type(limit)), _candidates(arrays[3], arrays[4])
    work = tuning.current.search_work * int(candidates[-1])
    if not is_large(work):
        return torch.from_numpy(_find(*arguments))
    ptr = np.zeros(len(candidates), np.int64)
    run(_count, equal_work(candidates), work, *arguments, ptr[1:])
    _accumulate(ptr)
    edges = np.empty((2, ptr[-1]), np.int64)
    run(_write, equal_work(candidates), work, *arguments, ptr, edges)
    return torch.from_numpy(edges)


@njit(**EXACT)
def _candidates_once(ptr) -> np.ndarray:
    """Where the pairs of atoms of each structure begin and end in a list of all."""
    found = np.zeros(ptr.shape[0], np.int64)
    for s in range(ptr.shape[0] - 1):
        n = ptr[s + 1] - ptr[s]
        found[s + 1] = found[s] + n * (n - 1) // 2
    return found


@njit(**EXACT)
def _count_once(begin, end, points, ptr, limit, found) -> None:
    for s in range(begin, end):
        for i in range(ptr[s], ptr[s + 1]):
            n = 0
            for j in range(i + 1, ptr[s + 1]):
                n += _is_closer(points[j], points[i], limit)
            found[i] = n


@njit(**EXACT)
def _write_once(begin, end, points, ptr, limit, pair_ptr, edges, dist) -> None:
    for s in range(begin, end):
        for i in range(ptr[s], ptr[s + 1]):
            e = pair_ptr[i]
            for j in range(i + 1, ptr[s + 1]):
                if _is_closer(points[j], points[i], limit):
                    edges[0, e], edges[1, e], dist[e] = j, i, length(points, i, j, None, 0)
                    e += 1


@njit(**EXACT)
def _find_once(points, ptr, limit) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n_points, n_structures = points.shape[0], ptr.shape[0] - 1
    pair_ptr = np.zeros(n_points + 1, np.int64)
    _count_once(0, n_structures, points, ptr, limit, pair_ptr[1:])
    _accumulate(pair_ptr)
    edges, dist = np.empty((2, pair_ptr[-1]), np.int64), np.empty(pair_ptr[-1], points.dtype)
    _write_once(0, n_structures, points, ptr, limit, pair_ptr, edges, dist)
    return edges, pair_ptr, dist


def close_pairs_once(points: Tensor, ptr: Tensor, limit: float, most: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """Pairs of points of the same structure whose squared distance is below a limit, each once, sorted by target.

    Args:
        points: Points in Å, those of one structure together, shape ``[N, 3]``.
        ptr: First point of each structure and ``N``, shape ``[B + 1]``.
        limit: In Å².
        most: Largest number of candidates.

    Returns:
        The later point (row 0) and the earlier one (row 1), int64, shape ``[2, P]``; where the pairs of each earlier
        point begin and end, shape ``[N + 1]``; distances in Å, shape ``[P]``. ``None`` if there are more candidates.
    """
    arrays = arrays_of(points, ptr)
    candidates = _candidates_once(arrays[1])
    if candidates[-1] > most:
        return None
    arguments = (*arrays, arrays[0].dtype.type(limit))
    work = tuning.current.search_work * int(candidates[-1])
    if not is_large(work):
        return tuple(map(torch.from_numpy, _find_once(*arguments)))
    pair_ptr = np.zeros(len(arrays[0]) + 1, np.int64)
    run(_count_once, equal_work(candidates), work, *arguments, pair_ptr[1:])
    _accumulate(pair_ptr)
    edges, dist = np.empty((2, pair_ptr[-1]), np.int64), np.empty(pair_ptr[-1], arrays[0].dtype)
    run(_write_once, equal_work(candidates), work, *arguments, pair_ptr, edges, dist)
    return tuple(map(torch.from_numpy, (edges, pair_ptr, dist)))


@njit(**EXACT)
def closest(points, limits) -> tuple[float, float, float]:
    """Largest coordinate, smallest squared distance, and smallest excess of one over its limit; NaN of no numbers."""
    extent, square, excess, is_number = 0.0, np.inf, np.inf, True
    for i in range(points.shape[0]):
        for axis in range(3):
            size = abs(points[i, axis])
            is_number = is_number and size < np.inf
            extent = max(extent, size)
        for j in range(i + 1, points.shape[0]):
            x, y, z = points[i, 0] - points[j, 0], points[i, 1] - points[j, 1], points[i, 2] - points[j, 2]
            found = (x * x + y * y) + z * z
            square, excess = min(square, found), min(excess, found - limits[i, j])
    return (extent, square, excess) if is_number else (np.nan, np.nan, np.nan)
