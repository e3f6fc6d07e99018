r"""Filter networks on the samples of a grid, forward and backward, each in one pass over the samples.

With the expansion **e** of a sample, the filter before the window is

.. math::
    \mathbf{f} = \mathrm{ssp}(\mathrm{W}_2\, \mathrm{ssp}(\mathrm{W}_1 \mathbf{e} + \mathbf{b}_1) + \mathbf{b}_2)

or the same without the outer softplus.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit, prange
from torch import Tensor

from pyg_schnet.kernels.cpu.dense import PRODUCT_OPTIONS, TILE, product
from pyg_schnet.kernels.cpu.run import arrays_of, evenly, run
from pyg_schnet.kernels.cpu.softplus import softplus_row
from pyg_schnet.kernels.cpu.transpose import transpose


@njit(**PRODUCT_OPTIONS)
def _sample(begin, end, expansion, w1_t, b1, w2_t, b2, hidden, inner_slope, filters, outer_slope) -> None:
    n_filters = filters.shape[1]
    before = np.empty(n_filters, filters.dtype)
    for i in range(begin, end, TILE):
        rows = min(TILE, end - i)
        product(rows, expansion, i, w1_t, hidden, i)
        for r in range(i, i + rows):
            for f in range(n_filters):
                before[f] = hidden[r, f] + b1[f]
            softplus_row(before, hidden[r], inner_slope[r])
        product(rows, hidden, i, w2_t, filters, i)
        for r in range(i, i + rows):
            for f in range(n_filters):
                filters[r, f] += b2[f]
            if outer_slope is not None:
                for f in range(n_filters):
                    before[f] = filters[r, f]
                softplus_row(before, filters[r], outer_slope[r])


@njit(parallel=True, **PRODUCT_OPTIONS)
def _sample_parallel(bounds, expansion, w1_t, b1, w2_t, b2, hidden, inner_slope, filters, outer_slope) -> None:
    for part in prange(bounds.shape[0] - 1):
        _sample(
            bounds[part],
            bounds[part + 1],
            expansion,
            w1_t,
            b1,
            w2_t,
            b2,
            hidden,
            inner_slope,
            filters,
            outer_slope,
        )


@njit(**PRODUCT_OPTIONS)
def _descend(begin, end, grad, outer_slope, w2, inner_slope, by_inner) -> None:
    n_filters = grad.shape[1]
    for i in range(begin, end, TILE):
        rows = min(TILE, end - i)
        if outer_slope is not None:
            for r in range(i, i + rows):
                for f in range(n_filters):
                    grad[r, f] *= outer_slope[r, f]
        product(rows, grad, i, w2, by_inner, i)
        for r in range(i, i + rows):
            for f in range(n_filters):
                by_inner[r, f] *= inner_slope[r, f]


@njit(parallel=True, **PRODUCT_OPTIONS)
def _descend_parallel(bounds, grad, outer_slope, w2, inner_slope, by_inner) -> None:
    for part in prange(bounds.shape[0] - 1):
        _descend(bounds[part], bounds[part + 1], grad, outer_slope, w2, inner_slope, by_inner)


class Sampled(NamedTuple):
    """Filters of M samples, each ``[M, F]``.

    Attributes:
        filters: Filters without window.
        hidden: Softplus of the first layer.
        inner_slope: Its slope.
        outer_slope: Slope of the outer softplus; ``None`` without one.
    """

    filters: Tensor
    hidden: Tensor
    inner_slope: Tensor
    outer_slope: Tensor | None


def sample_filters(expansion: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, activate: bool) -> Sampled:
    """Evaluate a filter network.

    Args:
        expansion: Radial expansion of M distances, shape ``[M, num_gaussians]``.
        w1: Weights of the first layer, shape ``[F, num_gaussians]``.
        b1: Its bias, shape ``[F]``.
        w2: Weights of the second layer, shape ``[F, F]``.
        b2: Its bias, shape ``[F]``.
        activate: Whether there is an outer softplus.
    """
    hidden, inner_slope, filters = (w1.new_empty(expansion.size(0), w1.size(0)) for _ in range(3))
    outer_slope = w1.new_empty(filters.shape) if activate else None
    arrays = arrays_of(expansion, transpose(w1), b1, transpose(w2), b2, hidden, inner_slope, filters, outer_slope)
    run(_sample, _sample_parallel, evenly(expansion.size(0), TILE), filters.numel() * w2.size(1), *arrays)
    return Sampled(filters, hidden, inner_slope, outer_slope)


def sampled_gradient(grad: Tensor, sampled: Sampled, w2: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients by both layers before their softplus, the outer one written to ``grad``, each ``[M, F]``."""
    by_inner = grad.new_empty(sampled.hidden.shape)
    arrays = arrays_of(grad, sampled.outer_slope, w2, sampled.inner_slope, by_inner)
    run(_descend, _descend_parallel, evenly(grad.size(0), TILE), grad.numel() * w2.size(1), *arrays)
    return grad, by_inner
