"""Lengths of edges with their derivatives, straight from positions, shifts and cells: no ``[E, 3]`` is stored.

Gradients with respect to positions are sums over the edges that start at an atom and over those that end there. A
program sums both for one atom, in float64; edges of atoms with very many are summed by windows first, as in
:mod:`pyg_schnet.backends.triton.spline_conv`. Gradients with respect to cells are sums over atoms.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch_geometric.utils import segment

from pyg_schnet.backends.triton.launch import index_type, launch, or_composition
from pyg_schnet.backends.triton.orders import orders_of, pieces_of
from pyg_schnet.ops.segment_sum import segment_sum

EDGES = 256
"""Edges of a program that takes one edge after the other."""

TILE = 32
"""Edges of a tile of an atom."""

PIECES, MOST_PIECES = 64, 256
"""Pieces of a cell that are summed one after the other, and mean number of those of a cell beyond which they are."""

WINDOW = 1024
"""Edges of an atom in one direction beyond which their sum is made in two steps."""


@triton.jit
def _vector(pos, i, j, shift, cell, batch, e, there, n_cells, LATTICE: tl.constexpr):
    """Vectors r_j - r_i + S H of edges, three components, and which of them name atoms and cells that there are."""
    x = tl.load(pos + 3 * j, mask=there, other=0.0) - tl.load(pos + 3 * i, mask=there, other=0.0)
    y = tl.load(pos + 3 * j + 1, mask=there, other=0.0) - tl.load(pos + 3 * i + 1, mask=there, other=0.0)
    z = tl.load(pos + 3 * j + 2, mask=there, other=0.0) - tl.load(pos + 3 * i + 2, mask=there, other=0.0)
    if LATTICE:
        b = tl.load(batch + i, mask=there, other=0)
        there = there & (b >= 0) & (b < n_cells)
        for k in tl.static_range(3):
            s = tl.load(shift + 3 * e + k, mask=there, other=0).to(x.dtype)
            x += s * tl.load(cell + 9 * b + 3 * k, mask=there, other=0.0)
            y += s * tl.load(cell + 9 * b + 3 * k + 1, mask=there, other=0.0)
            z += s * tl.load(cell + 9 * b + 3 * k + 2, mask=there, other=0.0)
    return x, y, z, there


@triton.jit(do_not_specialize=["n_edges", "n_atoms", "n_cells"])
def _measure(
    pos, source, target, shift, cell, batch, out, n_edges, n_atoms, n_cells, LOOP: tl.constexpr, LATTICE: tl.constexpr,
    EDGES: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Length of every edge; not a number where an index is out of range."""
    e = tl.program_id(0).to(tl.int64) * EDGES + tl.arange(0, EDGES)
    live = e < n_edges
    i = tl.load(target + e, mask=live, other=0)
    j = tl.load(source + e, mask=live, other=0)
    there = live & (i >= 0) & (i < n_atoms) & (j >= 0) & (j < n_atoms)
    x, y, z, there = _vector(pos, i.to(INDEX), j.to(INDEX), shift, cell, batch, e, there, n_cells, LATTICE)
    square = x * x + y * y + z * z
    dist = tl.sqrt_rn(square) if square.dtype == tl.float32 else tl.sqrt(square)  # the latter is rounded for float64
    dist = tl.where((i == j) & (dist == 0), tl.full((), LOOP, dist.dtype), dist)
    tl.store(out + e, tl.where(there, dist, float("nan")), mask=live)


@triton.jit
def _pulls(
    grad, pos, source, target, shift, cell, batch, dist, tangent_pos, tangent_cell, e, there, n_cells,
    LATTICE: tl.constexpr, CELL_TANGENT: tl.constexpr, SECOND: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Gradient with respect to the vectors of edges, or of its product with tangents; and that with ``grad``."""
    i = tl.load(target + e, mask=there, other=0).to(INDEX)
    j = tl.load(source + e, mask=there, other=0).to(INDEX)
    r = tl.load(dist + e, mask=there, other=0.0)
    there = there & (r != 0)
    if not LATTICE:
        there = there & (i != j)
    inverse = 1.0 / tl.where(there, r, 1.0)
    x, y, z, there = _vector(pos, i, j, shift, cell, batch, e, there, n_cells, LATTICE)
    x, y, z = x * inverse, y * inverse, z * inverse
    slope = tl.load(grad + e, mask=there, other=0.0)
    projection = tl.zeros_like(slope)
    if SECOND:
        u, v, w, there = _vector(
            tangent_pos, i, j, shift, tangent_cell, batch, e, there, n_cells, CELL_TANGENT
        )  # fmt: skip
        projection = x * u + y * v + z * w
        slope = slope * inverse
        x, y, z = u - projection * x, v - projection * y, w - projection * z
    slope = tl.where(there, slope, 0.0)
    return slope * x, slope * y, slope * z, tl.where(there, projection, 0.0)


@triton.jit(do_not_specialize=["n_edges", "n_cells"])
def _project(
    grad, pos, source, target, shift, cell, batch, dist, tangent_pos, tangent_cell, out, n_edges, n_cells,
    LATTICE: tl.constexpr, CELL_TANGENT: tl.constexpr, EDGES: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Derivative of the double backward pass with respect to ``grad``: tangents along each edge."""
    e = tl.program_id(0).to(tl.int64) * EDGES + tl.arange(0, EDGES)
    live = e < n_edges
    _, _, _, along = _pulls(
        grad, pos, source, target, shift, cell, batch, dist, tangent_pos, tangent_cell, e, live, n_cells, LATTICE,
        CELL_TANGENT, True, INDEX,
    )  # fmt: skip
    tl.store(out + e, along, mask=live)


@triton.jit
def _sum_edges(
    grad, pos, source, target, shift, cell, batch, dist, tangent_pos, tangent_cell, order, begin, end, n_cells,
    LATTICE: tl.constexpr, CELL_TANGENT: tl.constexpr, SECOND: tl.constexpr, TILE: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Sum of :func:`_pulls` over edges ``begin`` to ``end`` of an order, three components."""
    gx = tl.zeros((TILE,), tl.float64)
    gy, gz = gx, gx
    for first in range(begin, end, TILE):
        place = first + tl.arange(0, TILE)
        there = place < end
        e = tl.load(order + place, mask=there, other=0)
        x, y, z, _ = _pulls(
            grad, pos, source, target, shift, cell, batch, dist, tangent_pos, tangent_cell, e, there, n_cells, LATTICE,
            CELL_TANGENT, SECOND, INDEX,
        )  # fmt: skip
        gx += x.to(tl.float64)
        gy += y.to(tl.float64)
        gz += z.to(tl.float64)
    return tl.sum(gx, 0), tl.sum(gy, 0), tl.sum(gz, 0)


@triton.jit(do_not_specialize=["n_edges", "n_cells"])
def _pull_windows(
    grad, pos, source, target, shift, cell, batch, dist, tangent_pos, tangent_cell, key, ptr, order, parts, n_edges,
    n_cells, LATTICE: tl.constexpr, CELL_TANGENT: tl.constexpr, SECOND: tl.constexpr, WINDOW: tl.constexpr,
    TILE: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Sums over those edges of each window that belong to atoms with very many, ``[windows, 2, 3]``."""
    window = tl.program_id(0).to(tl.int64)
    first, last = window * WINDOW, tl.minimum((window + 1) * WINDOW, n_edges) - 1
    before = tl.full((), -1, tl.int64)
    for slot in range(2):
        row = tl.load(key + tl.load(order + tl.where(slot == 0, first, last))).to(tl.int64)
        begin, end = tl.load(ptr + row), tl.load(ptr + row + 1)
        if (row != before) & (end - begin > WINDOW):
            begin, end = tl.maximum(begin, first), tl.minimum(end, last + 1)
            gx, gy, gz = _sum_edges(
                grad, pos, source, target, shift, cell, batch, dist, tangent_pos, tangent_cell, order, begin, end,
                n_cells, LATTICE, CELL_TANGENT, SECOND, TILE, INDEX,
            )  # fmt: skip
            part = parts + 3 * (2 * window + slot)
            tl.store(part, gx)
            tl.store(part + 1, gy)
            tl.store(part + 2, gz)
        before = row


@triton.jit
def _sum_row(
    grad, pos, source, target, shift, cell, batch, dist, tangent_pos, tangent_cell, ptr, order, parts, row, n_cells,
    LATTICE: tl.constexpr, CELL_TANGENT: tl.constexpr, SECOND: tl.constexpr, LONG: tl.constexpr, WINDOW: tl.constexpr,
    TILE: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Sum of :func:`_pulls` over the edges of one atom in one order."""
    begin, end = tl.load(ptr + row), tl.load(ptr + row + 1)
    gx = tl.full((), 0.0, tl.float64)
    gy, gz = gx, gx
    stop = end
    if LONG:
        if end - begin > WINDOW:
            for q in range(begin // WINDOW, (end - 1) // WINDOW + 1):
                part = parts + 3 * (2 * q + (begin > q * WINDOW).to(tl.int64))
                gx += tl.load(part)
                gy += tl.load(part + 1)
                gz += tl.load(part + 2)
            stop = begin
    x, y, z = _sum_edges(
        grad, pos, source, target, shift, cell, batch, dist, tangent_pos, tangent_cell, order, begin, stop, n_cells,
        LATTICE, CELL_TANGENT, SECOND, TILE, INDEX,
    )  # fmt: skip
    return gx + x, gy + y, gz + z


@triton.jit(do_not_specialize=["n_cells"])
def _pull_atoms(
    grad, pos, source, target, shift, cell, batch, dist, tangent_pos, tangent_cell, source_ptr, source_order,
    target_ptr, target_order, source_parts, target_parts, out, n_cells, LATTICE: tl.constexpr,
    CELL_TANGENT: tl.constexpr, SECOND: tl.constexpr, LONG: tl.constexpr, WINDOW: tl.constexpr, TILE: tl.constexpr,
    INDEX: tl.constexpr,
):  # fmt: skip
    """Gradient with respect to every atom's position: edges that start there minus those that end there."""
    row = tl.program_id(0).to(tl.int64)
    x, y, z = _sum_row(
        grad, pos, source, target, shift, cell, batch, dist, tangent_pos, tangent_cell, source_ptr, source_order,
        source_parts, row, n_cells, LATTICE, CELL_TANGENT, SECOND, LONG, WINDOW, TILE, INDEX,
    )  # fmt: skip
    u, v, w = _sum_row(
        grad, pos, source, target, shift, cell, batch, dist, tangent_pos, tangent_cell, target_ptr, target_order,
        target_parts, row, n_cells, LATTICE, CELL_TANGENT, SECOND, LONG, WINDOW, TILE, INDEX,
    )  # fmt: skip
    real = out.dtype.element_ty
    tl.store(out + 3 * row, (x - u).to(real))
    tl.store(out + 3 * row + 1, (y - v).to(real))
    tl.store(out + 3 * row + 2, (z - w).to(real))


@triton.jit(do_not_specialize=["n_cells"])
def _cell_pieces(
    grad, pos, source, target, shift, cell, batch, dist, tangent_pos, tangent_cell, order, ptr, parts, n_cells,
    CELL_TANGENT: tl.constexpr, SECOND: tl.constexpr, EDGES: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Sums of S times :func:`_pulls` over pieces of at most ``EDGES`` edges of one cell, ``[pieces, 9]``."""
    piece = tl.program_id(0).to(tl.int64)
    begin, end = tl.load(ptr + piece), tl.load(ptr + piece + 1)
    place = begin + tl.arange(0, EDGES)
    there = place < end
    e = tl.load(order + place, mask=there, other=0)
    x, y, z, _ = _pulls(
        grad, pos, source, target, shift, cell, batch, dist, tangent_pos, tangent_cell, e, there, n_cells, True,
        CELL_TANGENT, SECOND, INDEX,
    )  # fmt: skip
    for k in tl.static_range(3):
        s = tl.load(shift + 3 * e + k, mask=there, other=0).to(tl.float64)
        tl.store(parts + 9 * piece + 3 * k, tl.sum(s * x.to(tl.float64), 0))
        tl.store(parts + 9 * piece + 3 * k + 1, tl.sum(s * y.to(tl.float64), 0))
        tl.store(parts + 9 * piece + 3 * k + 2, tl.sum(s * z.to(tl.float64), 0))


@or_composition
def edge_lengths(
    pos: Tensor,
    edge_index: Tensor,
    edge_shift: Tensor | None,
    cell: Tensor | None,
    batch: Tensor | None,
    loop_length: float,
) -> Tensor:
    """Lengths of edges, shape ``[E]``; not a number where an index of an atom or cell is out of range."""
    n_edges = edge_index.size(1)
    dist = pos.new_empty(n_edges)
    edges = _edges(pos, edge_index, edge_shift, cell, batch)
    arguments = edges | {"out": dist, "n_edges": n_edges, "n_atoms": pos.size(0)}
    launch(_measure, (triton.cdiv(n_edges, EDGES),), arguments | {"LOOP": float(loop_length), "EDGES": EDGES})
    return dist


@or_composition
def edge_lengths_backward(
    grad: Tensor,
    pos: Tensor,
    edge_index: Tensor,
    edge_shift: Tensor | None,
    cell: Tensor | None,
    batch: Tensor | None,
    dist: Tensor,
    *,
    needs_cell: bool,
) -> tuple[Tensor, Tensor | None]:
    """Gradients with respect to positions, ``[N, 3]``, and cells, ``[B, 3, 3]``, from those of lengths, ``[E]``."""
    edges = _edges(pos, edge_index, edge_shift, cell, batch)
    edges |= {"grad": grad.detach().contiguous(), "dist": dist.detach().contiguous()}
    edges |= {"tangent_pos": edges["pos"], "tangent_cell": edges["cell"]}
    options = {"CELL_TANGENT": False, "SECOND": False}
    return _gradients(edges | options, edge_index, cell if needs_cell else None)


@or_composition
def edge_lengths_double_backward(
    tangent_pos: Tensor,
    tangent_cell: Tensor | None,
    grad: Tensor,
    pos: Tensor,
    edge_index: Tensor,
    edge_shift: Tensor | None,
    cell: Tensor | None,
    batch: Tensor | None,
    dist: Tensor,
    *,
    needs_cell: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    r"""Gradients of the sum of both outputs of :func:`edge_lengths_backward`, each times a tangent.

    With the unit vector :math:`\mathbf{u}` of an edge and the same edge vector :math:`\mathbf{w}` made of the tangents,
    that sum is :math:`\sum_e g_e\, \mathbf{u}_e \cdot \mathbf{w}_e`.

    Returns:
        Gradients with respect to ``grad``, ``[E]``, positions and cells.
    """
    edges = _edges(pos, edge_index, edge_shift, cell, batch)
    edges |= {"grad": grad.detach().contiguous(), "dist": dist.detach().contiguous()}
    with_cell = edge_shift is not None and tangent_cell is not None
    edges |= {
        "tangent_pos": tangent_pos.detach().contiguous(),
        "tangent_cell": tangent_cell.detach().contiguous() if with_cell else edges["cell"],
        "CELL_TANGENT": with_cell,
    }
    n_edges = dist.size(0)
    grad_grad = torch.empty_like(edges["dist"])
    arguments = edges | {"out": grad_grad, "n_edges": n_edges, "EDGES": EDGES}
    launch(_project, (triton.cdiv(n_edges, EDGES),), arguments)
    return grad_grad, *_gradients(edges | {"SECOND": True}, edge_index, cell if needs_cell else None)


def _edges(
    pos: Tensor, edge_index: Tensor, shift: Tensor | None, cell: Tensor | None, batch: Tensor | None
) -> dict[str, Any]:
    """Arguments that describe edges; for open boundaries, places of lattice and batch are taken and not read."""
    pos, index = pos.detach().contiguous(), edge_index.contiguous()
    edges = {"pos": pos, "source": index[0], "target": index[1], "LATTICE": shift is not None}
    if shift is None:
        lattice = {"shift": index, "cell": pos, "batch": index, "n_cells": 0}
    else:
        batch = batch.new_zeros(0) if batch is None else batch
        lattice = {"shift": shift.contiguous(), "cell": cell.detach().contiguous(), "batch": batch.contiguous()}
        lattice["n_cells"] = cell.size(0)
    return edges | lattice | {"INDEX": index_type(pos)}


def _gradients(edges: dict[str, Any], edge_index: Tensor, cell: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Sums over the edges of each atom, and of each cell."""
    pos, dist = edges["pos"], edges["dist"]
    grad_pos, n_edges = torch.empty_like(pos), dist.size(0)
    if n_edges == 0:
        return grad_pos.zero_(), None if cell is None else torch.zeros_like(cell)
    orders = orders_of(edge_index, pos.size(0))
    sizes = {"WINDOW": WINDOW, "TILE": TILE}
    parts = dict.fromkeys(("source", "target"))
    if n_edges > WINDOW:
        for end in parts:
            parts[end] = pos.new_empty(triton.cdiv(n_edges, WINDOW), 2, 3, dtype=torch.float64)
            order = {"key": edges[end], "ptr": getattr(orders, f"{end}_ptr"), "order": getattr(orders, f"{end}_order")}
            arguments = edges | sizes | order | {"parts": parts[end], "n_edges": n_edges}
            launch(_pull_windows, (parts[end].size(0),), arguments, 1)
    arguments = edges | sizes | orders._asdict() | {"out": grad_pos, "LONG": n_edges > WINDOW}
    arguments |= {f"{end}_parts": dist if value is None else value for end, value in parts.items()}
    launch(_pull_atoms, (pos.size(0),), arguments, 1)
    return grad_pos, None if cell is None else _grad_cell(edges, cell)


def _grad_cell(edges: dict[str, Any], cell: Tensor) -> Tensor:
    """Gradient with respect to cells: sums over pieces of the edges of each, then over these pieces."""
    target, n_cells = edges["target"], cell.size(0)
    structure = torch.zeros_like(target) if n_cells == 1 else edges["batch"].index_select(0, target)
    order, ptr, owner = pieces_of(structure, n_cells, EDGES)
    parts = cell.new_empty(owner.size(0), 9, dtype=torch.float64)
    arguments = {name: value for name, value in edges.items() if name != "LATTICE"}
    launch(_cell_pieces, (owner.size(0),), arguments | {"order": order, "ptr": ptr, "parts": parts, "EDGES": EDGES})
    if n_cells == 1:
        return parts.sum(0).view(1, 3, 3).to(cell.dtype)
    while owner.size(0) > MOST_PIECES * n_cells:  # a row is summed one piece after the other, so large ones in steps
        _, ptr, owner = pieces_of(owner, n_cells, PIECES)
        parts = segment(parts, ptr)
    ends = torch.searchsorted(owner, torch.arange(n_cells + 1, device=owner.device))
    return segment_sum(parts, owner, n_cells, ends).view(n_cells, 3, 3).to(cell.dtype)
