r"""The convolution and its derivatives on directed edges, without atomics: every sum is made in one order.

.. math::
    L(g, x, C, h) = \sum_e \sum_f g_{i(e), f}\; x_{j(e), f} \sum_{m=0}^{3} h_{e, m}\, C_{k(e) + m, f}

A program sums a row, the edges of one target (source, interval), for a block of features. Edges are taken in tiles, and
the sums of all places of a tile are added at the end. Rows with more edges than a window has are summed in two steps:
all edges in the order of rows are divided into windows of a fixed number of edges, of which each belongs to two such
rows at most, the one of its first edge and the one of its last edge. A first kernel sums these two parts of each
window, a second one the parts of each row. So one atom may have all edges, and an interval millions.

Features g and x may have 16 bits; products and sums have the precision of tables and bases.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from pyg_schnet.backends.triton.launch import block_of, index_type, launch, or_composition, warps_of
from pyg_schnet.ops.bspline import SPAN
from pyg_schnet.ops.graph import SplineGraph

TILE = 8
"""Edges of a tile."""

ROW_WINDOW = 1024
"""Edges of a target, or a source, beyond which their sum is made in two steps."""

INTERVAL_WINDOW = 256
"""The same for an interval; there are fewer intervals than atoms."""

BASIS_EDGES = 16
"""Edges of a program of the derivative with respect to the basis."""


@triton.jit
def _messages(
    x, table, basis, interval, source, order, begin, end, column, live, F, ORDERED: tl.constexpr, TILE: tl.constexpr,
    INDEX: tl.constexpr,
):  # fmt: skip
    """Sum of the messages of edges ``begin`` to ``end`` of an order, ``[TILE, features]``."""
    acc = tl.zeros((TILE, column.shape[0]), table.dtype.element_ty)
    for first in range(begin, end, TILE):
        place = first + tl.arange(0, TILE)
        there = place < end
        e = place
        if ORDERED:
            e = tl.load(order + place, mask=there, other=0)
        j = tl.load(source + e, mask=there, other=0).to(INDEX)
        k = tl.load(interval + e, mask=there, other=0).to(INDEX)
        both = there[:, None] & live[None, :]
        row = table + k[:, None] * F + column[None, :]
        w = tl.load(basis + 4 * e, mask=there, other=0.0)[:, None] * tl.load(row, mask=both, other=0.0)
        w += tl.load(basis + 4 * e + 1, mask=there, other=0.0)[:, None] * tl.load(row + F, mask=both, other=0.0)
        w += tl.load(basis + 4 * e + 2, mask=there, other=0.0)[:, None] * tl.load(row + 2 * F, mask=both, other=0.0)
        w += tl.load(basis + 4 * e + 3, mask=there, other=0.0)[:, None] * tl.load(row + 3 * F, mask=both, other=0.0)
        acc += w * tl.where(both, tl.load(x + j[:, None] * F + column[None, :], mask=both).to(w.dtype), 0.0)
    return acc


@triton.jit
def _sum_parts(parts, begin, end, column, live, stride, window, offset):
    """Sum of the parts of a long row over its windows; see :func:`_conv_windows`."""
    total = tl.zeros((column.shape[0],), parts.dtype.element_ty)
    for q in range(begin // window, (end - 1) // window + 1):
        slot = 2 * q + (begin > q * window).to(tl.int64)  # the first part, or the last one of the window
        total += tl.load(parts + slot * stride + offset + column, mask=live, other=0.0)
    return total


@triton.jit(do_not_specialize=["n_edges"])
def _conv_windows(
    x, table, basis, interval, source, key, ptr, order, parts, n_edges, F: tl.constexpr, ORDERED: tl.constexpr,
    WINDOW: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Sums over those edges of each window that belong to long rows, ``[windows, 2, F]``; others are not written."""
    window = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = column < F
    first, last = window * WINDOW, tl.minimum((window + 1) * WINDOW, n_edges) - 1
    before = tl.full((), -1, tl.int64)
    for slot in range(2):
        place = tl.where(slot == 0, first, last)
        e = place
        if ORDERED:
            e = tl.load(order + place)
        row = tl.load(key + e).to(tl.int64)
        begin, end = tl.load(ptr + row), tl.load(ptr + row + 1)
        if (row != before) & (end - begin > WINDOW):
            begin, end = tl.maximum(begin, first), tl.minimum(end, last + 1)
            acc = _messages(
                x, table, basis, interval, source, order, begin, end, column, live, F, ORDERED, TILE, INDEX
            )  # fmt: skip
            tl.store(parts + (2 * window + slot) * F + column, tl.sum(acc, 0), mask=live)
        before = row


@triton.jit
def _conv_rows(
    x, table, basis, interval, source, ptr, order, parts, out, F: tl.constexpr, ORDERED: tl.constexpr,
    LONG: tl.constexpr, WINDOW: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """The convolution: every row, for a block of features."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = column < F
    begin, end = tl.load(ptr + row), tl.load(ptr + row + 1)
    is_long = end - begin > WINDOW if LONG else False
    if is_long:
        total = _sum_parts(parts, begin, end, column, live, F, WINDOW, 0)
        tl.store(out + row * F + column, total, mask=live)
    else:
        acc = _messages(x, table, basis, interval, source, order, begin, end, column, live, F, ORDERED, TILE, INDEX)
        tl.store(out + row * F + column, tl.sum(acc, 0), mask=live)


@triton.jit
def _products(
    g, x, basis, source, target, order, begin, end, column, live, F, ORDERED: tl.constexpr, TILE: tl.constexpr,
    INDEX: tl.constexpr,
):  # fmt: skip
    """Four sums of products of features with the basis, over edges ``begin`` to ``end`` of an order."""
    s0 = tl.zeros((TILE, column.shape[0]), basis.dtype.element_ty)
    s1, s2, s3 = s0, s0, s0
    for first in range(begin, end, TILE):
        place = first + tl.arange(0, TILE)
        there = place < end
        e = place
        if ORDERED:
            e = tl.load(order + place, mask=there, other=0)
        i = tl.load(target + e, mask=there, other=0).to(INDEX)
        j = tl.load(source + e, mask=there, other=0).to(INDEX)
        both = there[:, None] & live[None, :]
        product = tl.load(g + i[:, None] * F + column[None, :], mask=both, other=0.0).to(s0.dtype)
        product *= tl.load(x + j[:, None] * F + column[None, :], mask=both, other=0.0).to(s0.dtype)
        s0 += tl.load(basis + 4 * e, mask=there, other=0.0)[:, None] * product
        s1 += tl.load(basis + 4 * e + 1, mask=there, other=0.0)[:, None] * product
        s2 += tl.load(basis + 4 * e + 2, mask=there, other=0.0)[:, None] * product
        s3 += tl.load(basis + 4 * e + 3, mask=there, other=0.0)[:, None] * product
    return tl.sum(s0, 0), tl.sum(s1, 0), tl.sum(s2, 0), tl.sum(s3, 0)


@triton.jit(do_not_specialize=["n_edges"])
def _table_windows(
    g, x, basis, source, target, key, ptr, order, parts, n_edges, F: tl.constexpr, ORDERED: tl.constexpr,
    WINDOW: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """As :func:`_conv_windows`, four sums for each part: ``[windows, 2, 4, F]``."""
    window = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = column < F
    first, last = window * WINDOW, tl.minimum((window + 1) * WINDOW, n_edges) - 1
    before = tl.full((), -1, tl.int64)
    for slot in range(2):
        place = tl.where(slot == 0, first, last)
        e = place
        if ORDERED:
            e = tl.load(order + place)
        row = tl.load(key + e).to(tl.int64)
        begin, end = tl.load(ptr + row), tl.load(ptr + row + 1)
        if (row != before) & (end - begin > WINDOW):
            begin, end = tl.maximum(begin, first), tl.minimum(end, last + 1)
            s0, s1, s2, s3 = _products(
                g, x, basis, source, target, order, begin, end, column, live, F, ORDERED, TILE, INDEX
            )  # fmt: skip
            part = parts + (2 * window + slot) * 4 * F + column
            tl.store(part, s0, mask=live)
            tl.store(part + F, s1, mask=live)
            tl.store(part + 2 * F, s2, mask=live)
            tl.store(part + 3 * F, s3, mask=live)
        before = row


@triton.jit
def _table_rows(
    g, x, basis, source, target, ptr, order, parts, sums, F: tl.constexpr, ORDERED: tl.constexpr, LONG: tl.constexpr,
    WINDOW: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Four sums over the edges of every interval, ``[intervals, 4, F]``."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = column < F
    begin, end = tl.load(ptr + row), tl.load(ptr + row + 1)
    out = sums + row * 4 * F + column
    is_long = end - begin > WINDOW if LONG else False
    if is_long:
        for m in range(4):
            total = _sum_parts(parts, begin, end, column, live, 4 * F, WINDOW, m * F)
            tl.store(out + m * F, total, mask=live)
    else:
        s0, s1, s2, s3 = _products(
            g, x, basis, source, target, order, begin, end, column, live, F, ORDERED, TILE, INDEX
        )  # fmt: skip
        tl.store(out, s0, mask=live)
        tl.store(out + F, s1, mask=live)
        tl.store(out + 2 * F, s2, mask=live)
        tl.store(out + 3 * F, s3, mask=live)


@triton.jit(do_not_specialize=["n_intervals"])
def _overlap(sums, out, n_intervals, F: tl.constexpr, BLOCK: tl.constexpr):
    """Row k of a table from the sums of the four intervals on which it acts."""
    k = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = column < F
    total = tl.zeros((BLOCK,), out.dtype.element_ty)
    for m in range(4):
        interval = k - m + tl.zeros((BLOCK,), tl.int64)
        there = live & (interval >= 0) & (interval < n_intervals)
        total += tl.load(sums + (interval * 4 + m) * F + column, mask=there, other=0.0)
    tl.store(out + k * F + column, total, mask=live)


@triton.jit(do_not_specialize=["n_edges"])
def _basis_edges(
    g, x, table, interval, source, target, out, n_edges, F: tl.constexpr, EDGES: tl.constexpr, BLOCK: tl.constexpr,
    INDEX: tl.constexpr,
):  # fmt: skip
    """Four sums over features for every edge."""
    e = tl.program_id(0).to(tl.int64) * EDGES + tl.arange(0, EDGES)
    there = e < n_edges
    i = tl.load(target + e, mask=there, other=0).to(INDEX)
    j = tl.load(source + e, mask=there, other=0).to(INDEX)
    k = tl.load(interval + e, mask=there, other=0).to(INDEX)
    s0 = tl.zeros((EDGES,), table.dtype.element_ty)
    s1, s2, s3 = s0, s0, s0
    for first in range(0, F, BLOCK):
        column = first + tl.arange(0, BLOCK)
        both = there[:, None] & (column < F)[None, :]
        product = tl.load(g + i[:, None] * F + column[None, :], mask=both, other=0.0).to(s0.dtype)
        product *= tl.load(x + j[:, None] * F + column[None, :], mask=both, other=0.0).to(s0.dtype)
        row = table + k[:, None] * F + column[None, :]
        s0 += tl.sum(product * tl.load(row, mask=both, other=0.0), 1)
        s1 += tl.sum(product * tl.load(row + F, mask=both, other=0.0), 1)
        s2 += tl.sum(product * tl.load(row + 2 * F, mask=both, other=0.0), 1)
        s3 += tl.sum(product * tl.load(row + 3 * F, mask=both, other=0.0), 1)
    tl.store(out + 4 * e, s0, mask=there)
    tl.store(out + 4 * e + 1, s1, mask=there)
    tl.store(out + 4 * e + 2, s2, mask=there)
    tl.store(out + 4 * e + 3, s3, mask=there)


@or_composition
def spline_conv(x: Tensor, table: Tensor, basis: Tensor, graph: SplineGraph) -> Tensor:
    """Derivative of the form with respect to g: the convolution itself, shape ``[N_dst, F]``."""
    x, table, basis, graph = _in_rows(x, table, basis, graph)
    n_rows, n_features = graph.target_ptr.size(0) - 1, x.size(1)
    if graph.source.size(0) == 0:
        return table.new_zeros(n_rows, n_features)
    out = table.new_empty(n_rows, n_features)
    arguments = {"x": x, "table": table, "basis": basis, "interval": graph.interval, "source": graph.source}
    order = {"ptr": graph.target_ptr, "order": graph.target_order}
    constants = _constants(n_features, ROW_WINDOW, index_type(x, table))
    parts = _parts(graph, ROW_WINDOW, (2, n_features), out)
    _launch(_conv_windows, _conv_rows, arguments, order, graph.target, parts, {"out": out}, constants)
    return out


@or_composition
def spline_conv_grad_table(g: Tensor, x: Tensor, basis: Tensor, num_rows: int, graph: SplineGraph) -> Tensor:
    """Derivative of the form with respect to C, shape ``[num_rows, F]``."""
    n_intervals, n_features = num_rows - SPAN + 1, x.size(1)
    if graph.source.size(0) == 0:
        return basis.new_zeros(num_rows, n_features)
    g, x, basis, graph = _in_rows(g, x, basis, graph.with_intervals(n_intervals))
    sums, out = basis.new_empty(n_intervals, SPAN, n_features), basis.new_empty(num_rows, n_features)
    arguments = {"g": g, "x": x, "basis": basis, "source": graph.source, "target": graph.target}
    order = {"ptr": graph.interval_ptr, "order": graph.interval_order}
    constants = _constants(n_features, INTERVAL_WINDOW, index_type(g, x))
    parts = _parts(graph, INTERVAL_WINDOW, (2, SPAN, n_features), out)
    _launch(_table_windows, _table_rows, arguments, order, graph.interval, parts, {"sums": sums}, constants)
    block = constants["BLOCK"]
    last = {"sums": sums, "out": out, "n_intervals": n_intervals, "F": n_features, "BLOCK": block}
    launch(_overlap, (num_rows, triton.cdiv(n_features, block)), last, warps_of(block))
    return out


@or_composition
def spline_conv_grad_basis(g: Tensor, x: Tensor, table: Tensor, graph: SplineGraph) -> Tensor:
    """Derivative of the form with respect to h, shape ``[E, 4]``."""
    g, x, table, graph = _in_rows(g, x, table, graph)
    n_edges, n_features = graph.source.size(0), x.size(1)
    out = table.new_empty(n_edges, SPAN)
    block = block_of(n_features)
    arguments = {"g": g, "x": x, "table": table, "interval": graph.interval, "source": graph.source}
    arguments |= {"target": graph.target, "out": out, "n_edges": n_edges}
    constants = {"F": n_features, "EDGES": BASIS_EDGES, "BLOCK": block, "INDEX": index_type(g, x, table)}
    launch(_basis_edges, (triton.cdiv(n_edges, BASIS_EDGES),), arguments | constants, 4)
    return out


def _in_rows(*tensors: Any) -> tuple[Any, ...]:
    """Features and a graph in contiguous memory."""
    *features, graph = tensors
    rows = (value.detach().contiguous() for value in features)
    return *rows, SplineGraph(*(None if value is None else value.contiguous() for value in graph))


def _constants(n_features: int, window: int, index: Any) -> dict[str, Any]:
    return {"F": n_features, "WINDOW": window, "TILE": TILE, "BLOCK": block_of(n_features), "INDEX": index}


def _parts(graph: SplineGraph, window: int, shape: tuple[int, ...], like: Tensor) -> Tensor | None:
    """Room for the sums of parts of long rows, ``[windows, *shape]``; ``None`` if there cannot be one."""
    n_edges = graph.source.size(0)
    return like.new_empty(triton.cdiv(n_edges, window), *shape) if n_edges > window else None


def _launch(
    of_windows: Any,
    of_rows: Any,
    arguments: dict[str, Tensor],
    order: dict[str, Tensor | None],
    key: Tensor,
    parts: Tensor | None,
    out: dict[str, Tensor],
    constants: dict[str, Any],
) -> None:
    """Sum the parts of long rows, then all rows."""
    ptr, ordered = order["ptr"], order["order"] is not None
    common = arguments | {"ptr": ptr, "order": order["order"] if ordered else ptr, "ORDERED": ordered} | constants
    blocks, warps = triton.cdiv(constants["F"], constants["BLOCK"]), warps_of(constants["BLOCK"])
    if parts is not None:
        both = common | {"key": key, "parts": parts, "n_edges": key.size(0)}
        launch(of_windows, (parts.size(0), blocks), both, warps)
    both = common | out | {"parts": ptr if parts is None else parts, "LONG": parts is not None}
    launch(of_rows, (ptr.size(0) - 1, blocks), both, warps)
