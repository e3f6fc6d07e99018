"""Matrix products in tiles that stay in registers, for kernels that have more to do with rows than to multiply them.

A tile is some rows and as many columns as a wide vector has. Products are summed in the order of the summands, the same
for all shapes and threads.
"""

from __future__ import annotations

import numpy as np
from numba import prange
from torch import Tensor

from pyg_schnet.backends.numba.lib.compiler import njit
from pyg_schnet.backends.numba.lib.parallel import PRODUCT_OPTIONS, arrays_of, evenly, run
from pyg_schnet.backends.numba.lib.simd import NARROW, WIDE, add, fill, fma, load, narrow, one, prefetch, store, wide

TILE = 48
"""Rows that are multiplied before the next thing is done with them; a multiple of the rows of a tile."""

ZERO = np.intp(0)
"""For arguments of kernels, which would be compiled once more for a 0 that is written out."""


@njit(**PRODUCT_OPTIONS)
def aligned(size, like) -> np.ndarray:
    """Room for some numbers that begins where a line of the cache does, of the type of another array."""
    memory = np.empty(size + 64 // like.itemsize, like.dtype)
    begin = (-memory.ctypes.data % 64) // like.itemsize
    return memory[begin : begin + size]


@njit(**PRODUCT_OPTIONS)
def aligned_tile(n_columns, like) -> np.ndarray:
    """Likewise for a tile of rows."""
    return aligned(TILE * n_columns, like).reshape(TILE, n_columns)


_SUMMED_ROWS = 32  # of products that sum over rows, at a time, so that both factors stay in the first cache


_ROWS = 6  # of a product at a time, so that their sums stay in registers


@njit(**PRODUCT_OPTIONS)
def _panel(zero, n, rows, a, i, w, out, o, soon, s) -> None:
    """Columns of a product from n on, as many as ``zero`` has elements."""
    n_summands, n_columns = w.shape
    full = rows - rows % _ROWS
    for r in range(0, full, _ROWS):
        p, q = (i + r) * n_summands, (o + r) * n_columns + n
        s0, s1, s2, s3, s4, s5 = zero, zero, zero, zero, zero, zero
        for k in range(n_summands):
            prefetch(a, p + _ROWS * (n_summands + k))  # the next rows, a little at a time
            for matrix in soon:
                prefetch(matrix, (s + r) * n_columns + n + _ROWS * k)
            v = load(zero, w, k * n_columns + n)
            s0 = fma(fill(zero, a, p + k), v, s0)
            s1 = fma(fill(zero, a, p + n_summands + k), v, s1)
            s2 = fma(fill(zero, a, p + 2 * n_summands + k), v, s2)
            s3 = fma(fill(zero, a, p + 3 * n_summands + k), v, s3)
            s4 = fma(fill(zero, a, p + 4 * n_summands + k), v, s4)
            s5 = fma(fill(zero, a, p + 5 * n_summands + k), v, s5)
        store(out, q, s0)
        store(out, q + n_columns, s1)
        store(out, q + 2 * n_columns, s2)
        store(out, q + 3 * n_columns, s3)
        store(out, q + 4 * n_columns, s4)
        store(out, q + 5 * n_columns, s5)
    for r in range(full, rows):
        s0, p = zero, (i + r) * n_summands
        for k in range(n_summands):
            s0 = fma(fill(zero, a, p + k), load(zero, w, k * n_columns + n), s0)
        store(out, (o + r) * n_columns + n, s0)


@njit(**PRODUCT_OPTIONS)
def product(rows, a, i, w, out, o) -> None:
    """``out[o : o + rows] = a[i : i + rows] @ w``."""
    product_before(rows, a, i, w, out, o, (out,), o + _ROWS)


@njit(**PRODUCT_OPTIONS)
def product_before(rows, a, i, w, out, o, soon, s) -> None:
    """A product as above; meanwhile, the caches get rows from s on of the matrices ``soon``, which are needed next.

    These, a tuple, have as many columns as ``out``. Memory is slow, and has nothing to do while products are summed.
    """
    n, n_columns = ZERO, w.shape[1]
    while n + WIDE // w.itemsize <= n_columns:
        _panel(wide(w), n, rows, a, i, w, out, o, soon, s)
        n += WIDE // w.itemsize
    while n + NARROW // w.itemsize <= n_columns:
        _panel(narrow(w), n, rows, a, i, w, out, o, soon, s)
        n += NARROW // w.itemsize
    while n < n_columns:
        _panel(one(w), n, rows, a, i, w, out, o, soon, s)
        n += 1


@njit(**PRODUCT_OPTIONS)
def _outer_panel(zero, n, begin, end, first, last, fresh, a, b, out) -> None:
    """Add rows ``first`` to ``last`` to rows ``begin`` to ``end`` and some columns of ``a.T @ b``, or to zero."""
    n_rows, n_columns = a.shape[1], b.shape[1]
    full, following = end - (end - begin) % 4, last
    for m in range(begin, full, 4):
        q = m * n_columns + n
        s0, s1, s2, s3 = zero, zero, zero, zero
        if not fresh:
            s0, s1 = load(zero, out, q), load(zero, out, q + n_columns)
            s2, s3 = load(zero, out, q + 2 * n_columns), load(zero, out, q + 3 * n_columns)
        for f in range(begin, end, 16):  # a row that comes next, a line of the cache at a time
            prefetch(a, following * n_rows + f)
        for f in range(0, n_columns, 16):
            prefetch(b, following * n_columns + f)
        following += 1
        for k in range(first, last):
            v, p = load(zero, b, k * n_columns + n), k * n_rows + m
            s0 = fma(fill(zero, a, p), v, s0)
            s1 = fma(fill(zero, a, p + 1), v, s1)
            s2 = fma(fill(zero, a, p + 2), v, s2)
            s3 = fma(fill(zero, a, p + 3), v, s3)
        store(out, q, s0)
        store(out, q + n_columns, s1)
        store(out, q + 2 * n_columns, s2)
        store(out, q + 3 * n_columns, s3)
    for m in range(full, end):
        q = m * n_columns + n
        s0 = zero if fresh else load(zero, out, q)
        for k in range(first, last):
            s0 = fma(fill(zero, a, k * n_rows + m), load(zero, b, k * n_columns + n), s0)
        store(out, q, s0)


@njit(**PRODUCT_OPTIONS)
def _sum_of_columns(zero, m, first, last, a, out) -> None:
    n_columns, s0 = a.shape[1], zero
    for k in range(first, last):
        s0 = add(load(zero, a, k * n_columns + m), s0)
    store(out, m, s0)


@njit(**PRODUCT_OPTIONS)
def sums_of_columns(begin, end, first, last, a, sums) -> None:
    """Sums of some columns of a matrix, over the rows ``first`` to ``last``."""
    m = begin
    while m + WIDE // a.itemsize <= end:
        _sum_of_columns(wide(a), m, first, last, a, sums)
        m += WIDE // a.itemsize
    while m + NARROW // a.itemsize <= end:
        _sum_of_columns(narrow(a), m, first, last, a, sums)
        m += NARROW // a.itemsize
    while m < end:
        _sum_of_columns(one(a), m, first, last, a, sums)
        m += 1


@njit(**PRODUCT_OPTIONS)
def gemm_tn_rows(begin, end, first, last, a, b, out, sums) -> None:
    """Rows of ``a.T @ b``, and of the sums of the columns of a where ``sums`` has room for them.

    Summed over the rows ``first`` to ``last`` of both.
    """
    n_columns = b.shape[1]
    if first == last:
        out[begin:end] = 0
    for k in range(first, last, _SUMMED_ROWS):
        stop, n, fresh = min(k + _SUMMED_ROWS, last), ZERO, k == first
        while n + WIDE // b.itemsize <= n_columns:
            _outer_panel(wide(b), n, begin, end, k, stop, fresh, a, b, out)
            n += WIDE // b.itemsize
        while n + NARROW // b.itemsize <= n_columns:
            _outer_panel(narrow(b), n, begin, end, k, stop, fresh, a, b, out)
            n += NARROW // b.itemsize
        while n < n_columns:
            _outer_panel(one(b), n, begin, end, k, stop, fresh, a, b, out)
            n += 1
    if sums.shape[0] > 0:
        sums_of_columns(begin, end, first, last, a, sums)


@njit(parallel=True, **PRODUCT_OPTIONS)
def _outer_parallel(bounds, first, last, a, b, out, sums) -> None:
    for part in prange(bounds.shape[0] - 1):
        gemm_tn_rows(bounds[part], bounds[part + 1], first, last, a, b, out, sums)


def gemm_tn(a: Tensor, b: Tensor) -> Tensor:
    """``a.T @ b`` of matrices ``[N, M]`` and ``[N, K]``, summed over the rows of both."""
    out = a.new_empty(a.size(1), b.size(1))
    cut = evenly(a.size(1), NARROW // a.element_size())
    arrays = arrays_of(a, b, out, a.new_empty(0))
    run(gemm_tn_rows, _outer_parallel, cut, a.numel() * b.size(1), 0, a.size(0), *arrays)
    return out


@njit(**PRODUCT_OPTIONS)
def _product_of_tiles(begin, end, a, w, out) -> None:
    product(end - begin, a, begin, w, out, begin)


@njit(parallel=True, **PRODUCT_OPTIONS)
def _product_parallel(bounds, a, w, out) -> None:
    for part in prange(bounds.shape[0] - 1):
        _product_of_tiles(bounds[part], bounds[part + 1], a, w, out)


def gemm(a: Tensor, w: Tensor) -> Tensor:
    """``a @ w``, ``[N, K]`` by ``[K, M]``."""
    out = a.new_empty(a.size(0), w.size(1))
    run(_product_of_tiles, _product_parallel, evenly(a.size(0), TILE), a.numel() * w.size(1), *arrays_of(a, w, out))
    return out
