"""Inputs, intermediate results and outputs of the passes through the interaction blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.backends.numba.lib.buffers import array, empties, stacked
from pyg_schnet.backends.numba.lib.gemm import gemm
from pyg_schnet.backends.numba.lib.transpose import transposes


class Weights(NamedTuple):
    """Weights of T blocks in the order in which kernels read them, and the first features.

    Attributes:
        tables: Tables of the splined filters, shape ``[T, M, K]``.
        w0: First dense layer, shape ``[T, K, F]``.
        w1: Second dense layer, shape ``[T, F, K]``.
        b1: Its bias, shape ``[T, F]``.
        w2: Third dense layer, shape ``[T, F, F]``.
        b2: Its bias, shape ``[T, F]``.
        w0_t: Transpose of w0, contiguous, shape ``[T, F, K]``.
        w1_t: Transpose of w1, shape ``[T, K, F]``.
        w2_t: Transpose of w2, shape ``[T, F, F]``.
        embedding: Features of each species before all blocks, shape ``[Z, F]``.
        hidden: First dense layer of the first block for each species, shape ``[Z, K]``.
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
    embedding: np.ndarray
    hidden: np.ndarray

    @classmethod
    def pack(cls, tables: Tensor, dense: Sequence[Tensor | Sequence[Tensor]], embedding: Tensor) -> Weights:
        """The dense layers of all blocks beside their tables.

        Args:
            tables: Tables of the splined filters, shape ``[T, M, K]``.
            dense: w0, w1, b1, w2 and b2; each stacked, or one tensor for each block.
            embedding: Features of each species before all blocks, shape ``[Z, F]``.
        """
        w0, w1, b1, w2, b2 = map(stacked, dense)
        w0_t, w1_t, w2_t = map(transposes, (w0, w1, w2))
        hidden = gemm(embedding.detach(), torch.from_numpy(w0_t[0])).numpy()
        return cls(array(tables), w0, w1, b1, w2, b2, w0_t, w1_t, w2_t, array(embedding.detach().clone()), hidden)


class Activations(NamedTuple):
    """Intermediate results of the forward pass, for each block, or for one block at a time.

    Where only ``outer`` is kept for each block, the backward pass recomputes the others.

    Attributes:
        x: Features, before each block and after the last one, ``[T + 1, N, F]`` or ``[2, N, F]``.
        hidden: Layers y that are convolved, ``[T, N, K]`` or ``[1, N, K]``.
        summed: Convolved features, normalized if blocks do so, ``[T, N, K]`` or ``[1, N, K]``.
        outer: Softplus of the layers u, ``[T, N, F]`` or ``[1, N, F]``.
        slope: Its slope, ``[T, N, F]`` or ``[1, N, F]``.
        groups: Groups of structures, see :func:`pyg_schnet.backends.numba.lib.partition.find_groups`.
    """

    x: np.ndarray
    hidden: np.ndarray
    summed: np.ndarray
    outer: np.ndarray
    slope: np.ndarray
    groups: tuple[int, ...]

    @classmethod
    def empty(
        cls,
        n_atoms: int,
        weights: Weights,
        groups: tuple[int, ...],
        for_edges: bool,
        for_weights: bool,
        recompute: bool = False,
    ) -> Activations:
        """Allocate what gradients with respect to edges, and weights, need, or what they can be recomputed from."""
        n_blocks, n_filters, n_features = weights.w0.shape
        kept, learned = n_blocks if for_edges or for_weights else 1, n_blocks if for_weights else 1
        shapes = [
            (n_blocks + 1 if for_weights else 2, n_atoms, n_features),
            (kept, n_atoms, n_filters),
            (learned, n_atoms, n_filters),
            (n_blocks if recompute else learned, n_atoms, n_features),
            (kept, n_atoms, n_features),
        ]
        return cls(*empties(shapes, weights.w0.dtype), groups)


class Backward(NamedTuple):
    """Intermediate results of the backward pass, for each block if they are differentiated again.

    Attributes:
        grads: Gradients with respect to features, after all blocks and before each one, from last to first,
            ``[T + 1, N, F]``; or ``[2, N, F]``, without the first one.
        grad_outer: Gradients with respect to the softplus of the layers u, ``[T, N, F]`` or ``[1, N, F]``.
        grad_sum: With respect to what convolutions summed, ``[T, N, K]`` or ``[1, N, K]``.
        grad_hidden: With respect to the layers y, ``[T, N, K]`` or ``[1, N, K]``; not for the first block if no
            gradient below it is needed.
        grad_inner: With respect to the layers u of the block at hand, ``[N, F]``.
    """

    grads: np.ndarray
    grad_outer: np.ndarray
    grad_sum: np.ndarray
    grad_hidden: np.ndarray
    grad_inner: np.ndarray

    @classmethod
    def empty(cls, n_atoms: int, weights: Weights, keep: bool) -> Backward:
        """Allocate layers for all blocks, or for one at a time."""
        n_blocks, n_filters, n_features = weights.w0.shape
        kept = n_blocks if keep else 1
        layers = [(kept + 1, n_features), (kept, n_features), (kept, n_filters), (kept, n_filters)]
        shapes = [*((n, n_atoms, width) for n, width in layers), (n_atoms, n_features)]
        return cls(*empties(shapes, weights.w0.dtype))


class Gradients(NamedTuple):
    """Gradients of a sum over features; those with respect to weights are stacked as in :class:`Weights`, or ``None``.

    Attributes:
        embedding: With respect to the features of each species before all blocks, shape ``[Z, F]``, or ``None``.
        basis: With respect to the basis of the pairs, shape ``[P, 4]``, or ``None``.
        tables: Shape ``[T, M, K]``.
        w0: Shape ``[T, K, F]``.
        w1: Shape ``[T, F, K]``.
        b1: Shape ``[T, F]``.
        w2: Shape ``[T, F, F]``.
        b2: Shape ``[T, F]``.
    """

    embedding: np.ndarray | None
    basis: np.ndarray | None
    tables: np.ndarray | None = None
    w0: np.ndarray | None = None
    w1: np.ndarray | None = None
    b1: np.ndarray | None = None
    w2: np.ndarray | None = None
    b2: np.ndarray | None = None

    @staticmethod
    def empty(weights: Weights, n_groups: int, needed: bool = True) -> list[np.ndarray]:
        """Allocate gradients with respect to weights, ``[G, T, ...]``, separate for each group of structures."""
        shapes = [(n_groups, *(values.shape if needed else values[:0].shape)) for values in weights[:6]]
        found = empties(shapes, weights.w0.dtype)
        found[1][:, :1] = 0  # the first dense layer of the first block learns from the sums over species
        return found

    @staticmethod
    def total(groups: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Sums over the groups, in their order."""
        for values in groups:
            for group in values[1:]:
                values[0] += group
        return [values[0] for values in groups]
