"""The kernels in numba: parallel without atomics, so that the result does not depend on the number of threads.

Each kernel is a serial function over a range of rows, and a parallel one that cuts the rows into one range for each
thread, of about as many edges. Every row is summed by one thread in the order of its edges. The number of threads
follows torch's. A process that was forked off runs the serial functions, since OpenMP does not survive a fork.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from pyg_schnet.kernels.graph import SplineGraph

_SERIAL_WORK = 200_000
"""Products of edges and features below which threads cost more than they bring."""

# Sums may be reordered and fused; nothing is assumed of NaN and infinity.
_OPTIONS = {"fastmath": {"reassoc", "contract", "nsz", "arcp"}, "error_model": "numpy", "cache": True}
_forked = False

# glibc gives freed memory back to the system above a limit that grows with the largest block freed so far, up to twice
# 32 MiB; until then every step takes its memory, page by page, anew. One free of a block that was never touched sets it.
torch.empty(31 << 20, dtype=torch.uint8)


def _mark_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_fork)


@njit(**_OPTIONS)
def _convolve(begin, end, x, c, h, bins, source, ptr, order, out):
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


@njit(parallel=True, **_OPTIONS)
def _convolve_parallel(bounds, x, c, h, bins, source, ptr, order, out):
    for part in prange(bounds.shape[0] - 1):
        _convolve(bounds[part], bounds[part + 1], x, c, h, bins, source, ptr, order, out)


@njit(**_OPTIONS)
def _add_row(row, begin, end, values, out):
    if begin <= row < end:
        for f in range(values.shape[0]):
            out[row, f] += values[f]


@njit(**_OPTIONS)
def _coefficients(begin, end, g, x, h, source, target, ptr, order, out):
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


@njit(parallel=True, **_OPTIONS)
def _coefficients_parallel(bounds, g, x, h, source, target, ptr, order, out):
    for part in prange(bounds.shape[0] - 1):
        _coefficients(bounds[part], bounds[part + 1], g, x, h, source, target, ptr, order, out)


@njit(**_OPTIONS)
def _dots(begin, end, g, x, c, bins, source, target, order, out):
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


@njit(parallel=True, **_OPTIONS)
def _dots_parallel(bounds, g, x, c, bins, source, target, order, out):
    for part in prange(bounds.shape[0] - 1):
        _dots(bounds[part], bounds[part + 1], g, x, c, bins, source, target, order, out)


@njit(cache=True)
def _sort(key, ptr, order):
    """Counting sort, stable; ``ptr`` comes in zeroed."""
    for e in range(key.shape[0]):
        ptr[key[e] + 1] += 1
    for k in range(1, ptr.shape[0]):
        ptr[k] += ptr[k - 1]
    place = ptr.copy()
    for e in range(key.shape[0]):
        order[place[key[e]]] = e
        place[key[e]] += 1


def sort_edges(key: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Order of edges by a key from 0 to ``size - 1``; see :func:`pyg_schnet.kernels.graph.sort_edges`.

    Raises:
        IndexError: If a key lies outside.
    """
    if key.numel() > 0:
        low, high = torch.aminmax(key)
        if low < 0 or high >= size:
            raise IndexError(f"edges name atoms {int(low)} to {int(high)}, but there are {size}")
    ptr, order = torch.zeros(size + 1, dtype=torch.int64), torch.empty_like(key)
    _sort(key.numpy(), ptr.numpy(), order.numpy())
    return ptr, order


def convolve(x: Tensor, coefficients: Tensor, weights: Tensor, graph: SplineGraph) -> Tensor:
    """Derivative of the form by g: the convolution itself, shape ``[N_dst, F]``."""
    out = x.new_empty(graph.target_ptr.size(0) - 1, x.size(1))
    ptr = _array(graph.target_ptr)
    arrays = _arrays(x, coefficients, weights, graph.bins, graph.source)
    rest = (ptr, _array(graph.target_order), out.numpy())
    _run(_convolve, _convolve_parallel, ptr, x.size(1), *arrays, *rest)
    return out


def coefficient_gradient(g: Tensor, x: Tensor, weights: Tensor, num_coefficients: int, graph: SplineGraph) -> Tensor:
    """Derivative of the form by C, shape ``[num_coefficients, F]``."""
    graph = graph.with_bins(num_coefficients - 3)
    out = x.new_empty(num_coefficients, x.size(1))
    ptr = _array(graph.bin_ptr)
    arrays = _arrays(g, x, weights, graph.source, graph.target)
    work = np.append(ptr, [ptr[-1]] * 3)  # rows are coefficients, three more than intervals
    _run(_coefficients, _coefficients_parallel, work, x.size(1), *arrays, ptr, _array(graph.bin_order), out.numpy())
    return out


def weight_gradient(g: Tensor, x: Tensor, coefficients: Tensor, graph: SplineGraph) -> Tensor:
    """Derivative of the form by h, shape ``[E, 4]``."""
    out = x.new_empty(graph.bins.size(0), 4)
    arrays = _arrays(g, x, coefficients, graph.bins, graph.source, graph.target)
    rest = (_array(graph.target_order), out.numpy())
    _run(_dots, _dots_parallel, graph.bins.size(0), x.size(1), *arrays, *rest)
    return out


def _run(serial: Callable, parallel: Callable, rows: np.ndarray | int, n_features: int, *arguments: Any) -> None:
    """Call a kernel for all rows, by as many threads as torch has.

    Args:
        serial: Kernel for a range of rows.
        parallel: The same for several ranges at a time.
        rows: Where the work of each row begins and ends, shape ``[rows + 1]``; a number where all rows are alike.
        n_features: Work for each edge.
        *arguments: Arrays.
    """
    alike = isinstance(rows, int)
    n_rows, n_edges = (rows, rows) if alike else (rows.shape[0] - 1, int(rows[-1]))
    threads = 1 if _forked else min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)
    if threads == 1 or n_edges * n_features < _SERIAL_WORK:
        serial(0, n_rows, *arguments)
        return
    numba.set_num_threads(threads)
    shares = np.arange(threads + 1) * n_edges // threads
    bounds = shares if alike else np.searchsorted(rows, shares)
    bounds[0], bounds[-1] = 0, n_rows
    parallel(bounds, *arguments)


def _array(x: Tensor | None) -> np.ndarray | None:
    return None if x is None else x.detach().contiguous().numpy()


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [_array(x) for x in tensors]
