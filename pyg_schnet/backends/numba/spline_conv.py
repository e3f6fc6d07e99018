r"""The fused convolution and its derivatives on directed edges, without atomics: every row is summed in one order.

.. math::
    L(g, x, C, h) = \sum_e \sum_f g_{i(e), f}\; x_{j(e), f} \sum_{m=0}^{3} h_{e, m}\, C_{k(e) + m, f}

Threads share targets in the derivative with respect to g, features in that with respect to C, and edges in that with
respect to h. Results do not depend on their number.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.backends import tuning
from pyg_schnet.backends.numba.lib.buffers import array, arrays_of
from pyg_schnet.backends.numba.lib.compiler import INLINED, ORDERED, Routine, njit
from pyg_schnet.backends.numba.lib.parallel import equal_work, evenly, run
from pyg_schnet.backends.numba.lib.simd import (
    NARROW,
    WIDE,
    ZERO,
    add,
    at,
    columns,
    fill,
    fma,
    lanes,
    load,
    multiply,
    narrow,
    one,
    store,
    total,
    wide,
)
from pyg_schnet.ops.graph import SplineGraph
from pyg_schnet.ops.segment_sum import MANY_EDGES, is_crowded


@njit(**ORDERED)
def _edge(order, p) -> int:
    """Edge number p of an order; an empty order leaves edges as they are."""
    return at(order, p) if order.shape[0] > 0 else p


@njit(**ORDERED)
def _convolve(zero, f, i, x, table, basis, interval, source, ptr, order, out) -> None:
    n_features, sum_i = x.shape[1], zero
    for p in range(at(ptr, i), at(ptr, i + 1)):
        e = _edge(order, p)
        j, k = at(source, e) * n_features + f, at(interval, e) * n_features + f
        w = multiply(fill(zero, basis, 4 * e), load(zero, table, k))
        w = fma(fill(zero, basis, 4 * e + 1), load(zero, table, k + n_features), w)
        w = fma(fill(zero, basis, 4 * e + 2), load(zero, table, k + 2 * n_features), w)
        w = fma(fill(zero, basis, 4 * e + 3), load(zero, table, k + 3 * n_features), w)
        sum_i = fma(load(zero, x, j), w, sum_i)
    store(out, i * n_features + f, sum_i)


_convolve_columns = columns(_convolve)


@njit(**ORDERED)
def _convolve_rows(begin, end, x, table, basis, interval, source, ptr, order, out) -> None:
    """All columns of one row after the other, whose edges stay in the first cache."""
    for i in range(begin, end):
        _convolve_columns(ZERO, x.shape[1], x, i, x, table, basis, interval, source, ptr, order, out)


@njit(**ORDERED)
def _grad_table(zero, f, g, x, basis, source, target, ptr, order, out) -> None:
    """Sums over the edges of an interval stay in registers."""
    n_features = x.shape[1]
    for k in range(out.shape[0]):
        store(out, k * n_features + f, zero)
    for k in range(ptr.shape[0] - 1):
        s0, s1, s2, s3 = zero, zero, zero, zero
        for p in range(at(ptr, k), at(ptr, k + 1)):
            e = _edge(order, p)
            product = load(zero, g, at(target, e) * n_features + f)
            product = multiply(product, load(zero, x, at(source, e) * n_features + f))
            s0 = fma(fill(zero, basis, 4 * e), product, s0)
            s1 = fma(fill(zero, basis, 4 * e + 1), product, s1)
            s2 = fma(fill(zero, basis, 4 * e + 2), product, s2)
            s3 = fma(fill(zero, basis, 4 * e + 3), product, s3)
        place = k * n_features + f
        store(out, place, add(load(zero, out, place), s0))
        store(out, place + n_features, add(load(zero, out, place + n_features), s1))
        store(out, place + 2 * n_features, add(load(zero, out, place + 2 * n_features), s2))
        store(out, place + 3 * n_features, add(load(zero, out, place + 3 * n_features), s3))


_grad_table_columns = columns(_grad_table)


@njit(**ORDERED)
def _grad_table_features(begin, end, g, x, basis, source, target, ptr, order, out) -> None:
    _grad_table_columns(begin, end, x, g, x, basis, source, target, ptr, order, out)


def dots_with_table(product: Routine) -> Routine:
    """Derivative of a form with respect to h at one edge.

    Args:
        product: Function ``f(zero, g, x, i, j)`` of the columns of g and x, from the places i and j of the two atoms
            on, that the four rows of the table are multiplied by.

    Returns:
        Function ``f(i, p, g, x, table, interval, source, out)`` that adds to row p of ``out``.
    """

    @njit(**INLINED)
    def add_columns(zero, first, last, i, p, g, x, table, interval, source, out) -> None:
        n_features = x.shape[1]
        i, j, k = i * n_features, at(source, p) * n_features, at(interval, p) * n_features
        s0, s1, s2, s3 = zero, zero, zero, zero
        for f in range(first, last, lanes(zero)):
            v = product(zero, g, x, i + f, j + f)
            s0 = fma(v, load(zero, table, k + f), s0)
            s1 = fma(v, load(zero, table, k + n_features + f), s1)
            s2 = fma(v, load(zero, table, k + 2 * n_features + f), s2)
            s3 = fma(v, load(zero, table, k + 3 * n_features + f), s3)
        out[p, 0] += total(s0)
        out[p, 1] += total(s1)
        out[p, 2] += total(s2)
        out[p, 3] += total(s3)

    @njit(**INLINED)
    def add_dots(i, p, g, x, table, interval, source, out) -> None:
        n_features = x.shape[1]
        after_wide = n_features - n_features % (WIDE // x.itemsize)
        after_narrow = n_features - n_features % (NARROW // x.itemsize)
        add_columns(wide(x), ZERO, after_wide, i, p, g, x, table, interval, source, out)
        if after_wide < after_narrow:
            add_columns(narrow(x), after_wide, after_narrow, i, p, g, x, table, interval, source, out)
        if after_narrow < n_features:
            add_columns(one(x), after_narrow, n_features, i, p, g, x, table, interval, source, out)

    return add_dots


@njit(**INLINED)
def _product(zero, g, x, i, j) -> float:
    return multiply(load(zero, g, i), load(zero, x, j))


_dots_of_edge = dots_with_table(_product)


@njit(**ORDERED)
def _grad_basis(begin, end, g, x, table, interval, source, target, out) -> None:
    for e in range(begin, end):
        _dots_of_edge(at(target, e), e, g, x, table, interval, source, out)


def spline_conv(x: Tensor, table: Tensor, basis: Tensor, graph: SplineGraph) -> Tensor:
    """Derivative of the form with respect to g: the convolution itself, shape ``[N_dst, F]``."""
    ptr = array(graph.target_ptr)
    if x.dtype != torch.float32 or graph.source.size(0) <= MANY_EDGES or not is_crowded(graph.target_ptr):
        return _convolved(x, table, basis, graph, ptr)
    parts, owner = _in_parts(ptr)
    rows = _convolved(x, table, basis, graph, parts)
    sums = torch.zeros(len(ptr) - 1, x.size(1), dtype=torch.float64)
    return sums.index_add_(0, torch.from_numpy(owner), rows.to(torch.float64)).to(x.dtype)


def _convolved(x: Tensor, table: Tensor, basis: Tensor, graph: SplineGraph, ptr: np.ndarray) -> Tensor:
    """Rows of the convolution, each the sum over the edges from ``ptr[i]`` to ``ptr[i + 1]``."""
    out = x.new_empty(len(ptr) - 1, x.size(1))
    arrays = arrays_of(x, table, basis, graph.interval, graph.source)
    run(_convolve_rows, equal_work(ptr), _work(x, graph), *arrays, ptr, _order(graph.target_order), out.numpy())
    return out


def _in_parts(ptr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the edges of parts of rows begin and end, ``[R + 1]``, and the row that each is of, ``[R]``."""
    size = tuning.current.piece_edges
    n_parts = -(-np.diff(ptr) // size)
    owner = np.repeat(np.arange(len(n_parts)), n_parts)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(n_parts) - n_parts, n_parts)  # of a part in its row
    return np.append(ptr[owner] + size * number, ptr[-1]), owner


def spline_conv_grad_table(g: Tensor, x: Tensor, basis: Tensor, num_rows: int, graph: SplineGraph) -> Tensor:
    """Derivative of the form with respect to C, shape ``[num_rows, F]``."""
    graph = graph.with_intervals(num_rows - 3)
    out = x.new_empty(num_rows, x.size(1))
    arrays = arrays_of(g, x, basis, graph.source, graph.target, graph.interval_ptr)
    cut = evenly(x.size(1), NARROW // x.element_size())
    run(_grad_table_features, cut, _work(x, graph), *arrays, _order(graph.interval_order), out.numpy())
    return out


def spline_conv_grad_basis(g: Tensor, x: Tensor, table: Tensor, graph: SplineGraph) -> Tensor:
    """Derivative of the form with respect to h, shape ``[E, 4]``."""
    out = x.new_zeros(graph.interval.size(0), 4)
    arrays = arrays_of(g, x, table, graph.interval, graph.source, graph.target)
    run(_grad_basis, evenly(graph.interval.size(0)), _work(x, graph), *arrays, out.numpy())
    return out


def _order(order: Tensor | None) -> np.ndarray:
    return np.empty(0, np.int64) if order is None else array(order)


def _work(x: Tensor, graph: SplineGraph) -> int:
    return graph.interval.size(0) * x.size(1)
