r"""All interaction blocks on an undirected graph in two calls: forward, and backward to features, edges and weights.

A block is, with its table C and the weights h of the edges,

.. math::
    \mathbf{y} = \mathrm{W}_0 \mathbf{x}, \quad
    \mathbf{u} = \mathrm{W}_1\, \mathrm{conv}(\mathbf{y}, C, h) / n + \mathbf{b}_1, \quad
    \mathbf{x}' = \mathbf{x} + \mathrm{W}_2\, \mathrm{ssp}(\mathbf{u}) + \mathbf{b}_2

The first features are those of the elements: there, what follows is computed for elements, and what is learned of them
is summed over their atoms. Between two convolutions every atom is on its own: dense layers, softplus and residual run
through tiles of atoms that stay in the cache. There, threads share the atoms. In convolutions, and gradients of
weights, they share the features, and have to wait for each other in between. Where a batch falls into halves that have
no pair with each other, each thread stays with its atoms instead, finds their features in its own cache and goes
through all blocks without waiting. Gradients of weights are summed over each half and then added, whoever computed
them, so results do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import prange
from torch import Tensor

from pyg_schnet.backends.numba.half_list_conv import coefficients_of_columns, convolve_columns, dots_of_pairs
from pyg_schnet.backends.numba.lib.compiler import njit
from pyg_schnet.backends.numba.lib.gemm import (
    TILE,
    ZERO,
    aligned_tile,
    gemm,
    gemm_tn,
    gemm_tn_rows,
    product,
    product_before,
)
from pyg_schnet.backends.numba.lib.parallel import PRODUCT_OPTIONS, array, empty, is_large, num_threads, several, zeros
from pyg_schnet.backends.numba.lib.partition import middle, share
from pyg_schnet.backends.numba.lib.simd import NARROW, add, at, load, narrow, one, store
from pyg_schnet.backends.numba.lib.softplus import softplus_rows
from pyg_schnet.backends.numba.records import Descent, Gradients, Steps, Weights
from pyg_schnet.ops.graph import SplineGraph


@njit(**PRODUCT_OPTIONS)
def divide(begin, end, counts, values) -> None:
    """Divide some rows by their counts, where there are any."""
    if counts.shape[0] > 0:
        for i in range(begin, end):
            for f in range(values.shape[1]):
                values[i, f] /= counts[i]


@njit(**PRODUCT_OPTIONS)
def _update(begin, end, counts, x, summed, w1_t, b1, w2_t, b2, outer, slope, out) -> None:
    """From the convolved features of some atoms to the features after the block."""
    n_features = x.shape[1]
    inner = aligned_tile(n_features, x)
    divide(begin, end, counts, summed)
    for i in range(begin, end, TILE):
        rows = min(TILE, end - i)
        product_before(rows, summed, i, w1_t, inner, ZERO, (outer, slope), i)
        softplus_rows(rows, inner, b1, i, outer, slope)
        product(rows, outer, i, w2_t, out, i)
        for r in range(i, i + rows):
            for f in range(n_features):
                out[r, f] += b2[f] + x[r, f]


@njit(**PRODUCT_OPTIONS)
def _descend(begin, end, counts, grad, slope, extra, w2, w1, grad_outer, grad_u, grad_sum) -> None:
    """From the gradient by the features of some atoms after a block to that by its convolution."""
    n_features = grad.shape[1]
    for i in range(begin, end, TILE):
        rows = min(TILE, end - i)
        product_before(rows, grad, i, w2, grad_outer, i, (grad_outer, slope), i)
        for r in range(i, i + rows):
            for f in range(n_features):
                grad_u[r, f] = grad_outer[r, f] * slope[r, f]
        if extra.shape[0] > 0:
            for r in range(i, i + rows):
                for f in range(n_features):
                    grad_u[r, f] += extra[r, f]
        product(rows, grad_u, i, w1, grad_sum, i)
    divide(begin, end, counts, grad_sum)


@njit(**PRODUCT_OPTIONS)
def _add(begin, end, extra, values) -> None:
    """Add to some rows what there is to add."""
    if extra.shape[0] > 0:
        for i in range(begin, end):
            for f in range(values.shape[1]):
                values[i, f] += extra[i, f]


@njit(**PRODUCT_OPTIONS)
def _pass_on(begin, end, grad_y, w0, above, grad) -> None:
    """From the gradient by what a block convolves to that by the features before the block."""
    for i in range(begin, end, TILE):
        rows = min(TILE, end - i)
        product(rows, grad_y, i, w0, grad, i)
        for r in range(i, i + rows):
            for f in range(grad.shape[1]):
                grad[r, f] += above[r, f]


@njit(**PRODUCT_OPTIONS)
def _some_columns(zero, f, first, last, z, values, sums) -> None:
    n_columns = sums.shape[1]
    for k in range(sums.shape[0]):
        store(sums, k * n_columns + f, zero)
    for i in range(first, last):
        place = at(z, i) * n_columns + f
        store(sums, place, add(load(zero, values, i * n_columns + f), load(zero, sums, place)))


@njit(**PRODUCT_OPTIONS)
def _sum_elements(begin, end, first, last, z, values, sums) -> None:
    """Columns of the sums over the atoms of each element, of the atoms from ``first`` to ``last``."""
    f = begin
    while f + NARROW // sums.itemsize <= end:
        _some_columns(narrow(sums), f, first, last, z, values, sums)
        f += NARROW // sums.itemsize
    while f < end:
        _some_columns(one(sums), f, first, last, z, values, sums)
        f += 1


@njit(**PRODUCT_OPTIONS)
def _step_up(step, part, shares, weights, h, bins, source, ptr, counts, z, steps) -> None:
    """What a thread does in a step on the way up: first features, then convolution and update of each block."""
    rows, _, pieces, _ = shares
    tables, _, _, b1, _, b2, w0_t, w1_t, w2_t, elements, started = weights
    x, hidden, summed, outer, slope = steps
    begin, end = rows[part], rows[part + 1]
    if step == 0:
        for i in range(begin, end):
            x[0, i] = elements[z[i]]
            hidden[0, i] = started[z[i]]
        return
    t = (step - 1) // 2
    y, total = hidden[t % hidden.shape[0]], summed[t % summed.shape[0]]
    if step % 2 == 1:
        first, last, f, stop = pieces[part, 1], pieces[part, 2], pieces[part, 3], pieces[part, 4]
        convolve_columns(f, stop, first, last, y, tables[t], h, bins, source, ptr, total)
        return
    before, after = x[t % x.shape[0]], x[(t + 1) % x.shape[0]]
    act, inclination = outer[t % outer.shape[0]], slope[t % slope.shape[0]]
    _update(begin, end, counts, before, total, w1_t[t], b1[t], w2_t[t], b2[t], act, inclination, after)
    if t + 1 < tables.shape[0]:
        product(end - begin, after, begin, w0_t[t + 1], hidden[(t + 1) % hidden.shape[0]], begin)


_STEPS_DOWN = 4  # of each block


@njit(**PRODUCT_OPTIONS)
def _step_down(step, part, shares, weights, h, bins, source, ptr, counts, z, steps, extra, top, descent, found) -> None:
    """What a thread does in a step on the way down; blocks have four each, and the last block comes first.

    From the features after a block to its convolution; through the convolution, to edges, tables and two dense layers;
    to the features before the block; and to its first dense layer, or the elements.
    """
    rows, pairs, pieces, _ = shares
    tables, w0, w1, _, w2, _, _, _, _, _, _ = weights
    x, hidden, summed, outer, slope = steps
    grad_hidden, grad_inner = extra
    grads, all_by_outer, all_by_sum, all_by_y, grad_u = descent
    learning, grad_embedding, grad_basis, (grad_tables, grad_w0, grad_w1, grad_b1, grad_w2, grad_b2) = found
    n_blocks = tables.shape[0]
    t, kind = n_blocks - 1 - step // _STEPS_DOWN, step % _STEPS_DOWN
    grad = top if t == n_blocks - 1 else grads[(n_blocks - 1 - t) % grads.shape[0]]
    layer = t % all_by_sum.shape[0]
    grad_outer, grad_sum, grad_y = all_by_outer[layer], all_by_sum[layer], all_by_y[layer]
    begin, end = rows[part], rows[part + 1]
    half, first, last = pieces[part, 0], pieces[part, 1], pieces[part, 2]
    filters, features = (pieces[part, 3], pieces[part, 4]), (pieces[part, 5], pieces[part, 6])
    starting = grad_embedding[0].shape[1] > 0
    if kind == 0:
        extra_u = grad_inner[t % grad_inner.shape[0]]
        _descend(begin, end, counts, grad, slope[t], extra_u, w2[t], w1[t], grad_outer, grad_u, grad_sum)
    elif kind == 1:
        if learning:
            gemm_tn_rows(*features, first, last, grad_u, summed[t], grad_w1[half, t], grad_b1[half, t])
            gemm_tn_rows(*features, first, last, grad, outer[t], grad_w2[half, t], grad_b2[half, t])
        if grad_basis.shape[0] > 0:
            dots_of_pairs(pairs[part], pairs[part + 1], grad_sum, hidden[t], tables[t], bins, source, ptr, grad_basis)
        if t > 0 or starting or learning:
            convolve_columns(*filters, first, last, grad_sum, tables[t], h, bins, source, ptr, grad_y)
        if learning:
            grad_table = grad_tables[half, t]
            coefficients_of_columns(*filters, first, last, grad_sum, hidden[t], h, bins, source, ptr, grad_table)
    elif kind == 2:
        if t > 0 or starting or learning:
            _add(begin, end, grad_hidden[t % grad_hidden.shape[0]], grad_y)
        if t > 0:
            _pass_on(begin, end, grad_y, w0[t], grad, grads[(n_blocks - t) % grads.shape[0]])
    elif t > 0 and learning:  # the first block learns from the sums over elements
        gemm_tn_rows(*filters, first, last, grad_y, x[t], grad_w0[half, t], grad_b1[half, t][:0])
    elif t == 0 and starting:
        _sum_elements(*filters, first, last, z, grad_y, grad_embedding[0][half])
        _sum_elements(*features, first, last, z, grad, grad_embedding[1][half])


def _make(parallel: bool) -> tuple[Callable, Callable]:
    """Compile both passes for several threads, or for one.

    They must differ in a variable from outside: numba's cache on disk does not look at ``parallel=`` itself.
    """

    @njit(parallel=parallel, **PRODUCT_OPTIONS)
    def ascend(shares, weights, h, bins, source, ptr, counts, z, steps) -> None:
        _, _, pieces, apart = shares
        n_parts = pieces.shape[0] if parallel else len(pieces)
        n_steps = 1 + 2 * weights[0].shape[0]
        at_once = n_steps if apart else 1
        for stage in range(0, n_steps, at_once):
            for part in prange(n_parts):
                for step in range(stage, stage + at_once):
                    _step_up(step, part, shares, weights, h, bins, source, ptr, counts, z, steps)

    @njit(parallel=parallel, **PRODUCT_OPTIONS)
    def descend(
        shares,
        weights,
        h,
        bins,
        source,
        ptr,
        counts,
        z,
        steps,
        extra,
        top,
        descent,
        learning,
        grad_embedding,
        grad_basis,
        grad_weights,
    ) -> None:
        _, _, pieces, apart = shares
        n_parts = pieces.shape[0] if parallel else len(pieces)
        n_steps = _STEPS_DOWN * weights[0].shape[0]
        at_once = n_steps if apart else 1
        for stage in range(0, n_steps, at_once):
            for part in prange(n_parts):
                found = learning, grad_embedding, grad_basis, grad_weights
                for step in range(stage, stage + at_once):
                    _step_down(
                        step, part, shares, weights, h, bins, source, ptr, counts, z, steps, extra, top, descent, found
                    )

    return ascend, descend


SERIAL, _PARALLEL = _make(False), _make(True)
_ASCEND, _DESCEND = (tuple(kernels[k] for kernels in (SERIAL, _PARALLEL)) for k in range(2))


def ascend(
    z: Tensor,
    weights: Weights,
    h: Tensor,
    graph: SplineGraph,
    n_neighbors: Tensor | None,
    *,
    for_edges: bool = False,
    for_weights: bool = False,
) -> tuple[Tensor, Steps]:
    """Features after all blocks, shape ``[N, F]``, and the steps on the way.

    Args:
        z: Kind of each atom, a row of ``weights.elements``, shape ``[N]``; not checked.
        weights: Weights of the blocks, and features before them.
        h: Weights of the coefficients of each edge, shape ``[P, 4]``.
        graph: Undirected edges.
        n_neighbors: Number of neighbours by which convolutions are divided, shape ``[N]``.
        for_edges: Whether to keep what gradients by features and edges need.
        for_weights: Whether to keep what gradients by weights need as well.
    """
    steps = Steps.empty(z.size(0), weights, cut_of(graph, weights), for_edges, for_weights)
    run_blocks(_ASCEND, steps.cut, weights, h, graph, n_neighbors, array(z), steps.layers)
    return torch.from_numpy(steps.x[len(weights.tables) % len(steps.x)]), steps


def descend(
    grad: Tensor,
    z: Tensor,
    weights: Weights,
    h: Tensor,
    graph: SplineGraph,
    n_neighbors: Tensor | None,
    steps: Steps,
    *,
    grad_embedding: bool = False,
    grad_basis: bool = True,
    grad_weights: bool = False,
    grad_hidden: np.ndarray | None = None,
    grad_inner: np.ndarray | None = None,
    keep: bool = False,
) -> tuple[Gradients, Descent]:
    """Gradients of a sum over the features after all blocks, and what was gone through.

    Args:
        grad: Gradient by these features, shape ``[N, F]``.
        z: Kind of each atom, shape ``[N]``.
        weights: Weights of the blocks, and features before them.
        h: Weights of the coefficients of each edge, shape ``[P, 4]``.
        graph: Undirected edges.
        n_neighbors: Number of neighbours by which convolutions are divided, shape ``[N]``.
        steps: What :func:`ascend` kept.
        grad_embedding: Whether the gradient by the features before is wanted.
        grad_basis: Whether that by h is.
        grad_weights: Whether those by weights are.
        grad_hidden: More gradient by the layers y of the blocks, shape ``[T, N, K]``.
        grad_inner: More gradient by the layers u, shape ``[T, N, F]``.
        keep: Whether to keep what the gradient of the gradient by edges needs, without more gradient by y and u.
    """
    (n_kinds, n_features), n_filters = weights.elements.shape, weights.tables.shape[2]
    top, descent = array(grad), Descent.empty(len(grad), weights, keep)
    real = descent.grads.dtype
    if keep:
        descent.grads[0] = top
    if grad_hidden is None:
        grad_hidden = np.empty((1, 0, n_filters), real)
    if grad_inner is None:
        grad_inner = np.empty((1, 0, n_features), real)
    edges = zeros((graph.interval.size(0) if grad_basis else 0, 4), real)
    cut = steps.cut
    kinds = n_kinds if grad_embedding or grad_weights else 0
    sums = tuple(empty((2 if cut > 0 else 1, kinds, width), real) for width in (n_filters, n_features))
    learned = Gradients.empty(weights, cut, grad_weights)
    learned[1][:, :1] = 0  # the first dense layer of the first block, learned from the sums over elements
    rest = steps.layers, (grad_hidden, grad_inner), top, tuple(descent), grad_weights, sums, edges, learned
    run_blocks(_DESCEND, cut, weights, h, graph, n_neighbors, array(z), *rest)
    grad_first, total = Gradients.total(sums)
    if grad_embedding:
        total += gemm(torch.from_numpy(grad_first), torch.from_numpy(weights.w0[0])).numpy()
    found = (total if grad_embedding else None), (edges if grad_basis else None)
    if not grad_weights:
        return Gradients(*found), descent
    grad_tables, grad_w0, *others = Gradients.total(learned)
    grad_w0[0] = gemm_tn(torch.from_numpy(grad_first), torch.from_numpy(weights.elements)).numpy()
    return Gradients(*found, grad_tables, grad_w0, *others), descent


def _work(graph: SplineGraph, weights: Weights) -> int:
    return graph.interval.size(0) * weights.tables.shape[2]


def cut_of(graph: SplineGraph, weights: Weights) -> int:
    """Where the second half of a batch begins; 0 for one that does not fall into halves, or is not worth it."""
    if not is_large(_work(graph, weights)):
        return 0
    return middle(array(graph.source), array(graph.target_ptr), weights.w1.shape[1])


def run_blocks(
    kernels: tuple[Callable, Callable],
    cut: int,
    weights: Weights,
    h: Tensor,
    graph: SplineGraph,
    n_neighbors: Tensor | None,
    *rest: Any,
) -> None:
    """Call a pass through the blocks, the first one by one thread or the second one by as many as torch has."""
    threads, ptr = num_threads(_work(graph, weights)), array(graph.target_ptr)
    shares = share(threads, cut, ptr, *weights.w0.shape[1:], NARROW // weights.w0.itemsize)
    counts = np.empty(0, weights.w0.dtype) if n_neighbors is None else array(n_neighbors)
    edges = array(h), array(graph.interval), array(graph.source), ptr, counts
    arguments = (tuple(shares), tuple(weights), *edges, *rest)
    if threads == 1:
        kernels[0](*arguments)
        return
    with several(threads):
        kernels[1](*arguments)
