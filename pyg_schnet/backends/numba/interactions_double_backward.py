r"""The gradient of the gradient by edges, through all interaction blocks in one call: what training on forces needs.

With the gradient :math:`\mathbf{g}` above a block, the backward pass computes

.. math::
    \mathbf{q} = \mathbf{g} \mathrm{W}_2, \quad
    \mathbf{p} = \mathbf{q} \circ \sigma(\mathbf{u}), \quad
    \mathbf{s} = \mathbf{p} \mathrm{W}_1 / n, \quad
    \mathbf{r} = \partial_y L(\mathbf{s}, \mathbf{y}, C, h), \quad
    \mathbf{g}' = \mathbf{g} + \mathbf{r} \mathrm{W}_0

and adds :math:`\partial_h L(\mathbf{s}, \mathbf{y}, C, h)` to the gradient by edges. The product of that gradient with
a given one, ``tangent``, is differentiated here by all that it was computed from. This goes through the blocks from the
first to the last one, with one pass over the pairs for each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import prange
from torch import Tensor

from pyg_schnet.backends.numba.half_list_conv import dots_of_pairs, fetch_ahead
from pyg_schnet.backends.numba.interactions import divide, run_blocks
from pyg_schnet.backends.numba.lib.compiler import njit
from pyg_schnet.backends.numba.lib.gemm import TILE, gemm_tn_rows, product, product_before
from pyg_schnet.backends.numba.lib.parallel import PRODUCT_OPTIONS, array, empty, zeros
from pyg_schnet.backends.numba.lib.simd import NARROW, add, at, fill, fma, load, multiply, narrow, one, store
from pyg_schnet.backends.numba.records import Descent, Gradients, Steps, Weights
from pyg_schnet.ops.graph import SplineGraph


class SecondGradients(NamedTuple):
    """Gradients of the product of ``tangent`` with the gradient by edges.

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
def _some_columns(zero, f, first, last, s, y, r, c, h, tangent, bins, source, ptr, grad_s, grad_y, grad_c) -> None:
    """As many columns of the derivatives of L(s, y, C, tangent) + L(s, r, C, h) as ``zero`` has elements."""
    n_columns = c.shape[1]
    for i in range(first, last):
        store(grad_s, i * n_columns + f, zero)
        store(grad_y, i * n_columns + f, zero)
    for k in range(c.shape[0]):
        store(grad_c, k * n_columns + f, zero)
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
            grad_h = fma(s_i, r_j, multiply(s_j, r_i))
            w_along, w_h = zero, zero
            for m in range(4):
                a, b, c_m = fill(zero, tangent, 4 * p + m), fill(zero, h, 4 * p + m), load(zero, c, k)
                w_along, w_h = fma(a, c_m, w_along), fma(b, c_m, w_h)
                store(grad_c, k, fma(a, by_along, fma(b, grad_h, load(zero, grad_c, k))))
                k += n_columns
            by_s_i = fma(w_along, y_j, fma(w_h, r_j, by_s_i))
            by_y_i = fma(w_along, s_j, by_y_i)
            store(grad_s, j, fma(w_along, y_i, fma(w_h, r_i, load(zero, grad_s, j))))
            store(grad_y, j, fma(w_along, s_i, load(zero, grad_y, j)))
        store(grad_s, row, add(by_s_i, load(zero, grad_s, row)))
        store(grad_y, row, add(by_y_i, load(zero, grad_y, row)))


@njit(**PRODUCT_OPTIONS)
def _columns(begin, end, first, last, s, y, r, c, h, tangent, bins, source, ptr, grad_s, grad_y, grad_c) -> None:
    f = begin
    while f + NARROW // c.itemsize <= end:
        _some_columns(narrow(c), f, first, last, s, y, r, c, h, tangent, bins, source, ptr, grad_s, grad_y, grad_c)
        f += NARROW // c.itemsize
    while f < end:
        _some_columns(one(c), f, first, last, s, y, r, c, h, tangent, bins, source, ptr, grad_s, grad_y, grad_c)
        f += 1


@njit(**PRODUCT_OPTIONS)
def _ascend(begin, end, counts, grad_s, slope, q, w1_t, w2_t, p, grad_q, grad_inner, below, above) -> None:
    """From the gradient by s of some atoms to those by u, q and the gradient above the block."""
    n_features = q.shape[1]
    divide(begin, end, counts, grad_s)
    for i in range(begin, end, TILE):
        rows = min(TILE, end - i)
        product_before(rows, grad_s, i, w1_t, grad_q, i, (q, slope, grad_inner), i)  # by p
        for n in range(i, i + rows):
            for f in range(n_features):
                p[n, f] = q[n, f] * slope[n, f]
                grad_q[n, f] *= slope[n, f]
                v = grad_q[n, f] * q[n, f]
                grad_inner[n, f] = v - v * slope[n, f]  # σ' = σ (1 - σ)
        product(rows, grad_q, i, w2_t, above, i)
        for n in range(i, i + rows):
            for f in range(n_features):
                above[n, f] += below[n, f]


_STEPS = 4  # of each block


@njit(**PRODUCT_OPTIONS)
def _step(step, part, shares, weights, h, bins, source, ptr, counts, tangent, known, descent, scratch, found) -> None:
    """What a thread does in a step; blocks have four each.

    From the gradient below a block to that by the features that its convolution had; through the convolution; to the
    gradient above the block; and to its dense layers.
    """
    rows, pairs, pieces, _ = shares
    tables, _, _, _, _, _, w0_t, w1_t, w2_t, _, _ = weights
    hidden, slope = known
    grads, grad_outer, grad_sum, grad_y, p = descent
    grad_r, grad_s, grad_q = scratch
    grad_grads, grad_basis, grad_hidden, grad_inner, (grad_tables, grad_w0, grad_w1, grad_b1, grad_w2, _) = found
    t, kind = step // _STEPS, step % _STEPS
    y, s, q, g = hidden[t], grad_sum[t], grad_outer[t], grads[tables.shape[0] - 1 - t]
    below, above = grad_grads[t % 2], grad_grads[(t + 1) % 2]
    begin, end = rows[part], rows[part + 1]
    half, first, last = pieces[part, 0], pieces[part, 1], pieces[part, 2]
    filters, features = (pieces[part, 3], pieces[part, 4]), (pieces[part, 5], pieces[part, 6])
    if kind == 0:
        if t > 0:
            product(end - begin, below, begin, w0_t[t], grad_r, begin)
    elif kind == 1:
        if t > 0 and grad_basis.shape[0] > 0:
            dots_of_pairs(pairs[part], pairs[part + 1], s, grad_r, tables[t], bins, source, ptr, grad_basis)
        c, grad_c = tables[t], grad_tables[half, t]
        _columns(*filters, first, last, s, y, grad_r, c, h, tangent, bins, source, ptr, grad_s, grad_hidden[t], grad_c)
    elif kind == 2:
        grad_u = grad_inner[t]
        _ascend(begin, end, counts, grad_s, slope[t], q, w1_t[t], w2_t[t], p, grad_q, grad_u, below, above)
    else:
        none = grad_b1[half, t][:0]
        gemm_tn_rows(*features, first, last, p, grad_s, grad_w1[half, t], none)
        gemm_tn_rows(*features, first, last, g, grad_q, grad_w2[half, t], none)
        if t > 0:
            gemm_tn_rows(*filters, first, last, grad_y[t], below, grad_w0[half, t], none)


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
        tangent,
        known,
        descent,
        scratch,
        grad_grads,
        grad_basis,
        grad_hidden,
        grad_inner,
        grad_weights,
    ) -> None:
        _, _, pieces, apart = shares
        n_parts = pieces.shape[0] if parallel else len(pieces)
        n_steps = _STEPS * weights[0].shape[0]
        at_once = n_steps if apart else 1
        for stage in range(0, n_steps, at_once):
            for part in prange(n_parts):
                found = grad_grads, grad_basis, grad_hidden, grad_inner, grad_weights
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
                        tangent,
                        known,
                        descent,
                        scratch,
                        found,
                    )

    return second


_SECOND = _make(False), _make(True)


def interactions_double_backward(
    tangent: Tensor,
    weights: Weights,
    h: Tensor,
    graph: SplineGraph,
    n_neighbors: Tensor | None,
    steps: Steps,
    descent: Descent,
    *,
    grad_basis: bool = False,
) -> SecondGradients:
    """Gradients of the product of ``tangent`` with the gradient by edges that the backward pass found.

    Args:
        tangent: Shape ``[P, 4]``.
        weights: Weights of the blocks.
        h: Weights of the coefficients of each edge, shape ``[P, 4]``.
        graph: Undirected edges.
        n_neighbors: Number of neighbours by which convolutions are divided, shape ``[N]``.
        steps: What :func:`pyg_schnet.backends.numba.ascend` kept.
        descent: What :func:`pyg_schnet.backends.numba.descend` kept.
        grad_basis: Whether the gradient by h is wanted.
    """
    cut, n_blocks = steps.cut, len(weights.tables)
    learned = Gradients.empty(weights, cut)
    learned[1][:, :1] = 0  # the first dense layer of the first block, which has no part in it
    real, hidden, slope = weights.w0.dtype, steps.hidden, steps.slope
    grad_grads = empty((2, *descent.grads.shape[1:]), real)
    grad_grads[0] = 0
    edges = zeros((len(h) if grad_basis else 0, 4), real)
    grad_hidden, grad_inner = empty(hidden.shape, real), empty(slope.shape, real)
    scratch = zeros(hidden[0].shape, real), empty(hidden[0].shape, real), empty(slope[0].shape, real)
    rest = array(tangent), (hidden, slope), tuple(descent), scratch, grad_grads, edges, grad_hidden, grad_inner, learned
    run_blocks(_SECOND, cut, weights, h, graph, n_neighbors, *rest)
    grad_tables, grad_w0, grad_w1, grad_w2 = Gradients.total(
        [learned[k] for k in (0, 1, 2, 4)]
    )  # biases have no part in it
    found = grad_grads[n_blocks % 2], (edges if grad_basis else None), grad_hidden, grad_inner
    return SecondGradients(*found, grad_tables, grad_w0, grad_w1, grad_w2)
