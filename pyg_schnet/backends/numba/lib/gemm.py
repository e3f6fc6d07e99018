"""Matrix products in tiles that stay in registers, and two dense layers with a softplus between them.

Kernels fuse products with other operations on the same rows, which libraries for matrices cannot do. A tile is some
rows and the columns of a wide vector. Products are summed in the order of the summands, the same for all shapes and
threads.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from pyg_schnet.backends.numba.lib.buffers import arrays_of
from pyg_schnet.backends.numba.lib.compiler import ORDERED, njit
from pyg_schnet.backends.numba.lib.parallel import evenly, run
from pyg_schnet.backends.numba.lib.simd import NARROW, ZERO, add, address, columns, fill, fma, load, prefetch, store
from pyg_schnet.backends.numba.lib.softplus import softplus_rows
from pyg_schnet.backends.tuning import compiled

TILE, _SUMMED_ROWS = compiled.tile_rows, compiled.summed_rows
_ROWS = 6
assert compiled.gemm_rows == _ROWS, "the loop over the rows of a tile is written out"


@njit(**ORDERED)
def aligned(n_rows, n_columns, like) -> np.ndarray:
    """An empty matrix aligned to cache lines, of the type of another array."""
    memory = np.empty(n_rows * n_columns + 64 // like.itemsize, like.dtype)
    begin = (-address(memory) % 64) // like.itemsize
    return memory[begin : begin + n_rows * n_columns].reshape(n_rows, n_columns)


@njit(**ORDERED)
def _panel(zero, n, rows, a, i, w, out, o) -> None:
    n_summands, n_columns = w.shape
    full = rows - rows % _ROWS
    for r in range(0, full, _ROWS):
        p, q = (i + r) * n_summands, (o + r) * n_columns + n
        s0, s1, s2, s3, s4, s5 = zero, zero, zero, zero, zero, zero
        for k in range(n_summands):
            prefetch(a, p + _ROWS * (n_summands + k))  # the next rows, a little at a time: memory is slow
            prefetch(out, q + _ROWS * (n_columns + k))
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


_panels = columns(_panel)


@njit(**ORDERED)
def gemm_rows(rows, a, i, w, out, o) -> None:
    """``out[o : o + rows] = a[i : i + rows] @ w``."""
    _panels(ZERO, w.shape[1], w, rows, a, i, w, out, o)


@njit(**ORDERED)
def add_rows(begin, end, more, values) -> None:
    """Add to some rows what there is to add."""
    if more.shape[0] > 0:
        for i in range(begin, end):
            for f in range(values.shape[1]):
                values[i, f] += more[i, f]


@njit(**ORDERED)
def dense_softplus_dense(begin, end, x, w1_t, b1, w2_t, b2, residual, hidden, slope, out) -> None:
    r"""Some rows of :math:`\mathrm{W}_2\, \mathrm{ssp}(\mathrm{W}_1 \mathbf{x} + \mathbf{b}_1) + \mathbf{b}_2`.

    Args:
        begin: First row.
        end: End of the rows.
        x: Inputs, shape ``[N, F]``.
        w1_t: Transposed weights of the first layer, shape ``[F, H]``.
        b1: Its bias, shape ``[H]``.
        w2_t: Transposed weights of the second layer, shape ``[H, C]``.
        b2: Its bias, shape ``[C]``.
        residual: Added to the outputs, shape ``[N, C]`` or ``[0, C]``.
        hidden: Gets the softplus, shape ``[N, H]``.
        slope: Gets its slope, shape ``[N, H]``.
        out: Gets the outputs, shape ``[N, C]``.
    """
    inner = aligned(TILE, w1_t.shape[1], x)
    for i in range(begin, end, TILE):
        rows = min(TILE, end - i)
        gemm_rows(rows, x, i, w1_t, inner, ZERO)
        softplus_rows(rows, inner, b1, i, hidden, slope)
        gemm_rows(rows, hidden, i, w2_t, out, i)
        for r in range(i, i + rows):
            for c in range(out.shape[1]):
                out[r, c] += b2[c]
        add_rows(i, i + rows, residual, out)


@njit(**ORDERED)
def dense_softplus_dense_backward(begin, end, grad, w2, slope, extra, w1, grad_hidden, grad_inner, grad_x) -> None:
    """Gradients of :func:`dense_softplus_dense` with respect to softplus, first layer and inputs.

    Args:
        begin: First row.
        end: End of the rows.
        grad: With respect to the outputs, shape ``[N, C]``.
        w2: Weights of the second layer, shape ``[C, H]``.
        slope: Slope of the softplus, shape ``[N, H]``.
        extra: Gradient to add to that of the first layer before its softplus, shape ``[N, H]`` or ``[0, H]``.
        w1: Weights of the first layer, shape ``[H, F]``.
        grad_hidden: Gets the gradient with respect to the softplus, shape ``[N, H]``.
        grad_inner: Gets that with respect to the first layer before it, shape ``[N, H]``.
        grad_x: Gets that with respect to the inputs, shape ``[N, F]`` or ``[0, F]``.
    """
    n_hidden = slope.shape[1]
    for i in range(begin, end, TILE):
        rows = min(TILE, end - i)
        gemm_rows(rows, grad, i, w2, grad_hidden, i)
        for r in range(i, i + rows):
            for f in range(n_hidden):
                grad_inner[r, f] = grad_hidden[r, f] * slope[r, f]
        add_rows(i, i + rows, extra, grad_inner)
        if grad_x.shape[0] > 0:
            gemm_rows(rows, grad_inner, i, w1, grad_x, i)


@njit(**ORDERED)
def _outer_panel(zero, n, begin, end, first, last, a, b, out) -> None:
    """Some columns of rows ``begin`` to ``end`` of ``a.T @ b``, summed over rows ``first`` to ``last``."""
    n_rows, n_columns = a.shape[1], b.shape[1]
    full = end - (end - begin) % 4
    for top in range(first, max(last, first + 1), _SUMMED_ROWS):
        stop, fresh = min(top + _SUMMED_ROWS, last), top == first
        for m in range(begin, full, 4):
            q = m * n_columns + n
            s0, s1, s2, s3 = zero, zero, zero, zero
            if not fresh:
                s0, s1 = load(zero, out, q), load(zero, out, q + n_columns)
                s2, s3 = load(zero, out, q + 2 * n_columns), load(zero, out, q + 3 * n_columns)
            for f in range(begin, end, 16):  # a row of each that comes next, a line of the cache at a time
                prefetch(a, (stop + (m - begin) // 4) * n_rows + f)
            for f in range(0, n_columns, 16):
                prefetch(b, (stop + (m - begin) // 4) * n_columns + f)
            for k in range(top, stop):
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
            for k in range(top, stop):
                s0 = fma(fill(zero, a, k * n_rows + m), load(zero, b, k * n_columns + n), s0)
            store(out, q, s0)


@njit(**ORDERED)
def _sum_column(zero, m, first, last, a, sums) -> None:
    n_columns, s0 = a.shape[1], zero
    for k in range(first, last):
        s0 = add(load(zero, a, k * n_columns + m), s0)
    store(sums, m, s0)


_outer_panels, sum_columns = columns(_outer_panel), columns(_sum_column)


@njit(**ORDERED)
def gemm_tn_rows(begin, end, first, last, a, b, out, sums) -> None:
    """Rows of ``a.T @ b``, and sums of the columns of a unless ``sums`` is empty.

    Summed over the rows ``first`` to ``last`` of both.
    """
    _outer_panels(ZERO, b.shape[1], b, begin, end, first, last, a, b, out)
    if sums.shape[0] > 0:
        sum_columns(begin, end, a, first, last, a, sums)


def gemm_tn(a: Tensor, b: Tensor) -> Tensor:
    """``a.T @ b`` of matrices ``[N, M]`` and ``[N, K]``, summed over the rows of both."""
    out = a.new_empty(a.size(1), b.size(1))
    cut = evenly(a.size(1), NARROW // a.element_size())
    arrays = arrays_of(a, b, out, a.new_empty(0))
    run(gemm_tn_rows, cut, a.numel() * b.size(1), 0, a.size(0), *arrays)
    return out


@njit(**ORDERED)
def _gemm_rows(begin, end, a, w, out) -> None:
    gemm_rows(end - begin, a, begin, w, out, begin)


def gemm(a: Tensor, w: Tensor) -> Tensor:
    """``a @ w``, ``[N, K]`` by ``[K, M]``."""
    out = a.new_empty(a.size(0), w.size(1))
    run(_gemm_rows, evenly(a.size(0), TILE), a.numel() * w.size(1), *arrays_of(a, w, out))
    return out
