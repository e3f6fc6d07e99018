r"""All interaction blocks on a half list, and their gradients with respect to embedding, edges and weights.

A block is, with its table C and the basis h of the pairs,

.. math::
    \mathbf{y} = \mathrm{W}_0 \mathbf{x}, \quad
    \mathbf{u} = \mathrm{W}_1\, \mathrm{conv}(\mathbf{y}, C, h) / n + \mathbf{b}_1, \quad
    \mathbf{x}' = \mathbf{x} + \mathrm{W}_2\, \mathrm{ssp}(\mathbf{u}) + \mathbf{b}_2

The first features depend on the species only: the first dense layer is computed for species, and gradients are summed
over their atoms. Between two convolutions atoms are independent: dense layers, softplus and residual are computed in
tiles of atoms that stay in the cache. A batch is divided into groups of structures, which are independent in all
blocks. In a single large structure threads share atoms in dense layers and features in convolutions, and wait for each
other in between. See :mod:`pyg_schnet.backends.numba.lib.partition`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.backends.numba.half_list_conv import convolve, grad_basis, grad_table
from pyg_schnet.backends.numba.lib.blocks import BlockProgram
from pyg_schnet.backends.numba.lib.buffers import array, empties, zeros
from pyg_schnet.backends.numba.lib.compiler import ORDERED, njit
from pyg_schnet.backends.numba.lib.gemm import (
    TILE,
    add_rows,
    dense_softplus_dense,
    dense_softplus_dense_backward,
    gemm,
    gemm_rows,
    gemm_tn,
    gemm_tn_rows,
)
from pyg_schnet.backends.numba.lib.parallel import num_threads
from pyg_schnet.backends.numba.lib.partition import divide, find_groups
from pyg_schnet.backends.numba.lib.simd import NARROW, add, at, columns, load, store
from pyg_schnet.backends.numba.lib.softplus import slope_rows
from pyg_schnet.backends.numba.records import Activations, Backward, Gradients, Weights
from pyg_schnet.ops.graph import SplineGraph


@njit(**ORDERED)
def normalize(begin, end, counts, values) -> None:
    """Divide some rows by their counts, if there are any."""
    if counts.shape[0] > 0:
        for i in range(begin, end):
            for f in range(values.shape[1]):
                values[i, f] /= counts[i]


@njit(**ORDERED)
def part_of_filters(partition, task) -> tuple[int, int, int, int]:
    """First and last atom, and first and last filter, of a task."""
    part, groups = partition[2][task], partition[3]
    return groups[part[0]], groups[part[1]], part[2], part[3]


@njit(**ORDERED)
def sums_of(partition, task) -> tuple[int, int, int, int, int, int]:
    """First and last group, filter and feature that a task sums over."""
    part = partition[2][task]
    return part[0], part[1], part[2], part[3], part[4], part[5]


@njit(**ORDERED)
def _gather(begin, end, z, values, out) -> None:
    """Rows of values by the species of atoms."""
    for i in range(begin, end):
        for f in range(out.shape[1]):
            out[i, f] = values[z[i], f]


@njit(**ORDERED)
def _sum_species_columns(zero, f, first, last, z, values, sums) -> None:
    n_columns = sums.shape[1]
    for k in range(sums.shape[0]):
        store(sums, k * n_columns + f, zero)
    for i in range(first, last):
        place = at(z, i) * n_columns + f
        store(sums, place, add(load(zero, values, i * n_columns + f), load(zero, sums, place)))


_sum_species = columns(_sum_species_columns)


@njit(**ORDERED)
def _forward_start(t, task, partition, pairs, weights, kept) -> None:
    """Features of the species of atoms, before the first block."""
    begin, end, (z, x, hidden, _, _, _) = partition[0][task], partition[0][task + 1], kept
    if t == 0:
        _gather(begin, end, z, weights[9], x[0])
        _gather(begin, end, z, weights[10], hidden[0])


@njit(**ORDERED)
def _forward_pairs(t, task, partition, pairs, weights, kept) -> None:
    """The convolution."""
    _, _, hidden, summed, _, _ = kept
    basis, interval, source, ptr, _ = pairs
    first, last, f, stop = part_of_filters(partition, task)
    y, total = hidden[t % hidden.shape[0]], summed[t % summed.shape[0]]
    convolve(f, stop, y, first, last, y, weights[0][t], basis, interval, source, ptr, total)


@njit(**ORDERED)
def _forward_atoms(t, task, partition, pairs, weights, kept) -> None:
    """From convolved features to those after the block, and the input of the next convolution."""
    begin, end = partition[0][task], partition[0][task + 1]
    tables, _, _, b1, _, b2, w0_t, w1_t, w2_t, _, _ = weights
    _, x, hidden, summed, outer, slope = kept
    total, act, slopes = summed[t % summed.shape[0]], outer[t % outer.shape[0]], slope[t % slope.shape[0]]
    before, after = x[t % x.shape[0]], x[(t + 1) % x.shape[0]]
    normalize(begin, end, pairs[4], total)
    dense_softplus_dense(begin, end, total, w1_t[t], b1[t], w2_t[t], b2[t], before, act, slopes, after)
    if t + 1 < tables.shape[0]:
        gemm_rows(end - begin, after, begin, w0_t[t + 1], hidden[(t + 1) % hidden.shape[0]], begin)


FORWARD = BlockProgram("forward", _forward_start, _forward_pairs, _forward_atoms)


@njit(**ORDERED)
def _recompute(step, task, partition, pairs, weights, kept, more, passed, found) -> None:
    """Features before a block, its layer y and the slopes, from the features after it and the softplus."""
    begin, end, t = partition[0][task], partition[0][task + 1], weights[0].shape[0] - 1 - step
    _, _, _, _, _, b2, w0_t, _, w2_t, _, first_hidden = weights
    z, x, hidden, _, outer, slope = kept
    slope_rows(begin, end, outer[t], slope[t % slope.shape[0]])
    y, after, before = hidden[t % hidden.shape[0]], x[(t + 1) % x.shape[0]], x[t % x.shape[0]]
    if t == 0:
        _gather(begin, end, z, first_hidden, y)
        return
    for i in range(begin, end, TILE):
        rows = min(TILE, end - i)
        gemm_rows(rows, outer[t], i, w2_t[t], before, i)
        for r in range(i, i + rows):
            for f in range(before.shape[1]):
                before[r, f] = after[r, f] - before[r, f] - b2[t, f]
        gemm_rows(rows, before, i, w0_t[t], y, i)


@njit(**ORDERED)
def _backward_atoms(step, task, partition, pairs, weights, kept, more, passed, found) -> None:
    """From the gradient of the features after a block to that of its convolution."""
    begin, end, t = partition[0][task], partition[0][task + 1], weights[0].shape[0] - 1 - step
    _, _, w1, _, w2, _, _, _, _, _, _ = weights
    grads, all_outer, all_sum, _, grad_inner = passed
    grad, grad_outer, grad_sum = (
        grads[step % grads.shape[0]],
        all_outer[t % all_outer.shape[0]],
        all_sum[t % all_sum.shape[0]],
    )
    slope, extra = kept[5][t % kept[5].shape[0]], more[1][t % more[1].shape[0]]
    dense_softplus_dense_backward(begin, end, grad, w2[t], slope, extra, w1[t], grad_outer, grad_inner, grad_sum)
    normalize(begin, end, pairs[4], grad_sum)


@njit(**ORDERED)
def _backward_pairs(step, task, partition, pairs, weights, kept, more, passed, found) -> None:
    """From the gradient of the convolution to those of the pairs and of its input."""
    t, evaluated = weights[0].shape[0] - 1 - step, partition[1]
    basis, interval, source, ptr, _ = pairs
    first, last, f, stop = part_of_filters(partition, task)
    grad_species, _, grad_of_basis, _, _, _, _, _, _ = found
    table, y, grad_sum, grad_y = (
        weights[0][t],
        kept[2][t % kept[2].shape[0]],
        passed[2][t % passed[2].shape[0]],
        passed[3][t % passed[3].shape[0]],
    )
    if grad_of_basis.shape[0] > 0:
        grad_basis(evaluated[task], evaluated[task + 1], grad_sum, y, table, interval, source, ptr, grad_of_basis)
    if t > 0 or grad_species.shape[1] > 0:
        convolve(f, stop, y, first, last, grad_sum, table, basis, interval, source, ptr, grad_y)


@njit(**ORDERED)
def _backward_features(step, task, partition, pairs, weights, kept, more, passed, found) -> None:
    """Gradient of the features before the block."""
    begin, end, t = partition[0][task], partition[0][task + 1], weights[0].shape[0] - 1 - step
    grads, _, _, all_y, _ = passed
    grad_y = all_y[t % all_y.shape[0]]
    if t > 0 or found[0].shape[1] > 0:
        add_rows(begin, end, more[0][t % more[0].shape[0]], grad_y)
    if t > 0:
        below = grads[(step + 1) % grads.shape[0]]
        for i in range(begin, end, TILE):
            rows = min(TILE, end - i)
            gemm_rows(rows, grad_y, i, weights[1][t], below, i)
            add_rows(i, i + rows, grads[step % grads.shape[0]], below)


@njit(**ORDERED)
def _backward_weights(step, task, partition, pairs, weights, kept, more, passed, found) -> None:
    """Gradients of the table and the dense layers, or of the species before the first block."""
    t = weights[0].shape[0] - 1 - step
    z, x, hidden, summed, outer, _ = kept
    basis, interval, source, ptr, _ = pairs
    grads, _, all_sum, all_y, grad_inner = passed
    grad, grad_y = grads[step % grads.shape[0]], all_y[t % all_y.shape[0]]
    grad_species, grad_of_embedding, _, grad_tables, grad_w0, grad_w1, grad_b1, grad_w2, grad_b2 = found
    first_group, last_group, f, stop, begin, end = sums_of(partition, task)
    for group in range(first_group, last_group):
        first, last = partition[3][group], partition[3][group + 1]
        if grad_w1.shape[1] > 0:
            y, grad_sum = hidden[t], all_sum[t % all_sum.shape[0]]
            grad_table(f, stop, y, first, last, grad_sum, y, basis, interval, source, ptr, grad_tables[group, t])
            gemm_tn_rows(begin, end, first, last, grad_inner, summed[t], grad_w1[group, t], grad_b1[group, t])
            gemm_tn_rows(begin, end, first, last, grad, outer[t], grad_w2[group, t], grad_b2[group, t])
            if t > 0:
                gemm_tn_rows(f, stop, first, last, grad_y, x[t], grad_w0[group, t], grad_b1[group, t][:0])
        if t == 0 and grad_species.shape[1] > 0:
            _sum_species(f, stop, grad_species, first, last, z, grad_y, grad_species[group])
            _sum_species(begin, end, grad_species, first, last, z, grad, grad_of_embedding[group])


BACKWARD = BlockProgram("backward", _backward_atoms, _backward_pairs, _backward_features, _backward_weights)
BACKWARD_TO_PAIRS = BlockProgram("backward_to_pairs", _backward_atoms, _backward_pairs, _backward_features)
BACKWARD_RECOMPUTED = BlockProgram(
    "backward_recomputed", _recompute, _backward_atoms, _backward_pairs, _backward_features
)


def interactions_forward(
    z: Tensor,
    weights: Weights,
    basis: Tensor,
    half_list: SplineGraph,
    n_neighbors: Tensor | None,
    *,
    for_edges: bool = False,
    for_weights: bool = False,
    recompute: bool = False,
) -> tuple[Tensor, Activations]:
    """Features after all blocks, shape ``[N, F]``, and intermediate results.

    Args:
        z: Species of each atom, a row of ``weights.embedding``, shape ``[N]``; not checked.
        weights: Weights of the blocks, and features before them.
        basis: Spline basis h of each pair, shape ``[P, 4]``.
        half_list: Pairs, each once, sorted by target.
        n_neighbors: Number of neighbours by which convolutions are divided, shape ``[N]``.
        for_edges: Whether to keep intermediate results for gradients with respect to embedding and edges.
        for_weights: Whether to keep those for gradients with respect to weights as well.
        recompute: Whether to keep the softplus of each block alone, from which the backward pass to edges recomputes
            the rest, at the cost of two dense layers a block.
    """
    _, n_filters, n_features = weights.w0.shape
    groups = (0, z.size(0))
    if for_weights or num_threads(_work(half_list, weights)) > 1:  # only sums of gradients depend on groups
        groups = find_groups(array(half_list.source), array(half_list.target_ptr), n_filters, n_features)
    kept = Activations.empty(z.size(0), weights, groups, for_edges, for_weights, recompute)
    run_blocks(FORWARD, groups, weights, basis, half_list, n_neighbors, (array(z), *kept[:5]))
    return torch.from_numpy(kept.x[len(weights.tables) % len(kept.x)]), kept


def interactions_backward(
    grad: Tensor,
    z: Tensor,
    weights: Weights,
    basis: Tensor,
    half_list: SplineGraph,
    n_neighbors: Tensor | None,
    kept: Activations,
    *,
    grad_embedding: bool = False,
    grad_basis: bool = True,
    grad_weights: bool = False,
    grad_hidden: np.ndarray | None = None,
    grad_inner: np.ndarray | None = None,
    keep: bool = False,
) -> tuple[Gradients, Backward]:
    """Gradients of a sum over the features after all blocks, and intermediate results.

    Args:
        grad: Gradient with respect to these features, shape ``[N, F]``.
        z: Species of each atom, shape ``[N]``.
        weights: Weights of the blocks, and features before them.
        basis: Spline basis h of each pair, shape ``[P, 4]``.
        half_list: Pairs, each once, sorted by target.
        n_neighbors: Number of neighbours by which convolutions are divided, shape ``[N]``.
        kept: Intermediate results of :func:`interactions_forward`; recomputed ones give ``grad_basis`` alone.
        grad_embedding: Whether the gradient with respect to the embedding is needed.
        grad_basis: Whether the gradient with respect to h is needed.
        grad_weights: Whether the gradients with respect to weights are needed.
        grad_hidden: Gradient to add to that of the layers y, shape ``[T, N, K]``.
        grad_inner: Gradient to add to that of the layers u, shape ``[T, N, F]``.
        keep: Whether to keep intermediate results for the double backward pass.
    """
    (n_species, n_features), n_filters = weights.embedding.shape, weights.tables.shape[2]
    passed, n_groups, real = Backward.empty(len(grad), weights, keep), len(kept.groups) - 1, weights.w0.dtype
    passed.grads[0] = array(grad)
    more = [
        np.empty((1, 0, width), real) if given is None else np.asarray(given)
        for given, width in ((grad_hidden, n_filters), (grad_inner, n_features))
    ]
    species = n_species if grad_embedding or grad_weights else 0
    sums = empties([(n_groups, species, width) for width in (n_filters, n_features)], real)
    edges = zeros((half_list.source.size(0) if grad_basis else 0, 4), real)
    learned = Gradients.empty(weights, n_groups, grad_weights)
    state = (array(z), *kept[:5]), tuple(more), tuple(passed), (*sums, edges, *learned)
    program = BACKWARD_RECOMPUTED if len(kept.outer) > len(kept.hidden) else BACKWARD
    run_blocks(program, kept.groups, weights, basis, half_list, n_neighbors, *state)
    grad_species, grad_of_embedding = Gradients.total(sums)
    if grad_embedding:
        grad_of_embedding += gemm(torch.from_numpy(grad_species), torch.from_numpy(weights.w0[0])).numpy()
    found = (grad_of_embedding if grad_embedding else None), (edges if grad_basis else None)
    if not grad_weights:
        return Gradients(*found), passed
    grad_tables, grad_w0, *others = Gradients.total(learned)
    grad_w0[0] = gemm_tn(torch.from_numpy(grad_species), torch.from_numpy(weights.embedding)).numpy()
    return Gradients(*found, grad_tables, grad_w0, *others), passed


def _work(half_list: SplineGraph, weights: Weights) -> int:
    return half_list.source.size(0) * weights.tables.shape[2]


def run_blocks(
    program: BlockProgram,
    groups: tuple[int, ...],
    weights: Weights,
    basis: Tensor,
    half_list: SplineGraph,
    n_neighbors: Tensor | None,
    *state: tuple[np.ndarray, ...],
    pairs: tuple[np.ndarray, ...] = (),
) -> None:
    """Run a program for all blocks with the number of threads of torch."""
    threads, ptr = num_threads(_work(half_list, weights)), array(half_list.target_ptr)
    partition = divide(threads, groups, ptr, *weights.w0.shape[1:], NARROW // weights.w0.itemsize)
    counts = np.empty(0, weights.w0.dtype) if n_neighbors is None else array(n_neighbors)
    pairs = array(basis), array(half_list.interval), array(half_list.source), ptr, counts, *pairs
    program(threads, partition, pairs, tuple(weights), *state)
