r"""The gradient of the gradient by edges, through all interaction blocks in one call: what training on forces needs.

With the gradient :math:`\mathbf{g}` above a block, the backward pass computes

.. math::
    \mathbf{q} = \mathbf{g} \mathrm{W}_2, \quad
    \mathbf{p} = \mathbf{q} \circ \sigma(\mathbf{u}), \quad
    \mathbf{s} = \mathbf{p} \mathrm{W}_1 / n, \quad
    \mathbf{r} = \partial_y L(\mathbf{s}, \mathbf{y}, C, h), \quad
    \mathbf{g}' = \mathbf{g} + \mathbf{r} \mathrm{W}_0

and adds :math:`\partial_h L(\mathbf{s}, \mathbf{y}, C, h)` to the gradient by edges. The product of that gradient with
a given one, ``along``, is differentiated here by all that it was computed from. This goes through the blocks from the
first to the last one, with one pass over the pairs for each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import prange
from torch import Tensor

from pyg_schnet.kernels.cpu.blocks import divide, run_blocks
from pyg_schnet.kernels.cpu.compiler import njit
from pyg_schnet.kernels.cpu.dense import TILE, product, product_before, rows_of_product
from pyg_schnet.kernels.cpu.pairs import dots_of_pairs, fetch_ahead
from pyg_schnet.kernels.cpu.records import Descent, Gradients, Steps, Weights
from pyg_schnet.kernels.cpu.run import PRODUCT_OPTIONS, array, empty, zeros
from pyg_schnet.kernels.cpu.simd import NARROW, add, at, fill, fma, load, multiply, narrow, one, store
from pyg_schnet.kernels.graph import SplineGraph


class SecondGradients(NamedTuple):
    """Gradients of the product of ``along`` with the gradient by edges.

    Attributes:
        grad: By the gradient after all blocks, shape ``[N, F]``.
        edges: By the weights h of the edges, shape ``[P, 4]``, or ``None``.
        hidden: By the layers y, shape ``[T, N, K]``.
        inner: By the layers u, shape ``[T, N, F]``.
        tables: By the tables, shape ``[T, M, K]``.
        w0: By the weights of the first layers, shape ``[T, K, F]``.
        w1: Of the second layers, shape ``[T, F, K]``.
        w2: Of the third layers, shape ``[T, F, F]``.
    """

    grad: np.ndarray
    edges: np.ndarray | None
    hidden: np.ndarray
    inner: np.ndarray
    tables: np.ndarray
    w0: np.ndarray
    w1: np.ndarray
    w2: np.ndarray


@njit(**PRODUCT_OPTIONS)
def _some_columns(zero, f, first, last, s, y, r, c, h, along, bins, source, ptr, by_s, by_y, by_c) -> None:
    """As many columns of the derivatives of L(s, y, C, along) + L(s, r, C, h) as ``zero`` has elements."""
    n_columns = c.shape[1]
    for i in range(first, last):
        store(by_s, i * n_columns + f, zero)
        store(by_y, i * n_columns + f, zero)
    for k in range(c.shape[0]):
        store(by_c, k * n_columns + f, zero)
    for i in range(first, last):
        row = i * n_columns + f
        s_i, y_i, r_i = load(zero, s, row), load(zero, y, row), load(zero, r, row)
        fetch_ahead(zero, s, row)
        fetch_ahead(zero, y, row)
        by_s_i, by_y_i = zero, zero
        for p in range(at(ptr, i), at(ptr, i + 1)):
            j, k = at(source, p) * n_columns + f, at(bins, p) * n_columns + f
            s_j, y_j, r_j = load(zero, s, j), load(zero, y, j), load(zero, r, j)
            by_along = fma(s_i, y_j, multiply(s_j, y_i))
            by_h = fma(s_i, r_j, multiply(s_j, r_i))
            w_along, w_h = zero, zero
            for m in range(4):
                a, b, c_m = fill(zero, along, 4 * p + m), fill(zero, h, 4 * p + m), load(zero, c, k)
                w_along, w_h = fma(a, c_m, w_along), fma(b, c_m, w_h)
                store(by_c, k, fma(a, by_along, fma(b, by_h, load(zero, by_c, k))))
                k += n_columns
            by_s_i = fma(w_along, y_j, fma(w_h, r_j, by_s_i))
            by_y_i = fma(w_along, s_j, by_y_i)
            store(by_s, j, fma(w_along, y_i, fma(w_h, r_i, load(zero, by_s, j))))
            store(by_y, j, fma(w_along, s_i, load(zero, by_y, j)))
        store(by_s, row, add(by_s_i, load(zero, by_s, row)))
        store(by_y, row, add(by_y_i, load(zero, by_y, row)))


@njit(**PRODUCT_OPTIONS)
def _columns(begin, end, first, last, s, y, r, c, h, along, bins, source, ptr, by_s, by_y, by_c) -> None:
    f = begin
    while f + NARROW // c.itemsize <= end:
        _some_columns(narrow(c), f, first, last, s, y, r, c, h, along, bins, source, ptr, by_s, by_y, by_c)
        f += NARROW // c.itemsize
    while f < end:
        _some_columns(one(c), f, first, last, s, y, r, c, h, along, bins, source, ptr, by_s, by_y, by_c)
        f += 1


@njit(**PRODUCT_OPTIONS)
def _ascend(begin, end, counts, by_s, slope, q, w1_t, w2_t, p, by_q, by_inner, below, above) -> None:
    """From the gradient by s of some atoms to those by u, q and the gradient above the block."""
    n_features = q.shape[1]
    divide(begin, end, counts, by_s)
    for i in range(begin, end, TILE):
        rows = min(TILE, end - i)
        product_before(rows, by_s, i, w1_t, by_q, i, (q, slope, by_inner), i)  # by p
        for n in range(i, i + rows):
            for f in range(n_features):
                p[n, f] = q[n, f] * slope[n, f]
                by_q[n, f] *= slope[n, f]
                v = by_q[n, f] * q[n, f]
                by_inner[n, f] = v - v * slope[n, f]  # σ' = σ (1 - σ)
        product(rows, by_q, i, w2_t, above, i)
        for n in range(i, i + rows):
            for f in range(n_features):
                above[n, f] += below[n, f]


_STEPS = 4  # of each block


@njit(**PRODUCT_OPTIONS)
def _step(step, part, shares, weights, h, bins, source, ptr, counts, along, known, descent, scratch, found) -> None:
    """What a thread does in a step; blocks have four each.

    From the gradient below a block to that by the features that its convolution had; through the convolution; to the
    gradient above the block; and to its dense layers.
    """
    rows, pairs, pieces, _ = shares
    tables, _, _, _, _, _, w0_t, w1_t, w2_t, _, _ = weights
    hidden, slope = known
    grads, by_outer, by_sum, by_y, p = descent
    by_r, by_s, by_q = scratch
    by_grads, by_edges, by_hidden, by_inner, (by_tables, by_w0, by_w1, by_b1, by_w2, _) = found
    t, kind = step // _STEPS, step % _STEPS
    y, s, q, g = hidden[t], by_sum[t], by_outer[t], grads[tables.shape[0] - 1 - t]
    below, above = by_grads[t % 2], by_grads[(t + 1) % 2]
    begin, end = rows[part], rows[part + 1]
    half, first, last = pieces[part, 0], pieces[part, 1], pieces[part, 2]
    filters, features = (pieces[part, 3], pieces[part, 4]), (pieces[part, 5], pieces[part, 6])
    if kind == 0:
        if t > 0:
            product(end - begin, below, begin, w0_t[t], by_r, begin)
    elif kind == 1:
        if t > 0 and by_edges.shape[0] > 0:
            dots_of_pairs(pairs[part], pairs[part + 1], s, by_r, tables[t], bins, source, ptr, by_edges)
        c, by_c = tables[t], by_tables[half, t]
        _columns(*filters, first, last, s, y, by_r, c, h, along, bins, source, ptr, by_s, by_hidden[t], by_c)
    elif kind == 2:
        by_u = by_inner[t]
        _ascend(begin, end, counts, by_s, slope[t], q, w1_t[t], w2_t[t], p, by_q, by_u, below, above)
    else:
        none = by_b1[half, t][:0]
        rows_of_product(*features, first, last, p, by_s, by_w1[half, t], none)
        rows_of_product(*features, first, last, g, by_q, by_w2[half, t], none)
        if t > 0:
            rows_of_product(*filters, first, last, by_y[t], below, by_w0[half, t], none)


def _make(parallel: bool) -> Callable:
    """Compile for several threads, or for one; see blocks.py for why they differ in more than that."""

    @njit(parallel=parallel, **PRODUCT_OPTIONS)
    def second(
        shares,
        weights,
        h,
        bins,
        source,
        ptr,
        counts,
        along,
        known,
        descent,
        scratch,
        by_grads,
        by_edges,
        by_hidden,
        by_inner,
        by_weights,
    ) -> None:
        _, _, pieces, apart = shares
        n_parts = pieces.shape[0] if parallel else len(pieces)
        n_steps = _STEPS * weights[0].shape[0]
        at_once = n_steps if apart else 1
        for stage in range(0, n_steps, at_once):
            for part in prange(n_parts):
                found = by_grads, by_edges, by_hidden, by_inner, by_weights
                for step in range(stage, stage + at_once):
                    _step(
                        step,
                        part,
                        shares,
                        weights,
                        h,
                        bins,
                        source,
                        ptr,
                        counts,
                        along,
                        known,
                        descent,
                        scratch,
                        found,
                    )

    return second


_SECOND = _make(False), _make(True)


def second_ascent(
    along: Tensor,
    weights: Weights,
    h: Tensor,
    graph: SplineGraph,
    n_neighbors: Tensor | None,
    steps: Steps,
    descent: Descent,
    *,
    by_edges: bool = False,
) -> SecondGradients:
    """Gradients of the product of ``along`` with the gradient by edges that the backward pass found.

    Args:
        along: Shape ``[P, 4]``.
        weights: Weights of the blocks.
        h: Weights of the coefficients of each edge, shape ``[P, 4]``.
        graph: Undirected edges.
        n_neighbors: Number of neighbours by which convolutions are divided, shape ``[N]``.
        steps: What :func:`pyg_schnet.kernels.cpu.ascend` kept.
        descent: What :func:`pyg_schnet.kernels.cpu.descend` kept.
        by_edges: Whether the gradient by h is wanted.
    """
    cut, n_blocks = steps.cut, len(weights.tables)
    learned = Gradients.empty(weights, cut)
    learned[1][:, :1] = 0  # the first dense layer of the first block, which has no part in it
    real, hidden, slope = weights.w0.dtype, steps.hidden, steps.slope
    by_grads = empty((2, *descent.grads.shape[1:]), real)
    by_grads[0] = 0
    edges = zeros((len(h) if by_edges else 0, 4), real)
    by_hidden, by_inner = empty(hidden.shape, real), empty(slope.shape, real)
    scratch = zeros(hidden[0].shape, real), empty(hidden[0].shape, real), empty(slope[0].shape, real)
    rest = array(along), (hidden, slope), tuple(descent), scratch, by_grads, edges, by_hidden, by_inner, learned
    run_blocks(_SECOND, cut, weights, h, graph, n_neighbors, *rest)
    by_tables, by_w0, by_w1, by_w2 = Gradients.total([learned[k] for k in (0, 1, 2, 4)])  # biases have no part in it
    found = by_grads[n_blocks % 2], (edges if by_edges else None), by_hidden, by_inner
    return SecondGradients(*found, by_tables, by_w0, by_w1, by_w2)
