"""All interaction blocks of a small structure in one call, forward and backward, on one thread.

A structure of some twenty atoms takes less time to compute than to call its forty matrix products. Here they are loops
that stay in the cache, beside the same kernels as everywhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from pyg_schnet.kernels.cpu.convolution import _convolve, _dots
from pyg_schnet.kernels.cpu.pairs import convolve_columns, dots_of_pairs
from pyg_schnet.kernels.cpu.run import OPTIONS, array
from pyg_schnet.kernels.cpu.softplus import softplus32, softplus64
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
    def pack(
        cls,
        tables: list[Tensor],
        w0: list[Tensor],
        w1: list[Tensor],
        b1: list[Tensor],
        w2: list[Tensor],
        b2: list[Tensor],
    ) -> Weights:
        """Copies of the weights of all blocks."""
        stacked = [np.stack([array(value) for value in values]) for values in (tables, w0, w1, b1, w2, b2)]
        turned = [np.ascontiguousarray(stacked[k].transpose(0, 2, 1)) for k in (1, 2, 4)]
        return cls(*stacked, *turned)


@njit(**OPTIONS)
def _product(a, w, out) -> None:
    """``out = a @ w``, four rows and four summands at a time."""
    n_rows, n_summands = a.shape
    n_columns = w.shape[1]
    full, last = n_rows - n_rows % 4, n_summands - n_summands % 4
    out[:, :] = 0
    for i in range(0, full, 4):
        for k in range(0, last, 4):
            a00, a01, a02, a03 = a[i, k], a[i, k + 1], a[i, k + 2], a[i, k + 3]
            a10, a11, a12, a13 = a[i + 1, k], a[i + 1, k + 1], a[i + 1, k + 2], a[i + 1, k + 3]
            a20, a21, a22, a23 = a[i + 2, k], a[i + 2, k + 1], a[i + 2, k + 2], a[i + 2, k + 3]
            a30, a31, a32, a33 = a[i + 3, k], a[i + 3, k + 1], a[i + 3, k + 2], a[i + 3, k + 3]
            for f in range(n_columns):
                v0, v1, v2, v3 = w[k, f], w[k + 1, f], w[k + 2, f], w[k + 3, f]
                out[i, f] += a00 * v0 + a01 * v1 + a02 * v2 + a03 * v3
                out[i + 1, f] += a10 * v0 + a11 * v1 + a12 * v2 + a13 * v3
                out[i + 2, f] += a20 * v0 + a21 * v1 + a22 * v2 + a23 * v3
                out[i + 3, f] += a30 * v0 + a31 * v1 + a32 * v2 + a33 * v3
    for i in range(full, n_rows):
        for k in range(0, last, 4):
            a0, a1, a2, a3 = a[i, k], a[i, k + 1], a[i, k + 2], a[i, k + 3]
            for f in range(n_columns):
                out[i, f] += a0 * w[k, f] + a1 * w[k + 1, f] + a2 * w[k + 2, f] + a3 * w[k + 3, f]
    for i in range(n_rows):
        for k in range(last, n_summands):
            a0 = a[i, k]
            for f in range(n_columns):
                out[i, f] += a0 * w[k, f]


def _make(softplus: Callable) -> tuple[Callable, Callable]:
    """Compile both passes for one precision."""

    @njit(**OPTIONS)
    def forward(x, weights, h, bins, source, ptr, order, undirected, n_neighbors, hidden, slope) -> np.ndarray:
        tables, _, _, b1, _, b2, w0_t, w1_t, w2_t = weights
        n_blocks, n_filters = tables.shape[0], tables.shape[2]
        n_atoms, n_features = x.shape
        summed = np.empty((n_atoms, n_filters), x.dtype)
        inner, outer = np.empty((n_atoms, n_features), x.dtype), np.empty((n_atoms, n_features), x.dtype)
        out = x.copy()
        for t in range(n_blocks):
            _product(out, w0_t[t], hidden[t])
            if undirected:
                convolve_columns(0, n_filters, hidden[t], tables[t], h, bins, source, ptr, summed)
            else:
                _convolve(0, n_atoms, hidden[t], tables[t], h, bins, source, ptr, order, summed)
            if n_neighbors is not None:
                for i in range(n_atoms):
                    for f in range(n_filters):
                        summed[i, f] /= n_neighbors[i]
            _product(summed, w1_t[t], inner)
            for i in range(n_atoms):
                for f in range(n_features):
                    inner[i, f] += b1[t, f]
                softplus(inner[i], outer[i], slope[t, i])
            _product(outer, w2_t[t], inner)
            for i in range(n_atoms):
                for f in range(n_features):
                    out[i, f] += inner[i, f] + b2[t, f]
        return out

    @njit(**OPTIONS)
    def backward(
        grad,
        weights,
        h,
        bins,
        source,
        target,
        ptr,
        order,
        source_ptr,
        source_order,
        undirected,
        n_neighbors,
        hidden,
        slope,
    ) -> tuple[np.ndarray, np.ndarray]:
        tables, w0, w1, _, w2, _, _, _, _ = weights
        n_blocks, n_filters = tables.shape[0], tables.shape[2]
        n_atoms, n_features = grad.shape
        by_x, by_sum = grad.copy(), np.empty((n_atoms, n_filters), grad.dtype)
        by_hidden, part = np.empty((n_atoms, n_filters), grad.dtype), np.empty((n_atoms, n_features), grad.dtype)
        by_edges, by_block = np.zeros(h.shape, grad.dtype), np.empty(h.shape, grad.dtype)
        for t in range(n_blocks - 1, -1, -1):
            _product(by_x, w2[t], part)
            for i in range(n_atoms):
                for f in range(n_features):
                    part[i, f] *= slope[t, i, f]
            _product(part, w1[t], by_sum)
            if n_neighbors is not None:
                for i in range(n_atoms):
                    for f in range(n_filters):
                        by_sum[i, f] /= n_neighbors[i]
            if undirected:
                dots_of_pairs(0, n_atoms, by_sum, hidden[t], tables[t], bins, source, ptr, by_block)
            else:
                _dots(0, h.shape[0], by_sum, hidden[t], tables[t], bins, source, target, order, by_block)
            for e in range(h.shape[0]):
                for m in range(4):
                    by_edges[e, m] += by_block[e, m]
            if undirected:
                convolve_columns(0, n_filters, by_sum, tables[t], h, bins, source, ptr, by_hidden)
            else:
                _convolve(0, n_atoms, by_sum, tables[t], h, bins, target, source_ptr, source_order, by_hidden)
            _product(by_hidden, w0[t], part)
            for i in range(n_atoms):
                for f in range(n_features):
                    by_x[i, f] += part[i, f]
        return by_x, by_edges

    return forward, backward


_passes = {torch.float32: _make(softplus32), torch.float64: _make(softplus64)}


def forward(
    x: Tensor, weights: Weights, h: Tensor, graph: SplineGraph, n_neighbors: Tensor | None
) -> tuple[Tensor, tuple[np.ndarray, np.ndarray]]:
    """Features after all blocks, shape ``[N, F]``, and what the backward pass needs of the forward pass.

    Args:
        x: Embeddings, shape ``[N, F]``.
        weights: Weights of the blocks.
        h: Weights of the coefficients of each edge, shape ``[E, 4]``.
        graph: Edges.
        n_neighbors: Number of neighbours by which convolutions are divided, shape ``[N]``.
    """
    n_blocks, _, n_filters = weights.tables.shape
    x = array(x)
    kept = np.empty((n_blocks, x.shape[0], n_filters), x.dtype), np.empty((n_blocks, *x.shape), x.dtype)
    edges = map(array, (graph.bins, graph.source, graph.target_ptr, graph.target_order))
    run = _passes[h.dtype][0]
    out = run(x, tuple(weights), array(h), *edges, graph.undirected, array(n_neighbors), *kept)
    return torch.from_numpy(out), kept


def backward(
    grad: Tensor,
    weights: Weights,
    h: Tensor,
    graph: SplineGraph,
    n_neighbors: Tensor | None,
    kept: tuple[np.ndarray, np.ndarray],
) -> tuple[Tensor, Tensor]:
    """Gradients by embeddings, shape ``[N, F]``, and by the weights of the edges, shape ``[E, 4]``."""
    graph = graph.with_sources(grad.size(0))
    edges = (graph.bins, graph.source, graph.target, graph.target_ptr, graph.target_order)
    by_source = graph.transposed()  # undirected graphs are their own
    edges = map(array, (*edges, by_source.target_ptr, by_source.target_order))
    run = _passes[h.dtype][1]
    by_x, by_edges = run(array(grad), tuple(weights), array(h), *edges, graph.undirected, array(n_neighbors), *kept)
    return torch.from_numpy(by_x), torch.from_numpy(by_edges)
