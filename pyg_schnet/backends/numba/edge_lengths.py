"""Lengths of edges with their derivatives, and spline bases, edge by edge, without storing [E, 3].

A lattice is ``None`` for open boundaries, or ``(edge_shift, cell, batch)``: lattice images crossed by each edge,
``[E, 3]``, lattice vectors in rows, ``[B, 3, 3]``, and the structure of each atom, ``[N]``.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.backends.numba.lib.buffers import array, arrays_of
from pyg_schnet.backends.numba.lib.compiler import REASSOCIATED, njit

Lattice = tuple[np.ndarray, np.ndarray, np.ndarray] | None


@njit(**REASSOCIATED)
def component(pos, i, j, lattice, e, d) -> float:
    """One component of the vector r_j - r_i + S H of edge e, from its target i to its source j."""
    part = pos[j, d] - pos[i, d]
    if lattice is not None:
        shift, cell, batch = lattice
        for k in range(3):
            part += pos.dtype.type(shift[e, k]) * cell[batch[i], k, d]
    return part


@njit(**REASSOCIATED)
def length(pos, i, j, lattice, e) -> float:
    """Length of the vector of edge e."""
    square = pos.dtype.type(0)
    for d in range(3):
        part = component(pos, i, j, lattice, e, d)
        square += part * part
    return np.sqrt(square)


@njit(**REASSOCIATED)
def measure_edges(pos, source, target, lattice, loop_length, out) -> bool:
    """See :func:`edge_lengths`; false if an index of an atom or cell is out of range."""
    n_atoms = pos.shape[0]
    for e in range(out.shape[0]):
        i, j = target[e], source[e]
        if not (0 <= i < n_atoms and 0 <= j < n_atoms):
            return False
        if lattice is not None:
            _, cell, batch = lattice
            if not 0 <= batch[i] < cell.shape[0]:
                return False
        dist = length(pos, i, j, lattice, e)
        out[e] = loop_length if i == j and dist == 0 else dist
    return True


@njit(**REASSOCIATED)
def _push(value, i, j, lattice, e, d, grad_pos, grad_cell) -> None:
    """Add one component of the gradient with respect to the vector of edge e to those of positions and cell."""
    grad_pos[j, d] += value
    grad_pos[i, d] -= value
    if grad_cell is not None:
        shift, _, batch = lattice
        for k in range(3):
            grad_cell[batch[i], k, d] += shift[e, k] * value


@njit(**REASSOCIATED)
def push_edges(grad, pos, source, target, lattice, dist, grad_pos, grad_cell) -> None:
    """See :func:`edge_lengths_backward`."""
    for e in range(grad.shape[0]):
        i, j = target[e], source[e]
        if dist[e] == 0 or (lattice is None and i == j):
            continue
        slope = grad[e] / dist[e]
        for d in range(3):
            part = slope * component(pos, i, j, lattice, e, d)
            _push(part, i, j, lattice, e, d, grad_pos, grad_cell)


@njit(**REASSOCIATED)
def _bend_edges(
    tangent_pos, tangent_lattice, grad, pos, source, target, lattice, dist, grad_grad, grad_pos, grad_cell
) -> None:
    """See :func:`edge_lengths_double_backward`."""
    for e in range(grad.shape[0]):
        i, j = target[e], source[e]
        grad_grad[e] = 0
        if dist[e] == 0 or (lattice is None and i == j):
            continue
        projection = pos.dtype.type(0)
        for d in range(3):
            part = component(pos, i, j, lattice, e, d) / dist[e]
            projection += part * component(tangent_pos, i, j, tangent_lattice, e, d)
        grad_grad[e] = projection
        slope = grad[e] / dist[e]
        for d in range(3):
            part = component(pos, i, j, lattice, e, d) / dist[e]
            across = component(tangent_pos, i, j, tangent_lattice, e, d) - projection * part
            _push(slope * across, i, j, lattice, e, d, grad_pos, grad_cell)


@njit(**REASSOCIATED)
def weigh_edges(dist, cutoff, num_intervals, interval, basis, slopes) -> None:
    """See :func:`spline_basis`."""
    real = basis.dtype.type
    scale, one, two, three, half, sixth = (
        real(num_intervals / cutoff),
        real(1),
        real(2),
        real(3),
        real(0.5),
        real(1 / 6),
    )
    for e in range(dist.shape[0]):
        r = dist[e]
        inside = r < cutoff  # false for NaN
        position = r * scale
        k = min(max(int(position), 0), num_intervals - 1) if inside else 0
        interval[e] = k
        t = position - real(k)
        s = one - t
        basis[e, 0] = sixth * s * s * s
        basis[e, 1] = sixth * (three * t * t * (t - two) + real(4))
        basis[e, 2] = sixth * (three * s * s * (s - two) + real(4))
        basis[e, 3] = sixth * t * t * t
        if not inside:
            for m in range(4):
                basis[e, m] = real(0) if r >= cutoff else r  # keep NaN
        if slopes.shape[0] == 0:
            continue
        slopes[e, 0] = -half * s * s * scale
        slopes[e, 1] = half * t * (three * t - real(4)) * scale
        slopes[e, 2] = -half * s * (three * s - real(4)) * scale
        slopes[e, 3] = half * t * t * scale
        if not inside:
            for m in range(4):
                slopes[e, m] = 0


def lattice_of(edge_shift: Tensor | None, cell: Tensor | None, batch: Tensor | None) -> Lattice:
    """Arrays of a lattice; ``None`` for open boundaries."""
    return None if edge_shift is None else tuple(arrays_of(edge_shift, cell, batch))


def edge_lengths(
    pos: Tensor,
    edge_index: Tensor,
    edge_shift: Tensor | None,
    cell: Tensor | None,
    batch: Tensor | None,
    loop_length: float,
) -> Tensor | None:
    """Lengths of edges, shape ``[E]``; ``None`` if an index of an atom or cell is out of range."""
    dist = pos.new_empty(edge_index.size(1))
    rows, source, target = arrays_of(pos, *edge_index)
    lattice = lattice_of(edge_shift, cell, batch)
    found = measure_edges(rows, source, target, lattice, rows.dtype.type(loop_length), dist.numpy())
    return dist if found else None


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
    grad_pos, grad_cell = _sums(pos, cell if needs_cell else None)
    push_edges(
        *arrays_of(grad, pos, *edge_index), lattice_of(edge_shift, cell, batch), *arrays_of(dist, grad_pos, grad_cell)
    )
    return grad_pos.to(pos.dtype), None if grad_cell is None else grad_cell.to(pos.dtype)


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
    grad_pos, grad_cell = _sums(pos, cell if needs_cell else None)
    if cell is not None and tangent_cell is None:
        tangent_cell = torch.zeros_like(cell, memory_format=torch.contiguous_format)
    grad_grad = torch.empty_like(dist)
    _bend_edges(
        array(tangent_pos),
        lattice_of(edge_shift, tangent_cell, batch),
        *arrays_of(grad, pos, *edge_index),
        lattice_of(edge_shift, cell, batch),
        *arrays_of(dist, grad_grad, grad_pos, grad_cell),
    )
    return grad_grad, grad_pos.to(pos.dtype), None if grad_cell is None else grad_cell.to(pos.dtype)


def _sums(pos: Tensor, cell: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Zeros in float64, since many edges contribute to an atom or a cell."""
    zeros = torch.zeros(pos.shape, dtype=torch.float64)
    return zeros, None if cell is None else torch.zeros(cell.shape, dtype=torch.float64)


def spline_basis(
    dist: Tensor, cutoff: float, num_intervals: int, *, with_slopes: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Interval of each distance, ``[E]``, basis ``[E, 4]`` and its derivative, ``[E, 4]`` or without rows."""
    interval = torch.empty(dist.size(0), dtype=torch.int64)
    basis = dist.new_empty(dist.size(0), 4)
    slopes = dist.new_empty(dist.size(0) if with_slopes else 0, 4)
    weigh_edges(array(dist), cutoff, num_intervals, *arrays_of(interval, basis, slopes))
    return interval, basis, slopes
