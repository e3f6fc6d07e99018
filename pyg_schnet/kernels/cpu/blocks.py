r"""The atom-wise half of interaction blocks, forward and backward, each in one pass over the atoms.

Between two convolutions every atom is on its own: dense layers, softplus and residual run through tiles of atoms that
stay in the cache. With the notation of :mod:`pyg_schnet.nn.learn`, from the sum s over the neighbours:

.. math::
    \mathbf{u} = \mathrm{W}_1 \mathbf{s} + \mathbf{b}_1, \quad
    \mathbf{x}' = \mathbf{x} + \mathrm{W}_2\, \mathrm{ssp}(\mathbf{u}) + \mathbf{b}_2, \quad
    \mathbf{y}' = \mathrm{W}_0' \mathbf{x}'
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit, prange
from torch import Tensor

from pyg_schnet.kernels.cpu.dense import PRODUCT_OPTIONS, TILE, product
from pyg_schnet.kernels.cpu.run import array, arrays_of, evenly, run
from pyg_schnet.kernels.cpu.softplus import softplus_row
from pyg_schnet.kernels.cpu.transpose import transpose


@njit(**PRODUCT_OPTIONS)
def _update(begin, end, x, summed, w1_t, b1, w2_t, b2, w0_t, outer, slope, out, hidden) -> None:
    n_features = x.shape[1]
    inner = np.empty((TILE, n_features), x.dtype)
    for i in range(begin, end, TILE):
        rows = min(TILE, end - i)
        product(rows, summed, i, w1_t, inner, 0)
        for r in range(rows):
            for f in range(n_features):
                inner[r, f] += b1[f]
            softplus_row(inner[r], outer[i + r], slope[i + r])
        product(rows, outer, i, w2_t, out, i)
        for r in range(i, i + rows):
            for f in range(n_features):
                out[r, f] += b2[f] + x[r, f]
        if w0_t is not None:
            product(rows, out, i, w0_t, hidden, i)


@njit(parallel=True, **PRODUCT_OPTIONS)
def _update_parallel(bounds, x, summed, w1_t, b1, w2_t, b2, w0_t, outer, slope, out, hidden) -> None:
    for part in prange(bounds.shape[0] - 1):
        _update(bounds[part], bounds[part + 1], x, summed, w1_t, b1, w2_t, b2, w0_t, outer, slope, out, hidden)


@njit(**PRODUCT_OPTIONS)
def _descend(begin, end, by_y, w0, above, slope, extra, w2, w1, grad, by_u, by_sum) -> None:
    n_features = grad.shape[1]
    for i in range(begin, end, TILE):
        rows = min(TILE, end - i)
        if by_y is not None:
            product(rows, by_y, i, w0, grad, i)
            for r in range(i, i + rows):
                for f in range(n_features):
                    grad[r, f] += above[r, f]
        product(rows, grad, i, w2, by_u, i)
        for r in range(i, i + rows):
            for f in range(n_features):
                by_u[r, f] *= slope[r, f]
            if extra is not None:
                for f in range(n_features):
                    by_u[r, f] += extra[r, f]
        product(rows, by_u, i, w1, by_sum, i)


@njit(parallel=True, **PRODUCT_OPTIONS)
def _descend_parallel(bounds, by_y, w0, above, slope, extra, w2, w1, grad, by_u, by_sum) -> None:
    for part in prange(bounds.shape[0] - 1):
        _descend(bounds[part], bounds[part + 1], by_y, w0, above, slope, extra, w2, w1, grad, by_u, by_sum)


class Updated(NamedTuple):
    """Atoms after a block, each ``[N, F]``.

    Attributes:
        x: Features.
        outer: Softplus of the inner layer u.
        slope: Its slope at u.
        y: What the next block convolves, ``[N, K]``; ``None`` after the last block.
    """

    x: Tensor
    outer: Tensor
    slope: Tensor
    y: Tensor | None


def update(x: Tensor, summed: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, w0: Tensor | None) -> Updated:
    """From the convolution of one block to that of the next.

    Args:
        x: Features before the block, shape ``[N, F]``.
        summed: Convolved features, shape ``[N, K]``.
        w1: Weights of the dense layer after the convolution, shape ``[F, K]``.
        b1: Its bias, shape ``[F]``.
        w2: Weights of the last dense layer, shape ``[F, F]``.
        b2: Its bias, shape ``[F]``.
        w0: Weights of the first dense layer of the next block, shape ``[K, F]``, if there is one.
    """
    outer, slope, out = (x.new_empty(x.shape) for _ in range(3))
    y = None if w0 is None else x.new_empty(x.size(0), w0.size(0))
    w1, w2, w0 = transpose(w1), transpose(w2), None if w0 is None else transpose(w0)
    arrays = arrays_of(x, summed, w1, b1, w2, b2, w0, outer, slope, out, y)
    run(_update, _update_parallel, evenly(x.size(0), TILE), x.numel() * x.size(1), *arrays)
    return Updated(out, outer, slope, y)


def descend(
    grad: Tensor,
    slope: Tensor,
    w2: Tensor,
    w1: Tensor,
    *,
    extra: Tensor | None = None,
    by_y: Tensor | None = None,
    w0: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a sum over features, from above a block to its convolution.

    Args:
        grad: By the features after the block, shape ``[N, F]``; with ``by_y`` by those after the block above it.
        slope: Slope of the softplus, shape ``[N, F]``.
        w2: Weights of the last dense layer, shape ``[F, F]``.
        w1: Weights of the dense layer after the convolution, shape ``[F, K]``.
        extra: More gradient by the inner layer u, shape ``[N, F]``.
        by_y: Gradient by what the block above convolves, shape ``[N, K]``; first goes through its dense layer.
        w0: Weights of that layer, shape ``[K, F]``.

    Returns:
        Gradients by the features after the block and by the inner layer u, ``[N, F]``, and by the convolved features,
        ``[N, K]``.
    """
    above = None if by_y is None else array(grad)
    grad = grad.contiguous() if by_y is None else grad.new_empty(grad.shape)
    by_u, by_sum = grad.new_empty(grad.shape), grad.new_empty(grad.size(0), w1.size(1))
    arrays = (*arrays_of(by_y, w0), above, *arrays_of(slope, extra, w2, w1, grad, by_u, by_sum))
    run(_descend, _descend_parallel, evenly(grad.size(0), TILE), grad.numel() * w1.size(1), *arrays)
    return grad, by_u, by_sum
