r"""All interaction blocks on an undirected graph in two calls: forward, and backward to features, edges and weights.

A block is, with its table C and the weights h of the edges,

.. math::
    \mathbf{y} = \mathrm{W}_0 \mathbf{x}, \quad
    \mathbf{u} = \mathrm{W}_1\, \mathrm{conv}(\mathbf{y}, C, h) / n + \mathbf{b}_1, \quad
    \mathbf{x}' = \mathbf{x} + \mathrm{W}_2\, \mathrm{ssp}(\mathbf{u}) + \mathbf{b}_2

Between two convolutions every atom is on its own: dense layers, softplus and residual run through tiles of atoms that
stay in the cache. There, threads share the atoms; in convolutions, and gradients of weights, they share the features.
Every number is computed by one thread in the same order, so results do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from pyg_schnet.kernels.cpu.dense import PRODUCT_OPTIONS, TILE, ZERO, product, rows_of_product
from pyg_schnet.kernels.cpu.pairs import coefficients_of_columns, convolve_columns, dots_of_pairs
from pyg_schnet.kernels.cpu.run import TRAINING, array, by_work, evenly, num_threads, several
from pyg_schnet.kernels.cpu.simd import NARROW
from pyg_schnet.kernels.cpu.softplus import softplus_row
from pyg_schnet.kernels.cpu.transpose import turned
from pyg_schnet.kernels.graph import SplineGraph


class Weights(NamedTuple):
    """Weights of T blocks, each in the order in which its rows are read.

    Attributes:
        tables: Spline coefficients, shape ``[T, M, K]``.
        w0: First dense layer, shape ``[T, K, F]``.
        w1: Second dense layer, shape ``[T, F, K]``.
        b1: Its bias, shape ``[T, F]``.
        w2: Third dense layer, shape ``[T, F, F]``.
        b2: Its bias, shape ``[T, F]``.
        w0_t: Transpose of each, contiguous; likewise the next two.
        w1_t: Shape ``[T, K, F]``.
        w2_t: Shape ``[T, F, F]``.
    """

    tables: np.ndarray
    w0: np.ndarray
    w1: np.ndarray
    b1: np.ndarray
    w2: np.ndarray
    b2: np.ndarray
    w0_t: np.ndarray
    w1_t: np.ndarray
    w2_t: np.ndarray

    @classmethod
    def pack(cls, tables: Tensor, blocks: Sequence[Sequence[Tensor]]) -> Weights:
        """Copies of the weights of all blocks, each given as (w0, w1, b1, w2, b2), beside their tables."""
        stacked = [torch.stack([w.detach() for w in values]).numpy() for values in zip(*blocks, strict=True)]
        return cls(array(tables), *stacked, *(turned(stacked[k]) for k in (0, 1, 3)))


class Steps(NamedTuple):
    """What the forward pass leaves to the backward pass, a layer for each block, or one for all that is written over.

    Attributes:
        x: Features, before each block and after the last one, ``[T + 1, N, F]`` or ``[2, N, F]``.
        hidden: Layers y that are convolved, ``[T, N, K]`` or ``[1, N, K]``.
        summed: Convolved, and divided where blocks do so, likewise.
        outer: Softplus of the layers u, ``[T, N, F]`` or ``[1, N, F]``.
        slope: Its slope, likewise.
    """

    x: np.ndarray
    hidden: np.ndarray
    summed: np.ndarray
    outer: np.ndarray
    slope: np.ndarray

    @classmethod
    def empty(cls, x: np.ndarray, weights: Weights, for_edges: bool, for_weights: bool) -> Steps:
        """Room for the steps that the gradients by edges, and by weights, need."""
        n_blocks, n_filters = len(weights.tables), weights.tables.shape[2]
        kept, learned = n_blocks if for_edges or for_weights else 1, n_blocks if for_weights else 1
        steps = cls(
            np.empty((n_blocks + 1 if for_weights else 2, *x.shape), x.dtype),
            np.empty((kept, len(x), n_filters), x.dtype),
            np.empty((learned, len(x), n_filters), x.dtype),
            np.empty((learned, *x.shape), x.dtype),
            np.empty((kept, *x.shape), x.dtype),
        )
        steps.x[0] = x
        return steps


class Gradients(NamedTuple):
    """Gradients of a sum over features; those by weights are stacked as in :class:`Weights`, or ``None``.

    Attributes:
        x: By the features before all blocks, shape ``[N, F]``, or ``None``.
        edges: By the weights h of the edges, shape ``[P, 4]``, or ``None``.
        tables: Shape ``[T, M, K]``.
        w0: Shape ``[T, K, F]``.
        w1: Shape ``[T, F, K]``.
        b1: Shape ``[T, F]``.
        w2: Shape ``[T, F, F]``.
        b2: Shape ``[T, F]``.
    """

    x: np.ndarray | None
    edges: np.ndarray | None
    tables: np.ndarray | None = None
    w0: np.ndarray | None = None
    w1: np.ndarray | None = None
    b1: np.ndarray | None = None
    w2: np.ndarray | None = None
    b2: np.ndarray | None = None


@njit(**PRODUCT_OPTIONS)
def _divide(begin, end, counts, values) -> None:
    if counts.shape[0] > 0:
        for i in range(begin, end):
            for f in range(values.shape[1]):
                values[i, f] /= counts[i]


@njit(**PRODUCT_OPTIONS)
def _update(begin, end, counts, x, summed, w1_t, b1, w2_t, b2, outer, slope, out) -> None:
    """From the convolved features of some atoms to the features after the block."""
    n_features = x.shape[1]
    inner = np.empty((TILE, n_features), x.dtype)
    _divide(begin, end, counts, summed)
    for i in range(begin, end, TILE):
        rows = min(TILE, end - i)
        product(rows, summed, i, w1_t, inner, ZERO)
        for r in range(rows):
            for f in range(n_features):
                inner[r, f] += b1[f]
            softplus_row(inner[r], outer[i + r], slope[i + r])
        product(rows, outer, i, w2_t, out, i)
        for r in range(i, i + rows):
            for f in range(n_features):
                out[r, f] += b2[f] + x[r, f]


@njit(**PRODUCT_OPTIONS)
def _descend(begin, end, counts, grad, slope, extra, w2, w1, by_u, by_sum) -> None:
    """From the gradient by the features of some atoms after a block to that by its convolution."""
    n_features = grad.shape[1]
    for i in range(begin, end, TILE):
        rows = min(TILE, end - i)
        product(rows, grad, i, w2, by_u, i)
        for r in range(i, i + rows):
            for f in range(n_features):
                by_u[r, f] *= slope[r, f]
        if extra.shape[0] > 0:
            for r in range(i, i + rows):
                for f in range(n_features):
                    by_u[r, f] += extra[r, f]
        product(rows, by_u, i, w1, by_sum, i)
    _divide(begin, end, counts, by_sum)


@njit(**PRODUCT_OPTIONS)
def _pass_on(begin, end, by_y, extra, w0, above, grad) -> None:
    """From the gradient by what a block convolves to that by the features before the block."""
    if extra.shape[0] > 0:
        for i in range(begin, end):
            for f in range(by_y.shape[1]):
                by_y[i, f] += extra[i, f]
    for i in range(begin, end, TILE):
        rows = min(TILE, end - i)
        product(rows, by_y, i, w0, grad, i)
        for r in range(i, i + rows):
            for f in range(grad.shape[1]):
                grad[r, f] += above[r, f]


def _make(parallel: bool) -> tuple[Callable, Callable]:
    """Compile both passes for several threads, or for one."""

    @njit(parallel=parallel, **PRODUCT_OPTIONS)
    def ascend(rows, columns, weights, h, bins, source, ptr, counts, steps) -> None:
        tables, _, _, b1, _, b2, w0_t, w1_t, w2_t = weights
        x, hidden, summed, outer, slope = steps
        n_blocks, n_parts = tables.shape[0], rows.shape[0] - 1 if parallel else 1
        for part in prange(n_parts):
            product(rows[part + 1] - rows[part], x[0], rows[part], w0_t[0], hidden[0], rows[part])
        for t in range(n_blocks):
            y, total = hidden[t % hidden.shape[0]], summed[t % summed.shape[0]]
            for part in prange(n_parts):
                convolve_columns(columns[part], columns[part + 1], y, tables[t], h, bins, source, ptr, total)
            before, after = x[t % x.shape[0]], x[(t + 1) % x.shape[0]]
            act, inclination = outer[t % outer.shape[0]], slope[t % slope.shape[0]]
            above = hidden[(t + 1) % hidden.shape[0]]
            for part in prange(n_parts):
                begin, end = rows[part], rows[part + 1]
                _update(begin, end, counts, before, total, w1_t[t], b1[t], w2_t[t], b2[t], act, inclination, after)
                if t + 1 < n_blocks:
                    product(end - begin, after, begin, w0_t[t + 1], above, begin)

    @njit(parallel=parallel, **PRODUCT_OPTIONS)
    def descend(
        rows,
        columns,
        features,
        pairs,
        weights,
        h,
        bins,
        source,
        ptr,
        counts,
        steps,
        by_hidden,
        by_inner,
        grads,
        learning,
        by_x,
        by_edges,
        by_weights,
    ) -> None:
        tables, w0, w1, _, w2, _, _, _, _ = weights
        x, hidden, summed, outer, slope = steps
        by_tables, by_w0, by_w1, by_b1, by_w2, by_b2 = by_weights
        n_blocks, n_parts = tables.shape[0], rows.shape[0] - 1 if parallel else 1
        by_u, by_sum, by_y = np.empty_like(grads[0]), np.empty_like(hidden[0]), np.empty_like(hidden[0])
        for t in range(n_blocks - 1, -1, -1):
            grad, below = grads[(n_blocks - 1 - t) % 2], grads[(n_blocks - t) % 2]
            extra_u, extra_y = by_inner[t % by_inner.shape[0]], by_hidden[t % by_hidden.shape[0]]
            for part in prange(n_parts):
                _descend(rows[part], rows[part + 1], counts, grad, slope[t], extra_u, w2[t], w1[t], by_u, by_sum)
            if by_edges.shape[0] > 0:
                for part in prange(n_parts):
                    begin, end = pairs[part], pairs[part + 1]
                    dots_of_pairs(begin, end, by_sum, hidden[t], tables[t], bins, source, ptr, by_edges)
            if t > 0 or by_x or learning:
                for part in prange(n_parts):
                    begin, end = columns[part], columns[part + 1]
                    convolve_columns(begin, end, by_sum, tables[t], h, bins, source, ptr, by_y)
                    if learning:
                        coefficients_of_columns(begin, end, by_sum, hidden[t], h, bins, source, ptr, by_tables[t])
                for part in prange(n_parts):
                    _pass_on(rows[part], rows[part + 1], by_y, extra_y, w0[t], grad, below)
            if learning:
                for part in prange(n_parts):
                    begin, end = features[part], features[part + 1]
                    rows_of_product(begin, end, by_u, summed[t], by_w1[t], by_b1[t])
                    rows_of_product(begin, end, grad, outer[t], by_w2[t], by_b2[t])
                    rows_of_product(columns[part], columns[part + 1], by_y, x[t], by_w0[t], by_b1[t][:0])

    return ascend, descend


_serial, _parallel = _make(False), _make(True)


def ascend(
    x: Tensor,
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
        x: Features before, shape ``[N, F]``.
        weights: Weights of the blocks.
        h: Weights of the coefficients of each edge, shape ``[P, 4]``.
        graph: Undirected edges.
        n_neighbors: Number of neighbours by which convolutions are divided, shape ``[N]``.
        for_edges: Whether to keep what gradients by features and edges need.
        for_weights: Whether to keep what gradients by weights need as well.
    """
    steps = Steps.empty(array(x), weights, for_edges, for_weights)
    _run(0, weights, h, graph, n_neighbors, steps)
    return torch.from_numpy(steps.x[len(weights.tables) % len(steps.x)]), steps


def descend(
    grad: Tensor,
    weights: Weights,
    h: Tensor,
    graph: SplineGraph,
    n_neighbors: Tensor | None,
    steps: Steps,
    *,
    by_x: bool = True,
    by_edges: bool = True,
    by_weights: bool = False,
    by_hidden: np.ndarray | None = None,
    by_inner: np.ndarray | None = None,
) -> Gradients:
    """Gradients of a sum over the features after all blocks.

    Args:
        grad: Gradient by these features, shape ``[N, F]``.
        weights: Weights of the blocks.
        h: Weights of the coefficients of each edge, shape ``[P, 4]``.
        graph: Undirected edges.
        n_neighbors: Number of neighbours by which convolutions are divided, shape ``[N]``.
        steps: What :func:`ascend` kept.
        by_x: Whether the gradient by the features before is wanted.
        by_edges: Whether that by h is.
        by_weights: Whether those by weights are.
        by_hidden: More gradient by the layers y of the blocks, shape ``[T, N, K]``.
        by_inner: More gradient by the layers u, shape ``[T, N, F]``.
    """
    n_blocks, n_filters = len(weights.tables), weights.tables.shape[2]
    grads = np.empty((2, *grad.shape), weights.w0.dtype)
    grads[0] = array(grad)
    if by_hidden is None:
        by_hidden = np.empty((1, 0, n_filters), grads.dtype)
    if by_inner is None:
        by_inner = np.empty((1, 0, grads.shape[2]), grads.dtype)
    edges = np.zeros((graph.bins.size(0) if by_edges else 0, 4), grads.dtype)
    learned = [np.empty_like(value if by_weights else value[:0]) for value in weights[:6]]
    _run(1, weights, h, graph, n_neighbors, steps, by_hidden, by_inner, grads, by_weights, by_x, edges, tuple(learned))
    found = (grads[n_blocks % 2] if by_x else None), (edges if by_edges else None)
    return Gradients(*found, *(learned if by_weights else ()))


def _run(
    which: int, weights: Weights, h: Tensor, graph: SplineGraph, n_neighbors: Tensor | None, steps: Steps, *rest: Any
) -> None:
    """Call the forward (0) or backward (1) pass by as many threads as torch has."""
    ptr, (n_atoms, n_features), n_filters = array(graph.target_ptr), steps.x.shape[1:], weights.tables.shape[2]
    work, training = graph.bins.size(0) * n_filters, len(steps.outer) > 1
    threads = num_threads(work // TRAINING if training else work)
    unit = NARROW // weights.w0.itemsize
    cuts = [evenly(n_atoms, TILE), evenly(n_filters, unit), evenly(n_features, unit), by_work(ptr)]
    bounds = [cut(threads) for cut in (cuts if which == 1 else cuts[:2])]
    counts = np.empty(0, weights.w0.dtype) if n_neighbors is None else array(n_neighbors)
    edges = array(h), array(graph.bins), array(graph.source), ptr, counts
    arguments = (*bounds, tuple(weights), *edges, tuple(steps), *rest)
    if threads == 1:
        _serial[which](*arguments)
        return
    with several(threads):
        _parallel[which](*arguments)
