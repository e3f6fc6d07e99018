"""What the passes through the interaction blocks start from, leave to each other and find."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.backends.numba.lib.gemm import gemm
from pyg_schnet.backends.numba.lib.parallel import array, empties, empty
from pyg_schnet.backends.numba.lib.stacks import Stacks


class Weights(NamedTuple):
    """Weights of T blocks, each in the order in which its rows are read, and the features that they start from.

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
        elements: Features of each kind of atom before all blocks, shape ``[Z, F]``.
        first: First dense layer of the first block of these, shape ``[Z, K]``: what depends on the element alone is
            computed for elements, not for atoms.
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
    elements: np.ndarray
    first: np.ndarray

    @classmethod
    def pack(cls, tables: Tensor, dense: Stacks, elements: Tensor) -> Weights:
        """Copies of the dense layers of all blocks, w0, w1, b1, w2 and b2, beside their tables.

        Args:
            tables: Spline coefficients, shape ``[T, M, K]``.
            dense: Gives the dense layers, and the transposes of w0, w1 and w2.
            elements: Features of each kind of atom before all blocks, shape ``[Z, F]``.
        """
        stacked, transposed = dense()
        first = gemm(elements.detach(), torch.from_numpy(transposed[0][0])).numpy()
        return cls(array(tables), *stacked, *transposed, array(elements.detach().clone()), first)


class Steps(NamedTuple):
    """What the forward pass leaves to the backward pass, a layer for each block, or one for all that is written over.

    Attributes:
        x: Features, before each block and after the last one, ``[T + 1, N, F]`` or ``[2, N, F]``.
        hidden: Layers y that are convolved, ``[T, N, K]`` or ``[1, N, K]``.
        summed: Convolved, and divided where blocks do so, likewise.
        outer: Softplus of the layers u, ``[T, N, F]`` or ``[1, N, F]``.
        slope: Its slope, likewise.
        cut: Where the second half of the batch begins, as found by :func:`pyg_schnet.backends.numba.interactions.cut_of`.
    """

    x: np.ndarray
    hidden: np.ndarray
    summed: np.ndarray
    outer: np.ndarray
    slope: np.ndarray
    cut: int

    @classmethod
    def empty(cls, n_atoms: int, weights: Weights, cut: int, for_edges: bool, for_weights: bool) -> Steps:
        """Room for the steps that the gradients by edges, and by weights, need."""
        n_blocks, n_filters, n_features = weights.w0.shape
        kept, learned = n_blocks if for_edges or for_weights else 1, n_blocks if for_weights else 1
        shapes = [
            (n_blocks + 1 if for_weights else 2, n_atoms, n_features),
            (kept, n_atoms, n_filters),
            (learned, n_atoms, n_filters),
            (learned, n_atoms, n_features),
            (kept, n_atoms, n_features),
        ]
        return cls(*(empty(shape, weights.w0.dtype) for shape in shapes), cut)

    @property
    def layers(self) -> tuple[np.ndarray, ...]:
        """What kernels take."""
        return self[:5]


class Descent(NamedTuple):
    """What the backward pass goes through, a layer for each block where its own gradient is asked for.

    Attributes:
        grads: Gradients by features, after all blocks and before each one, going down, ``[T + 1, N, F]``; or
            ``[2, N, F]``, without the first one.
        grad_outer: Gradients by the softplus of the layers u, ``[T, N, F]`` or ``[1, N, F]``.
        grad_sum: Gradients by what was summed in convolutions, ``[T, N, K]`` or ``[1, N, K]``.
        grad_hidden: Gradients by the layers y, likewise; there is none of the first block where nothing below is asked
            for.
        grad_inner: Gradients by the layers u of the block at hand, ``[N, F]``.
    """

    grads: np.ndarray
    grad_outer: np.ndarray
    grad_sum: np.ndarray
    grad_hidden: np.ndarray
    grad_inner: np.ndarray

    @classmethod
    def empty(cls, n_atoms: int, weights: Weights, keep: bool) -> Descent:
        """Room for all layers, or for those that are needed at a time."""
        n_blocks, n_filters, n_features = weights.w0.shape
        kept, real = n_blocks if keep else 1, weights.w0.dtype
        return cls(
            empty((kept + 1, n_atoms, n_features), real),
            empty((kept, n_atoms, n_features), real),
            empty((kept, n_atoms, n_filters), real),
            empty((kept, n_atoms, n_filters), real),
            empty((n_atoms, n_features), real),
        )


class Gradients(NamedTuple):
    """Gradients of a sum over features; those by weights are stacked as in :class:`Weights`, or ``None``.

    Attributes:
        elements: By the features of each kind of atom before all blocks, shape ``[Z, F]``, or ``None``.
        edges: By the weights h of the edges, shape ``[P, 4]``, or ``None``.
        tables: Shape ``[T, M, K]``.
        w0: Shape ``[T, K, F]``.
        w1: Shape ``[T, F, K]``.
        b1: Shape ``[T, F]``.
        w2: Shape ``[T, F, F]``.
        b2: Shape ``[T, F]``.
    """

    elements: np.ndarray | None
    edges: np.ndarray | None
    tables: np.ndarray | None = None
    w0: np.ndarray | None = None
    w1: np.ndarray | None = None
    b1: np.ndarray | None = None
    w2: np.ndarray | None = None
    b2: np.ndarray | None = None

    @staticmethod
    def empty(weights: Weights, cut: int, wanted: bool = True) -> tuple[np.ndarray, ...]:
        """Room for the gradients by weights, each half of the atoms on its own; none if they are not wanted.

        Args:
            weights: The weights.
            cut: Where the second half begins; 0 for a batch that does not fall into halves.
            wanted: Whether they are.
        """
        halves = 2 if cut > 0 else 1
        return tuple(empties([(halves, *(w if wanted else w[:0]).shape) for w in weights[:6]], weights.w0.dtype))

    @staticmethod
    def total(halves: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """Sum of the halves."""
        return tuple(np.add(*value, out=value[0]) if len(value) == 2 else value[0] for value in halves)
