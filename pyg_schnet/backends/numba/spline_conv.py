"""The fused convolution and its derivatives, without atomics: every row is summed by one thread in order of its edges.

Each kernel is a serial function over a range of rows, and a parallel one that cuts the rows into one range for each
thread, of about as many edges. Results do not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import prange
from torch import Tensor

from pyg_schnet.backends.numba.lib.compiler import njit
from pyg_schnet.backends.numba.lib.parallel import OPTIONS, array, arrays_of, by_work, evenly, run
from pyg_schnet.ops.graph import SplineGraph
from pyg_schnet.ops.segment_sum import MANY_EDGES, is_crowded

_PIECE = 64  # edges that are summed in float32


@njit(**OPTIONS)
def _convolve(begin, end, x, c, h, bins, source, ptr, order, out) -> None:
    """Rows of the convolution; two edges at a time, which halves the traffic of the sum."""
    n_features = x.shape[1]
    for i in range(begin, end):
        for f in range(n_features):
            out[i, f] = 0
        first, last = ptr[i], ptr[i + 1]
        paired = last - (last - first) % 2
        for p in range(first, paired, 2):
            a = order[p] if order is not None else p
            b = order[p + 1] if order is not None else p + 1
            ja, ka, jb, kb = source[a], bins[a], source[b], bins[b]
            a0, a1, a2, a3 = h[a, 0], h[a, 1], h[a, 2], h[a, 3]
            b0, b1, b2, b3 = h[b, 0], h[b, 1], h[b, 2], h[b, 3]
            for f in range(n_features):
                wa = a0 * c[ka, f] + a1 * c[ka + 1, f] + a2 * c[ka + 2, f] + a3 * c[ka + 3, f]
                wb = b0 * c[kb, f] + b1 * c[kb + 1, f] + b2 * c[kb + 2, f] + b3 * c[kb + 3, f]
                out[i, f] += x[ja, f] * wa + x[jb, f] * wb
        for p in range(paired, last):
            a = order[p] if order is not None else p
            ja, ka = source[a], bins[a]
            a0, a1, a2, a3 = h[a, 0], h[a, 1], h[a, 2], h[a, 3]
            for f in range(n_features):
                out[i, f] += x[ja, f] * (a0 * c[ka, f] + a1 * c[ka + 1, f] + a2 * c[ka + 2, f] + a3 * c[ka + 3, f])


@njit(parallel=True, **OPTIONS)
def _convolve_parallel(bounds, x, c, h, bins, source, ptr, order, out) -> None:
    for part in prange(bounds.shape[0] - 1):
        _convolve(bounds[part], bounds[part + 1], x, c, h, bins, source, ptr, order, out)


@njit(**OPTIONS)
def _add_row(row, begin, end, values, out) -> None:
    if begin <= row < end:
        for f in range(values.shape[0]):
            out[row, f] += values[f]


@njit(**OPTIONS)
def _coefficients(begin, end, g, x, h, source, target, ptr, order, out) -> None:
    """Rows ``begin`` to ``end`` of the gradient by coefficients; four edges of an interval at a time.

    The three intervals before ``begin`` also act on these rows; two threads sum them.
    """
    n_features = x.shape[1]
    for row in range(begin, end):
        for f in range(n_features):
            out[row, f] = 0
    s0, s1 = np.empty(n_features, x.dtype), np.empty(n_features, x.dtype)
    s2, s3 = np.empty(n_features, x.dtype), np.empty(n_features, x.dtype)
    for k in range(max(begin - 3, 0), min(end, ptr.shape[0] - 1)):
        first, last = ptr[k], ptr[k + 1]
        if first == last:
            continue
        for f in range(n_features):
            s0[f], s1[f], s2[f], s3[f] = 0, 0, 0, 0
        grouped = last - (last - first) % 4
        for p in range(first, grouped, 4):
            a, b, c, d = order[p], order[p + 1], order[p + 2], order[p + 3]
            ia, ib, ic, id_ = target[a], target[b], target[c], target[d]
            ja, jb, jc, jd = source[a], source[b], source[c], source[d]
            a0, a1, a2, a3 = h[a, 0], h[a, 1], h[a, 2], h[a, 3]
            b0, b1, b2, b3 = h[b, 0], h[b, 1], h[b, 2], h[b, 3]
            c0, c1, c2, c3 = h[c, 0], h[c, 1], h[c, 2], h[c, 3]
            d0, d1, d2, d3 = h[d, 0], h[d, 1], h[d, 2], h[d, 3]
            for f in range(n_features):
                pa, pb = g[ia, f] * x[ja, f], g[ib, f] * x[jb, f]
                pc, pd = g[ic, f] * x[jc, f], g[id_, f] * x[jd, f]
                s0[f] += a0 * pa + b0 * pb + c0 * pc + d0 * pd
                s1[f] += a1 * pa + b1 * pb + c1 * pc + d1 * pd
                s2[f] += a2 * pa + b2 * pb + c2 * pc + d2 * pd
                s3[f] += a3 * pa + b3 * pb + c3 * pc + d3 * pd
        for p in range(grouped, last):
            a = order[p]
            ia, ja = target[a], source[a]
            a0, a1, a2, a3 = h[a, 0], h[a, 1], h[a, 2], h[a, 3]
            for f in range(n_features):
                pa = g[ia, f] * x[ja, f]
                s0[f] += a0 * pa
                s1[f] += a1 * pa
                s2[f] += a2 * pa
                s3[f] += a3 * pa
        _add_row(k, begin, end, s0, out)
        _add_row(k + 1, begin, end, s1, out)
        _add_row(k + 2, begin, end, s2, out)
        _add_row(k + 3, begin, end, s3, out)


@njit(parallel=True, **OPTIONS)
def _coefficients_parallel(bounds, g, x, h, source, target, ptr, order, out) -> None:
    for part in prange(bounds.shape[0] - 1):
        _coefficients(bounds[part], bounds[part + 1], g, x, h, source, target, ptr, order, out)


@njit(**OPTIONS)
def _dots(begin, end, g, x, c, bins, source, target, order, out) -> None:
    n_features = x.shape[1]
    for p in range(begin, end):
        e = order[p] if order is not None else p
        i, j, k = target[e], source[e], bins[e]
        s0 = x.dtype.type(0)
        s1, s2, s3 = s0, s0, s0
        for f in range(n_features):
            product = g[i, f] * x[j, f]
            s0 += product * c[k, f]
            s1 += product * c[k + 1, f]
            s2 += product * c[k + 2, f]
            s3 += product * c[k + 3, f]
        out[e, 0], out[e, 1], out[e, 2], out[e, 3] = s0, s1, s2, s3


@njit(parallel=True, **OPTIONS)
def _dots_parallel(bounds, g, x, c, bins, source, target, order, out) -> None:
    for part in prange(bounds.shape[0] - 1):
        _dots(bounds[part], bounds[part + 1], g, x, c, bins, source, target, order, out)


def spline_conv(x: Tensor, table: Tensor, basis: Tensor, graph: SplineGraph) -> Tensor:
    """Derivative of the form with respect to g: the convolution itself, shape ``[N_dst, F]``."""
    ptr = array(graph.target_ptr)
    if _is_crowded(x, graph):
        pieces, owner = _in_pieces(ptr)
        rows = _convolved(x, table, basis, graph, pieces)
        sums = torch.zeros(len(ptr) - 1, x.size(1), dtype=torch.float64)
        return sums.index_add_(0, torch.from_numpy(owner), rows.to(torch.float64)).to(x.dtype)
    return _convolved(x, table, basis, graph, ptr)


def _convolved(x: Tensor, table: Tensor, basis: Tensor, graph: SplineGraph, ptr: np.ndarray) -> Tensor:
    """Rows of the convolution, each the sum over the edges from ``ptr[i]`` to ``ptr[i + 1]``."""
    out = x.new_empty(len(ptr) - 1, x.size(1))
    arrays = arrays_of(x, table, basis, graph.interval, graph.source)
    rest = (ptr, array(graph.target_order), out.numpy())
    run(_convolve, _convolve_parallel, by_work(ptr), _work(x, graph), *arrays, *rest)
    return out


def _is_crowded(x: Tensor, graph: SplineGraph) -> bool:
    """Whether a target has so many edges that their sum in float32 is to be made in pieces."""
    if x.dtype != torch.float32 or graph.source.size(0) <= MANY_EDGES:
        return False
    return is_crowded(graph.target_ptr)


def _in_pieces(ptr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the edges of pieces of rows begin and end, ``[R + 1]``, and the row that each is of, ``[R]``."""
    n_pieces = -(-np.diff(ptr) // _PIECE)
    owner = np.repeat(np.arange(len(n_pieces)), n_pieces)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(n_pieces) - n_pieces, n_pieces)  # of a piece in its row
    return np.append(ptr[owner] + _PIECE * number, ptr[-1]), owner


def spline_conv_grad_table(g: Tensor, x: Tensor, basis: Tensor, num_rows: int, graph: SplineGraph) -> Tensor:
    """Derivative of the form by C, shape ``[num_rows, F]``."""
    graph = graph.with_intervals(num_rows - 3)
    out = x.new_empty(num_rows, x.size(1))
    ptr = array(graph.interval_ptr)
    arrays = arrays_of(g, x, basis, graph.source, graph.target)
    cut = by_work(np.append(ptr, [ptr[-1]] * 3))  # rows are coefficients, three more than intervals
    rest = (ptr, array(graph.interval_order), out.numpy())
    run(_coefficients, _coefficients_parallel, cut, _work(x, graph), *arrays, *rest)
    return out


def spline_conv_grad_basis(g: Tensor, x: Tensor, table: Tensor, graph: SplineGraph) -> Tensor:
    """Derivative of the form by h, shape ``[E, 4]``."""
    out = x.new_empty(graph.interval.size(0), 4)
    arrays = arrays_of(g, x, table, graph.interval, graph.source, graph.target)
    rest = (array(graph.target_order), out.numpy())
    run(_dots, _dots_parallel, evenly(graph.interval.size(0)), _work(x, graph), *arrays, *rest)
    return out


def _work(x: Tensor, graph: SplineGraph) -> int:
    return graph.interval.size(0) * x.size(1)
