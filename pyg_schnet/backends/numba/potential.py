r"""Energy and forces of small structures in one call, which spend more time between kernels than in them.

From positions to lengths, spline weights, interaction blocks, readout and sum over atoms, and back by hand:

.. math::
    \frac{\partial E}{\partial \mathbf{r}_i} = \sum_e \frac{\partial E}{\partial r_e}
    \frac{\partial r_e}{\partial \mathbf{r}_i}, \qquad
    \frac{\partial E}{\partial \varepsilon_{ab}} = \sum_e \frac{\partial E}{\partial r_e}
    \frac{v_{e,a} v_{e,b}}{r_e}

with the vector :math:`\mathbf{v}_e` of an edge, and a strain that acts on positions and cell. It is made of the kernels
that make the same steps one by one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.backends.numba.edge_lengths import component, lattice_of, measure_edges, push_edges, weigh_edges
from pyg_schnet.backends.numba.interactions import SERIAL
from pyg_schnet.backends.numba.lib.compiler import njit
from pyg_schnet.backends.numba.lib.gemm import ZERO, aligned
from pyg_schnet.backends.numba.lib.parallel import PRODUCT_OPTIONS, arrays_of
from pyg_schnet.backends.numba.lib.partition import share
from pyg_schnet.backends.numba.lib.simd import NARROW
from pyg_schnet.backends.numba.lib.transpose import transposes
from pyg_schnet.backends.numba.mlp import ascend_rows, descend_rows
from pyg_schnet.backends.numba.pooling import pool_atoms, unpool_atoms
from pyg_schnet.backends.numba.records import Weights

_ascend_blocks, _descend_blocks = SERIAL


class Head(NamedTuple):
    """A readout of two layers for one property, as its rows are read; see :func:`pyg_schnet.ops.pool_atoms`.

    Attributes:
        w1: Weights of the first layer, shape ``[H, F]``.
        w1_t: Their transpose, contiguous.
        b1: Its bias, shape ``[H]``.
        w2: Weights of the second layer, shape ``[1, H]``.
        b2: Its bias, shape ``[1]``.
        scale: Factor of each atom's value, shape ``[1]``.
        shift: What is added, shape ``[1]``.
        references: What is added for each kind of atom, shape ``[Z, 1]``.
    """

    w1: np.ndarray
    w1_t: np.ndarray
    b1: np.ndarray
    w2: np.ndarray
    b2: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    references: np.ndarray

    @classmethod
    def pack(cls, w1: Tensor, *rest: Tensor) -> Head:
        """Copies of all but the transpose."""
        first, *others = arrays_of(*(value.detach().clone() for value in (w1, *rest)))
        return cls(first, transposes(first[None])[0], *others)


class Grid(NamedTuple):
    """Grid of the tables, and what blocks do with sums.

    Attributes:
        num_intervals: Number of intervals.
        cutoff: End of the grid in Å.
        normalize: Whether blocks divide by the number of neighbours.
    """

    num_intervals: int
    cutoff: float
    normalize: bool


@njit(**PRODUCT_OPTIONS)
def _rooms(n_layers, n_rows, n_columns, like) -> np.ndarray:
    return aligned(n_layers * n_rows * n_columns, like).reshape(n_layers, n_rows, n_columns)


@njit(**PRODUCT_OPTIONS)
def _count_neighbors(dist, source, target, cutoff, counts) -> None:
    """Number of neighbours within the cutoff, at least 1; for the directions of each edge."""
    for e in range(dist.shape[0]):
        if dist[e] < cutoff:
            counts[source[e]] += 1
            counts[target[e]] += 1
    for i in range(counts.shape[0]):
        counts[i] = max(counts[i], counts.dtype.type(1))


@njit(**PRODUCT_OPTIONS)
def _strain(grad, pos, source, target, lattice, dist, batch, grad_strain) -> None:
    """Add what edges give to the gradient by the strain of their structure."""
    for e in range(grad.shape[0]):
        i, j = target[e], source[e]
        if dist[e] == 0 or (lattice is None and i == j):
            continue
        slope = grad[e] / dist[e]
        for a in range(3):
            for b in range(a, 3):
                first, second = component(pos, i, j, lattice, e, a), component(pos, i, j, lattice, e, b)
                grad_strain[batch[i], a, b] += slope * first * second
    for s in range(grad_strain.shape[0]):
        for a in range(3):
            for b in range(a):
                grad_strain[s, a, b] = grad_strain[s, b, a]


@njit(**PRODUCT_OPTIONS)
def _are_kinds(z, n_kinds) -> bool:
    ours = True
    for kind in z:
        ours = ours and 0 <= kind < n_kinds
    return ours


@njit(**PRODUCT_OPTIONS)
def _read_out(x, z, batch, mean, head, energy, grad_x) -> bool:
    """Energies, and the gradient of their sum by features; false for structures and kinds that are not there."""
    w1, w1_t, b1, w2, b2, scale, shift, references = head
    n_atoms, n_structures, real = x.shape[0], energy.shape[0], x.dtype
    rooms = _rooms(3, n_atoms, w1.shape[0], x)
    act, slope, grad_inner = rooms[0], rooms[1], rooms[2]
    values, grad, n_real = np.empty((n_atoms, 1), real), np.ones((n_structures, 1), real), np.zeros(n_structures)
    ascend_rows(ZERO, n_atoms, x, w1_t, b1, w2, b2, act, slope, values)
    if not pool_atoms(values, scale, shift, references, z, batch, energy, n_real):
        return False
    if mean:
        for b in range(n_structures):
            energy[b] /= max(n_real[b], 1.0)
            grad[b] /= real.type(max(n_real[b], 1.0))
    unpool_atoms(grad, scale, z, batch, values)
    descend_rows(ZERO, n_atoms, values, slope, w2, w1, grad_inner, grad_x)
    return True


@njit(**PRODUCT_OPTIONS)
def _by_edges(top, shares, weights, h, bins, source, ptr, counts, z, steps) -> np.ndarray:
    """From the gradient by the features after all blocks to that by the weights of edges."""
    n_features, n_filters, real = weights[1].shape[2], weights[1].shape[1], top.dtype
    grads, outer = _rooms(2, len(z), n_features, top), _rooms(2, len(z), n_features, top)
    grad_sum, grad_y = _rooms(1, len(z), n_filters, top), _rooms(1, len(z), n_filters, top)
    nothing = np.empty((1, 0, n_filters), real), np.empty((1, 0, n_features), real)
    none3, none4 = np.empty((1, 0, 0), real), np.empty((1, 0, 0, 0), real)
    no_weights = none4, none4, none4, none3, none4, none3
    grad_basis = np.zeros((len(bins), 4), real)
    _descend_blocks(
        shares,
        weights,
        h,
        bins,
        source,
        ptr,
        counts,
        z,
        steps,
        nothing,
        top,
        (grads, outer[:1], grad_sum, grad_y, outer[1]),
        False,
        nothing,
        grad_basis,
        no_weights,
    )
    return grad_basis


@njit(**PRODUCT_OPTIONS)
def _evaluate(
    pos, z, batch, source, target, ptr, lattice, grid, mean, shares, weights, head, energy, grad_pos, grad_strain
) -> bool:
    num_intervals, cutoff, normalize = grid
    n_atoms, n_pairs, real = pos.shape[0], source.shape[0], pos.dtype
    n_blocks, n_filters, n_features = weights[1].shape
    dist, bins = np.empty(n_pairs, real), np.empty(n_pairs, np.int64)
    h, slopes = aligned(4 * n_pairs, pos).reshape(n_pairs, 4), aligned(4 * n_pairs, pos).reshape(n_pairs, 4)
    if not (
        _are_kinds(z, weights[9].shape[0]) and measure_edges(pos, source, target, lattice, real.type(cutoff), dist)
    ):
        return False
    weigh_edges(dist, cutoff, num_intervals, bins, h, slopes)
    counts = np.zeros(n_atoms if normalize else 0, real)
    if normalize:
        _count_neighbors(dist, source, target, real.type(cutoff), counts)

    x, hidden = _rooms(2, n_atoms, n_features, pos), _rooms(n_blocks, n_atoms, n_filters, pos)
    summed, outer = _rooms(1, n_atoms, n_filters, pos), _rooms(1, n_atoms, n_features, pos)
    steps = x, hidden, summed, outer, _rooms(n_blocks, n_atoms, n_features, pos)
    _ascend_blocks(shares, weights, h, bins, source, ptr, counts, z, steps)
    top = _rooms(1, n_atoms, n_features, pos)[0]
    if not _read_out(x[n_blocks % 2], z, batch, mean, head, energy, top):
        return False
    grad_basis = _by_edges(top, shares, weights, h, bins, source, ptr, counts, z, steps)
    grad_dist = np.zeros(n_pairs, real)
    for e in range(n_pairs):
        for k in range(4):
            grad_dist[e] += grad_basis[e, k] * slopes[e, k]
    push_edges(grad_dist, pos, source, target, lattice, dist, grad_pos, None)
    if grad_strain.shape[0] > 0:
        _strain(grad_dist, pos, source, target, lattice, dist, batch, grad_strain)
    return True


def energy_and_gradients(
    pos: Tensor,
    z: Tensor,
    batch: Tensor,
    batch_size: int,
    index: Tensor,
    ptr: Tensor,
    edge_shift: Tensor | None,
    cell: Tensor | None,
    grid: Grid,
    weights: Weights,
    head: Head,
    *,
    mean: bool = False,
    strain: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """Energies and their gradients, by one thread.

    Args:
        pos: Positions in Å, shape ``[N, 3]``.
        z: Kind of each atom, shape ``[N]``; 0 is padding, which adds nothing.
        batch: Structure of each atom, shape ``[N]``.
        batch_size: Number of structures B.
        index: ``(j, i)``, one edge for both directions, sorted by i, shape ``[2, P]``.
        ptr: Begin and end of each target's edges, shape ``[N + 1]``.
        edge_shift: Lattice images crossed by each edge, shape ``[P, 3]``; ``None`` for open boundaries.
        cell: Lattice vectors in rows in Å, shape ``[B, 3, 3]``; needed with ``edge_shift``.
        grid: Grid of the tables.
        weights: Weights of the blocks, and features before them.
        head: Weights of the readout.
        mean: Whether sums over atoms are divided by their number.
        strain: Whether gradients by strains are wanted.

    Returns:
        Energies in the unit U of the readout, ``[B]``, gradients by positions in U/Å, ``[N, 3]``, and by strains in U,
        ``[B, 3, 3]``; ``None`` where an index of a kind, structure or atom names none that is there.
    """
    shapes = (batch_size, 1), pos.shape, (batch_size if strain else 0, 3, 3)
    energy, grad_pos, grad_strain = (torch.zeros(shape, dtype=torch.float64) for shape in shapes)  # rounded once
    arrays = [*arrays_of(pos, z, batch, index[0], index[1], ptr), lattice_of(edge_shift, cell, batch)]
    shares = share(1, 0, arrays[5], *weights.w0.shape[1:], NARROW // weights.w0.itemsize)
    found = _evaluate(
        *arrays,
        tuple(grid),
        mean,
        tuple(shares),
        tuple(weights),
        tuple(head),
        *arrays_of(energy, grad_pos, grad_strain),
    )
    real = pos.dtype
    return (energy[:, 0].to(real), grad_pos.to(real), grad_strain.to(real) if strain else None) if found else None
