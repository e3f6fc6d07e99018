r"""Energy and forces of small structures in one call, without overhead between kernels.

From positions to lengths, spline basis, interaction blocks, readout and sum over atoms, and back:

.. math::
    \frac{\partial E}{\partial \mathbf{r}_i} = \sum_e \frac{\partial E}{\partial r_e}
    \frac{\partial r_e}{\partial \mathbf{r}_i}, \qquad
    \frac{\partial E}{\partial \varepsilon_{ab}} = \sum_e \frac{\partial E}{\partial r_e}
    \frac{v_{e,a} v_{e,b}}{r_e}

with the vector :math:`\mathbf{v}_e` of an edge, and a strain that acts on positions and cell. It calls the
kernels of the single steps.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.backends import tuning
from pyg_schnet.backends.numba.edge_lengths import component, lattice_of, measure_edges, push_edges, weigh_edges
from pyg_schnet.backends.numba.interactions import BACKWARD_TO_PAIRS, FORWARD
from pyg_schnet.backends.numba.lib.buffers import arrays_of
from pyg_schnet.backends.numba.lib.compiler import ORDERED, njit
from pyg_schnet.backends.numba.lib.gemm import aligned, dense_softplus_dense, dense_softplus_dense_backward
from pyg_schnet.backends.numba.lib.parallel import equal_work, num_threads, run_together
from pyg_schnet.backends.numba.lib.partition import divide_groups
from pyg_schnet.backends.numba.lib.simd import ZERO
from pyg_schnet.backends.numba.lib.transpose import transposes
from pyg_schnet.backends.numba.pooling import pool_atoms, unpool_atoms
from pyg_schnet.backends.numba.records import Weights
from pyg_schnet.backends.numba.sort_edges import pointer_of_sorted

_forward, _backward = FORWARD.tasks, BACKWARD_TO_PAIRS.tasks


class Head(NamedTuple):
    """Weights of a readout with two layers for one property; see :func:`pyg_schnet.ops.pool_atoms`.

    Attributes:
        w1: Weights of the first layer, shape ``[H, F]``.
        w1_t: Their transpose, contiguous.
        b1: Its bias, shape ``[H]``.
        w2: Weights of the second layer, shape ``[1, H]``.
        w2_t: Their transpose, contiguous.
        b2: Its bias, shape ``[1]``.
        scale: Factor of each atom's value, shape ``[1]``.
        shift: Shift of each value, shape ``[1]``.
        references: Element energies, shape ``[Z, 1]``.
    """

    w1: np.ndarray
    w1_t: np.ndarray
    b1: np.ndarray
    w2: np.ndarray
    w2_t: np.ndarray
    b2: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    references: np.ndarray

    @classmethod
    def pack(cls, w1: Tensor, b1: Tensor, w2: Tensor, *rest: Tensor) -> Head:
        """Copies of all, and the transposes."""
        w1, b1, w2, *rest = arrays_of(*(value.detach().clone() for value in (w1, b1, w2, *rest)))
        return cls(w1, *transposes(w1[None]), b1, w2, *transposes(w2[None]), *rest)


class Grid(NamedTuple):
    """Grid of the tables, and normalization of the sums.

    Attributes:
        num_intervals: Number of intervals.
        cutoff: End of the grid in Å.
        normalize: Whether blocks divide by the number of neighbours.
    """

    num_intervals: int
    cutoff: float
    normalize: bool


@njit(**ORDERED)
def _layers(n_layers, n_rows, n_columns, like) -> np.ndarray:
    return aligned(n_layers * n_rows, n_columns, like).reshape(n_layers, n_rows, n_columns)


@njit(**ORDERED)
def _count_neighbors(dist, source, target, cutoff, counts) -> None:
    """Number of neighbours within the cutoff, at least 1, both directions counted."""
    for e in range(dist.shape[0]):
        if dist[e] < cutoff:
            counts[source[e]] += 1
            counts[target[e]] += 1
    for i in range(counts.shape[0]):
        counts[i] = max(counts[i], counts.dtype.type(1))


@njit(**ORDERED)
def _strain(grad, pos, source, target, lattice, dist, batch, grad_strain) -> None:
    """Add contributions of edges to the gradient with respect to the strain of their structure."""
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


def grad_strain(
    grad: Tensor,
    pos: Tensor,
    index: Tensor,
    edge_shift: Tensor | None,
    cell: Tensor | None,
    batch: Tensor,
    dist: Tensor,
    batch_size: int,
) -> Tensor:
    """Gradient with respect to the strain of each structure, ``[B, 3, 3]``, from that of lengths, ``[P]``."""
    found = torch.zeros(batch_size, 3, 3, dtype=torch.float64)
    edges, lattice = arrays_of(grad, pos, index[0], index[1]), lattice_of(edge_shift, cell, batch)
    _strain(edges[0], edges[1], edges[2], edges[3], lattice, *arrays_of(dist, batch, found))
    return found.to(pos.dtype)


@njit(**ORDERED)
def _are_species(z, n_species) -> bool:
    found = True
    for species in z:
        found = found and 0 <= species < n_species
    return found


@njit(**ORDERED)
def _read_out(x, z, batch, mean, head, energy, grad_x) -> bool:
    """Energies, and the gradient of their sum with respect to features; false if an index is out of range."""
    w1, w1_t, b1, w2, w2_t, b2, scale, shift, references = head
    n_atoms, n_structures, real = x.shape[0], energy.shape[0], x.dtype
    layers = _layers(4, n_atoms, w1.shape[0], x)
    values, grad, n_real = np.empty((n_atoms, 1), real), np.ones((n_structures, 1), real), np.zeros(n_structures)
    dense_softplus_dense(ZERO, n_atoms, x, w1_t, b1, w2_t, b2, values[:0], layers[0], layers[1], values)
    if not pool_atoms(values, scale, shift, references, z, batch, energy, n_real):
        return False
    if mean:
        for b in range(n_structures):
            energy[b, 0] /= max(n_real[b], 1.0)
            grad[b, 0] /= real.type(max(n_real[b], 1.0))
    unpool_atoms(grad, scale, z, batch, values)
    slope = layers[1]
    dense_softplus_dense_backward(ZERO, n_atoms, values, w2, slope, slope[:0], w1, layers[2], layers[3], grad_x)
    return True


@njit(**ORDERED, nogil=True)  # several groups of structures at a time
def _evaluate(
    pos, z, batch, source, target, ptr, lattice, grid, mean, partition, weights, head, energy, grad_pos, grad_strain
) -> bool:
    num_intervals, cutoff, normalize = grid
    n_atoms, n_pairs, real = pos.shape[0], source.shape[0], pos.dtype
    n_blocks, n_filters, n_features = weights[1].shape
    dist, interval = np.empty(n_pairs, real), np.empty(n_pairs, np.int64)
    per_pair = _layers(3, n_pairs, 4, pos)
    basis, slopes, grad_basis = per_pair[0], per_pair[1], per_pair[2]
    in_range = _are_species(z, weights[9].shape[0])
    if not (in_range and measure_edges(pos, source, target, lattice, real.type(cutoff), dist)):
        return False
    weigh_edges(dist, cutoff, num_intervals, interval, basis, slopes)
    counts = np.zeros(n_atoms if normalize else 0, real)
    if normalize:
        _count_neighbors(dist, source, target, real.type(cutoff), counts)

    pairs = basis, interval, source, ptr, counts
    x, slope = _layers(2, n_atoms, n_features, pos), _layers(n_blocks, n_atoms, n_features, pos)
    hidden, summed = _layers(n_blocks, n_atoms, n_filters, pos), _layers(1, n_atoms, n_filters, pos)
    kept = z, x, hidden, summed, _layers(1, n_atoms, n_features, pos), slope
    _forward(ZERO, 1, partition, pairs, weights, kept)
    passed = (
        _layers(2, n_atoms, n_features, pos),
        _layers(1, n_atoms, n_features, pos),
        _layers(1, n_atoms, n_filters, pos),
        _layers(1, n_atoms, n_filters, pos),
        _layers(1, n_atoms, n_features, pos)[0],
    )
    if not _read_out(x[n_blocks % 2], z, batch, mean, head, energy, passed[0][0]):
        return False
    grad_basis.fill(0)
    none3, none4 = np.empty((1, 0, 0), real), np.empty((1, 0, 0, 0), real)
    found = none3, none3, grad_basis, none4, none4, none4, none3, none4, none3
    _backward(ZERO, 1, partition, pairs, weights, kept, (none3, none3), passed, found)
    grad_dist = np.zeros(n_pairs, real)
    for e in range(n_pairs):
        for k in range(4):
            grad_dist[e] += grad_basis[e, k] * slopes[e, k]
    push_edges(grad_dist, pos, source, target, lattice, dist, grad_pos, None)
    if grad_strain.shape[0] > 0:
        _strain(grad_dist, pos, source, target, lattice, dist, batch, grad_strain)
    return True


def potential(
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
    """Energies and their gradients, each group of structures by one thread.

    Features of all blocks are kept for the gradient. Those of 4,000 atoms are 70 MB, which are written to memory and
    read again; those of a group stay in the last cache, and its dense layers have enough rows.

    Args:
        pos: Positions in Å, shape ``[N, 3]``.
        z: Species of each atom, shape ``[N]``; 0 is padding, which adds nothing.
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
        strain: Whether gradients with respect to strains are needed.

    Returns:
        Energies in the unit U of the readout, ``[B]``, gradients with respect to positions in U/Å, ``[N, 3]``, and
        strains in U, ``[B, 3, 3]``; ``None`` if an index of a species, structure or atom is out of range.
    """
    shapes = (batch_size, 1), pos.shape, (batch_size if strain else 0, 3, 3)
    energy, grad_pos, grad_strain = (torch.zeros(shape, dtype=torch.float64) for shape in shapes)  # rounded once
    inputs = [*arrays_of(pos, z, batch, index[0], index[1], ptr), lattice_of(edge_shift, cell, batch)]
    results = arrays_of(energy, grad_pos, grad_strain)
    parts, work = [(inputs, results)], index.size(1) * weights.w0.shape[1]
    groups = _groups(batch, batch_size, num_threads(work))
    if len(groups) > 2:
        parts = [_part(inputs, results, *ends) for ends in itertools.pairwise(groups)]

    def evaluate(part: tuple[list[Any], list[Any]]) -> bool:
        given, found = part
        partition = divide_groups(1, (0, len(given[0])), *weights.w0.shape[1:])
        return _evaluate(*given, tuple(grid), mean, tuple(partition[:4]), tuple(weights), tuple(head), *found)

    if not all(run_together(evaluate, parts, work)):
        return None
    real = pos.dtype
    return energy[:, 0].to(real), grad_pos.to(real), grad_strain.to(real) if strain else None


def _groups(batch: Tensor, batch_size: int, threads: int) -> list[tuple[int, int]]:
    """First structure and atom of each group, and ``(B, N)``: as many groups of about equal size for each thread."""
    n_atoms = batch.size(0)
    n_groups = threads * -(-n_atoms // (threads * tuning.current.atoms_of_group))
    ptr = pointer_of_sorted(batch, batch_size) if n_groups > 1 and batch_size > 1 else None
    if ptr is None:
        return [(0, 0), (batch_size, n_atoms)]
    atoms = ptr.numpy()
    return [(structure, int(atoms[structure])) for structure in np.unique(equal_work(atoms)(n_groups)).tolist()]


def _part(
    inputs: list[Any], results: list[Any], begin: tuple[int, int], end: tuple[int, int]
) -> tuple[list[Any], list[Any]]:
    """Arguments of one group of structures, whose results are parts of those of all."""
    pos, z, batch, source, target, ptr, lattice = inputs
    (first, i), (last, j) = begin, end
    left, right = ptr[i], ptr[j]
    own = batch[i:j] - first
    if lattice is not None:
        lattice = lattice[0][left:right], lattice[1][first:last], own
    graph = source[left:right] - i, target[left:right] - i, ptr[i : j + 1] - left
    energy, grad_pos, grad_strain = results
    return [pos[i:j], z[i:j], own, *graph, lattice], [energy[first:last], grad_pos[i:j], grad_strain[first:last]]
