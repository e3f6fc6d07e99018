r"""Double backward pass of all interaction blocks, for training on forces.

With the gradient :math:`\mathbf{g}` above a block, the backward pass computes

.. math::
    \mathbf{q} = \mathbf{g} \mathrm{W}_2, \quad
    \mathbf{p} = \mathbf{q} \circ \sigma(\mathbf{u}), \quad
    \mathbf{s} = \mathbf{p} \mathrm{W}_1 / n, \quad
    \mathbf{r} = \partial_y L(\mathbf{s}, \mathbf{y}, C, h), \quad
    \mathbf{g}' = \mathbf{g} + \mathbf{r} \mathrm{W}_0

and adds :math:`\partial_h L(\mathbf{s}, \mathbf{y}, C, h)` to the gradient with respect to edges. The product of that
gradient with ``tangent`` is differentiated here with respect to all inputs, from the first to the last block, with one
pass over the pairs for each.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from pyg_schnet.backends.numba.half_list_conv import fetch_ahead
from pyg_schnet.backends.numba.half_list_conv import grad_basis as add_grad_basis
from pyg_schnet.backends.numba.interactions import normalize, run_blocks, sums_of
from pyg_schnet.backends.numba.lib.blocks import BlockProgram
from pyg_schnet.backends.numba.lib.buffers import array, empties, zeros
from pyg_schnet.backends.numba.lib.compiler import ORDERED, njit
from pyg_schnet.backends.numba.lib.gemm import TILE, add_rows, gemm_rows, gemm_tn_rows
from pyg_schnet.backends.numba.lib.simd import add, at, columns, fill, fma, load, multiply, store
from pyg_schnet.backends.numba.records import Activations, Backward, Gradients, Weights
from pyg_schnet.ops.graph import SplineGraph


class SecondGradients(NamedTuple):
    """Gradients of the product of ``tangent`` with the gradient with respect to the basis of the pairs.

    Attributes:
        grad: With respect to the gradient after all blocks, shape ``[N, F]``.
        basis: With respect to the basis h of the pairs, shape ``[P, 4]``, or ``None``.
        hidden: With respect to the layers y, shape ``[T, N, K]``.
        inner: With respect to the layers u, shape ``[T, N, F]``.
        tables: With respect to the tables, shape ``[T, M, K]``.
        w0: With respect to the weights of the first layers, shape ``[T, K, F]``.
        w1: Of the second layers, shape ``[T, F, K]``.
        w2: Of the third layers, shape ``[T, F, F]``.
    """

    grad: np.ndarray
    basis: np.ndarray | None
    hidden: np.ndarray
    inner: np.ndarray
    tables: np.ndarray
    w0: np.ndarray
    w1: np.ndarray
    w2: np.ndarray


@njit(**ORDERED)
def _differentiate(
    zero, f, first, last, s, y, r, c, basis, tangent, interval, source, ptr, grad_s, grad_y, grad_c
) -> None:
    """Columns of the derivatives of L(s, y, C, tangent) + L(s, r, C, h)."""
    n_columns = c.shape[1]
    for i in range(first, last):
        store(grad_s, i * n_columns + f, zero)
        store(grad_y, i * n_columns + f, zero)
    for k in range(c.shape[0]):
        store(grad_c, k * n_columns + f, zero)
    for i in range(first, last):
        row = i * n_columns + f
        s_i, y_i, r_i = load(zero, s, row), load(zero, y, row), load(zero, r, row)
        fetch_ahead(zero, s, row)
        fetch_ahead(zero, y, row)
        grad_s_i, grad_y_i = zero, zero
        for p in range(at(ptr, i), at(ptr, i + 1)):
            j, k = at(source, p) * n_columns + f, at(interval, p) * n_columns + f
            s_j, y_j, r_j = load(zero, s, j), load(zero, y, j), load(zero, r, j)
            grad_tangent = fma(s_i, y_j, multiply(s_j, y_i))
            grad_h = fma(s_i, r_j, multiply(s_j, r_i))
            w_tangent, w_basis = zero, zero
            for m in range(4):
                a, b, c_m = fill(zero, tangent, 4 * p + m), fill(zero, basis, 4 * p + m), load(zero, c, k)
                w_tangent, w_basis = fma(a, c_m, w_tangent), fma(b, c_m, w_basis)
                store(grad_c, k, fma(a, grad_tangent, fma(b, grad_h, load(zero, grad_c, k))))
                k += n_columns
            grad_s_i = fma(w_tangent, y_j, fma(w_basis, r_j, grad_s_i))
            grad_y_i = fma(w_tangent, s_j, grad_y_i)
            store(grad_s, j, fma(w_tangent, y_i, fma(w_basis, r_i, load(zero, grad_s, j))))
            store(grad_y, j, fma(w_tangent, s_i, load(zero, grad_y, j)))
        store(grad_s, row, add(grad_s_i, load(zero, grad_s, row)))
        store(grad_y, row, add(grad_y_i, load(zero, grad_y, row)))


_differentiate_columns = columns(_differentiate, wide_too=False)  # wide vectors of so many operands are spilled


@njit(**ORDERED)
def _double_start(t, task, partition, pairs, weights, kept, passed, scratch, found) -> None:
    """From the gradient with respect to that below a block to that with respect to what its convolution gave."""
    begin, end = partition[0][task], partition[0][task + 1]
    if t > 0:
        gemm_rows(end - begin, found[0][t % 2], begin, weights[6][t], scratch[0], begin)


@njit(**ORDERED)
def _double_pairs(t, task, partition, pairs, weights, kept, passed, scratch, found) -> None:
    """Derivatives of the convolution."""
    basis, interval, source, ptr, _, tangent = pairs
    _, grad_basis, grad_hidden, _, grad_tables, _, _, _, _, _ = found
    grad_r, grad_s, _ = scratch
    s, y, c, grad_y, evaluated = passed[2][t], kept[0][t], weights[0][t], grad_hidden[t], partition[1]
    if t > 0 and grad_basis.shape[0] > 0:
        add_grad_basis(evaluated[task], evaluated[task + 1], s, grad_r, c, interval, source, ptr, grad_basis)
    first_group, last_group, f, stop, _, _ = sums_of(partition, task)
    for group in range(first_group, last_group):
        first, last, grad_y, grad_c = (
            partition[3][group],
            partition[3][group + 1],
            grad_hidden[t],
            grad_tables[group, t],
        )
        _differentiate_columns(
            f, stop, c, first, last, s, y, grad_r, c, basis, tangent, interval, source, ptr, grad_s, grad_y, grad_c
        )


@njit(**ORDERED)
def _double_atoms(t, task, partition, pairs, weights, kept, passed, scratch, found) -> None:
    """From the gradient with respect to s to those with respect to u, q and the gradient above the block."""
    begin, end = partition[0][task], partition[0][task + 1]
    _, grad_s, grad_q = scratch
    slope, q, p, grad_u = kept[1][t], passed[1][t], passed[4], found[3][t]
    below, above = found[0][t % 2], found[0][(t + 1) % 2]
    normalize(begin, end, pairs[4], grad_s)
    for i in range(begin, end, TILE):
        rows = min(TILE, end - i)
        gemm_rows(rows, grad_s, i, weights[7][t], grad_q, i)  # with respect to p
        for n in range(i, i + rows):
            for f in range(q.shape[1]):
                p[n, f] = q[n, f] * slope[n, f]
                grad_q[n, f] *= slope[n, f]
                v = grad_q[n, f] * q[n, f]
                grad_u[n, f] = v - v * slope[n, f]  # σ' = σ (1 - σ)
        gemm_rows(rows, grad_q, i, weights[8][t], above, i)
        add_rows(i, i + rows, below, above)


@njit(**ORDERED)
def _double_weights(t, task, partition, pairs, weights, kept, passed, scratch, found) -> None:
    """Gradients of the dense layers."""
    grads, _, _, grad_y, p = passed
    _, grad_s, grad_q = scratch
    grad_grads, _, _, _, _, grad_w0, grad_w1, grad_b1, grad_w2, _ = found
    first_group, last_group, f, stop, begin, end = sums_of(partition, task)
    for group in range(first_group, last_group):
        first, last, none = partition[3][group], partition[3][group + 1], grad_b1[group, t][:0]
        gemm_tn_rows(begin, end, first, last, p, grad_s, grad_w1[group, t], none)
        gemm_tn_rows(begin, end, first, last, grads[weights[0].shape[0] - 1 - t], grad_q, grad_w2[group, t], none)
        if t > 0:
            gemm_tn_rows(f, stop, first, last, grad_y[t], grad_grads[t % 2], grad_w0[group, t], none)


DOUBLE_BACKWARD = BlockProgram("double_backward", _double_start, _double_pairs, _double_atoms, _double_weights)


def interactions_double_backward(
    tangent: Tensor,
    weights: Weights,
    basis: Tensor,
    half_list: SplineGraph,
    n_neighbors: Tensor | None,
    kept: Activations,
    passed: Backward,
    *,
    grad_basis: bool = False,
) -> SecondGradients:
    """Gradients of the product of ``tangent`` with the gradient with respect to pairs that the backward pass found.

    Args:
        tangent: Shape ``[P, 4]``.
        weights: Weights of the blocks.
        basis: Spline basis h of each pair, shape ``[P, 4]``.
        half_list: Pairs, each once, sorted by target.
        n_neighbors: Number of neighbours by which convolutions are divided, shape ``[N]``.
        kept: Intermediate results of :func:`pyg_schnet.backends.numba.interactions_forward`.
        passed: Intermediate results of :func:`pyg_schnet.backends.numba.interactions_backward`.
        grad_basis: Whether the gradient with respect to h is needed.
    """
    learned, real = Gradients.empty(weights, len(kept.groups) - 1), weights.w0.dtype
    grad_grads, grad_hidden, grad_inner, grad_r, grad_s, grad_q = empties(
        [
            (2, *passed.grads.shape[1:]),
            kept.hidden.shape,
            kept.slope.shape,
            kept.hidden.shape[1:],
            kept.hidden.shape[1:],
            kept.slope.shape[1:],
        ],
        real,
    )
    grad_grads[0], grad_r[...] = 0, 0
    edges = zeros((len(basis) if grad_basis else 0, 4), real)
    state = (kept.hidden, kept.slope), tuple(passed), (grad_r, grad_s, grad_q)
    found = grad_grads, edges, grad_hidden, grad_inner, *learned
    run_blocks(
        DOUBLE_BACKWARD, kept.groups, weights, basis, half_list, n_neighbors, *state, found, pairs=(array(tangent),)
    )
    grad_tables, grad_w0, grad_w1, grad_w2 = Gradients.total([learned[k] for k in (0, 1, 2, 4)])  # biases do not enter
    top = grad_grads[len(weights.tables) % 2]
    return SecondGradients(
        top, edges if grad_basis else None, grad_hidden, grad_inner, grad_tables, grad_w0, grad_w1, grad_w2
    )
