r"""Tables of several filter networks, and their gradients with respect to weights.

With the expansion **e** of a sample of the grid, its filter before the window is

.. math::
    \mathbf{f} = \mathrm{ssp}(\mathrm{W}_2\, \mathrm{ssp}(\mathrm{W}_1 \mathbf{e} + \mathbf{b}_1) + \mathbf{b}_2)

or the same without the outer softplus, followed by refinement where every second sample is given, window and
prefilter. Each table is computed by one thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.backends import tuning
from pyg_schnet.backends.numba.lib.buffers import array, empties, empty, stacked
from pyg_schnet.backends.numba.lib.compiler import ORDERED, njit
from pyg_schnet.backends.numba.lib.gemm import (
    aligned,
    dense_softplus_dense,
    dense_softplus_dense_backward,
    gemm_tn_rows,
    sum_columns,
)
from pyg_schnet.backends.numba.lib.parallel import evenly, run
from pyg_schnet.backends.numba.lib.prefilter import (
    filter_rows,
    filter_rows_transposed,
    refine_rows,
    refine_rows_transposed,
)
from pyg_schnet.backends.numba.lib.simd import ZERO
from pyg_schnet.backends.numba.lib.softplus import softplus
from pyg_schnet.backends.numba.lib.transpose import transposes
from pyg_schnet.ops.bspline import MIDPOINT, TAPS

_BEYOND = 4  # number of samples that a table needs beyond its rows


@njit(**ORDERED)
def _forward(
    begin,
    end,
    expansion,
    window,
    taps,
    midpoint,
    vanishing,
    w1_t,
    b1,
    w2_t,
    b2,
    filters,
    hidden,
    inner_slope,
    outer_slope,
    out,
) -> None:
    n_samples, n_filters = filters.shape[1:]
    for t in range(begin, end):
        activate = outer_slope.shape[1] > 0
        inner = aligned(n_samples, n_filters, expansion) if activate else filters[t]
        layers = w1_t[t], b1[t], w2_t[t], b2[t]
        dense_softplus_dense(ZERO, n_samples, expansion, *layers, inner[:0], hidden[t], inner_slope[t], inner)
        if activate:
            softplus(inner.reshape(-1), filters[t].reshape(-1), outer_slope[t].reshape(-1))
        fine = aligned(len(window), n_filters, expansion) if len(midpoint) > 0 else filters[t]
        if len(midpoint) > 0:
            refine_rows(filters[t], midpoint, fine)
        filter_rows(fine, window, taps, vanishing, out[t])


@njit(**ORDERED)
def _backward(
    begin,
    end,
    grad,
    expansion,
    window,
    taps,
    midpoint,
    vanishing,
    w1,
    w2,
    hidden,
    inner_slope,
    outer_slope,
    grad_outer,
    grad_hidden,
    grad_inner,
    grad_w1_t,
    grad_b1,
    grad_w2,
    grad_b2,
) -> None:
    n_samples, n_filters = hidden.shape[1:]
    for t in range(begin, end):
        grad_outer_t, slope, none = grad_outer[t], inner_slope[t], inner_slope[t][:0]
        fine = aligned(len(window), n_filters, expansion) if len(midpoint) > 0 else grad_outer_t
        filter_rows_transposed(grad[t], window, taps, vanishing, fine)
        if len(midpoint) > 0:
            refine_rows_transposed(fine, midpoint, grad_outer_t)
        if outer_slope.shape[1] > 0:
            for i in range(n_samples):
                for f in range(n_filters):
                    grad_outer_t[i, f] *= outer_slope[t, i, f]
        dense_softplus_dense_backward(
            ZERO, n_samples, grad_outer_t, w2[t], slope, none, w1[t], grad_hidden[t], grad_inner[t], expansion[:0]
        )
        gemm_tn_rows(ZERO, expansion.shape[1], ZERO, n_samples, expansion, grad_inner[t], grad_w1_t[t], grad_b1[t][:0])
        sum_columns(ZERO, n_filters, hidden, ZERO, n_samples, grad_inner[t], grad_b1[t])
        gemm_tn_rows(ZERO, n_filters, ZERO, n_samples, grad_outer_t, hidden[t], grad_w2[t], grad_b2[t])


class Sampled(NamedTuple):
    """Filters of T networks at the M rows of their expansion, each ``[T, M, F]``.

    Attributes:
        filters: Filters without window.
        hidden: Softplus of the first layer.
        inner_slope: Its slope.
        outer_slope: Slope of the outer softplus; ``[T, 0, F]`` without one.
    """

    filters: np.ndarray
    hidden: np.ndarray
    inner_slope: np.ndarray
    outer_slope: np.ndarray


class Networks(NamedTuple):
    """Weights of T filter networks, the samples that all are evaluated at, and options.

    Attributes:
        expansion: Radial expansion of the samples, shape ``[M, num_gaussians]``, or of every second one,
            ``[M // 2 + 9, num_gaussians]``.
        window: Window at the samples, shape ``[M, 1]``.
        vanishing: Whether the samples reach the cutoff, where value and slope are zero.
        refined: Whether filters are interpolated between every second sample.
        activate: Whether there is an outer softplus.
        w1: Weights of the first layer, shape ``[T, F, num_gaussians]``.
        b1: Its bias, shape ``[T, F]``.
        w2: Weights of the second layer, shape ``[T, F, F]``.
        b2: Its bias, shape ``[T, F]``.
    """

    expansion: np.ndarray
    window: np.ndarray
    vanishing: bool
    refined: bool
    activate: bool
    w1: np.ndarray
    b1: np.ndarray
    w2: np.ndarray
    b2: np.ndarray

    @classmethod
    def pack(
        cls,
        expansion: Tensor,
        window: Tensor,
        vanishing: bool,
        refined: bool,
        activate: bool,
        dense: Sequence[Tensor | Sequence[Tensor]],
    ) -> Networks:
        """Weights w1, b1, w2 and b2 of all networks; each stacked, or one tensor for each network."""
        return cls(array(expansion), array(window), vanishing, refined, activate, *map(stacked, dense))


def filter_table(networks: Networks) -> tuple[Tensor, Sampled]:
    """Spline tables of all networks, shape ``[T, M - 4, F]``, and intermediate results for the gradient."""
    expansion, window, vanishing, refined, activate, w1, b1, w2, b2 = networks
    (n_tables, n_filters), n_samples, dtype = b1.shape, len(expansion), expansion.dtype
    shape = n_tables, n_samples, n_filters
    sampled = Sampled(*empties([shape] * 3 + [shape if activate else (n_tables, 0, n_filters)], dtype))
    out = empty((n_tables, len(window) - _BEYOND, n_filters), dtype)
    samples = expansion, window, np.array([*TAPS, -0.5, 1.0], dtype), _midpoint(refined, dtype), vanishing
    layers = transposes(w1), b1, transposes(w2), b2
    run(_forward, evenly(n_tables), _work(sampled), *samples, *layers, *sampled, out)
    return torch.from_numpy(out), sampled


def filter_table_backward(grad: Tensor, networks: Networks, sampled: Sampled) -> tuple[Tensor, ...]:
    """Gradients with respect to the weights of all networks, from that of their tables, shape ``[T, M - 4, F]``."""
    expansion, window, vanishing, refined, _, w1, b1, w2, b2 = networks
    shapes = (len(w1), w1.shape[2], w1.shape[1]), b1.shape, w2.shape, b2.shape  # few Gaussians would not fill vectors
    found = empties(shapes, expansion.dtype)
    passed = empties([sampled.filters.shape] * 3, expansion.dtype)
    midpoint = _midpoint(refined, expansion.dtype)
    samples = expansion, window, np.array(TAPS, expansion.dtype), midpoint, vanishing
    run(_backward, evenly(len(w1)), _work(sampled), array(grad), *samples, w1, w2, *sampled[1:], *passed, *found)
    return tuple(map(torch.from_numpy, (transposes(found[0]), *found[1:])))


def _midpoint(refined: bool, dtype: np.dtype) -> np.ndarray:
    """Weights of the refinement; none without it."""
    return np.array(MIDPOINT if refined else (), dtype)


def _work(sampled: Sampled) -> int:
    return sampled.filters.size * sampled.filters.shape[2] // tuning.current.gemm_speed
