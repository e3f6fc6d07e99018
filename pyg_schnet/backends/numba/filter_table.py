r"""Tables of several filter networks in two calls: forward, and backward to their weights.

With the expansion **e** of a sample of the grid, its filter before the window is

.. math::
    \mathbf{f} = \mathrm{ssp}(\mathrm{W}_2\, \mathrm{ssp}(\mathrm{W}_1 \mathbf{e} + \mathbf{b}_1) + \mathbf{b}_2)

or the same without the outer softplus. Window and prefilter follow. Each table is computed by one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import prange
from torch import Tensor

from pyg_schnet.backends.numba.lib.compiler import njit
from pyg_schnet.backends.numba.lib.gemm import (
    TILE,
    ZERO,
    aligned,
    aligned_tile,
    gemm_tn_rows,
    product,
    product_before,
    sums_of_columns,
)
from pyg_schnet.backends.numba.lib.parallel import PRODUCT_OPTIONS, array, empties, empty, num_threads, several
from pyg_schnet.backends.numba.lib.prefilter import filter_rows, filter_rows_transposed
from pyg_schnet.backends.numba.lib.softplus import softplus_rows
from pyg_schnet.backends.numba.lib.stacks import Stacks
from pyg_schnet.backends.numba.lib.transpose import transpose_tiles, whole_tiles
from pyg_schnet.ops.bspline import TAPS

_BEYOND = 4  # samples that a table needs more than it has coefficients


@njit(**PRODUCT_OPTIONS)
def _sample(expansion, w1_t, b1, w2_t, b2, hidden, inner_slope, filters, outer_slope) -> None:
    n_samples, n_filters = filters.shape
    before = aligned_tile(n_filters, filters)
    for i in range(0, n_samples, TILE):
        rows = min(TILE, n_samples - i)
        product_before(rows, expansion, i, w1_t, before, ZERO, (hidden, inner_slope), i)
        softplus_rows(rows, before, b1, i, hidden, inner_slope)
        if outer_slope.shape[0] > 0:
            product_before(rows, hidden, i, w2_t, before, ZERO, (filters, outer_slope), i)
            softplus_rows(rows, before, b2, i, filters, outer_slope)
        else:
            product(rows, hidden, i, w2_t, filters, i)
            for r in range(i, i + rows):
                for f in range(n_filters):
                    filters[r, f] += b2[f]


@njit(**PRODUCT_OPTIONS)
def _descend(grad, outer_slope, w2, inner_slope, grad_inner) -> None:
    """From the gradient by the filters to that by both layers before their softplus, the outer one in place."""
    n_samples, n_filters = grad.shape
    for i in range(0, n_samples, TILE):
        rows = min(TILE, n_samples - i)
        if outer_slope.shape[0] > 0:
            for r in range(i, i + rows):
                for f in range(n_filters):
                    grad[r, f] *= outer_slope[r, f]
        product_before(rows, grad, i, w2, grad_inner, i, (grad_inner, inner_slope), i)
        for r in range(i, i + rows):
            for f in range(n_filters):
                grad_inner[r, f] *= inner_slope[r, f]


@njit(**PRODUCT_OPTIONS)
def _learn_first(expansion, grad_inner, grad_w1, grad_b1) -> None:
    """Gradient by the first layer, transposed: rows of filters fill vectors, those of a few Gaussians do not."""
    n_filters, n_gaussians = grad_w1.shape
    by_w1_t = aligned(n_gaussians * n_filters, grad_w1).reshape(n_gaussians, n_filters)
    gemm_tn_rows(ZERO, n_gaussians, ZERO, len(expansion), expansion, grad_inner, by_w1_t, grad_b1[:0])
    transpose_tiles(0, whole_tiles(n_gaussians), by_w1_t, grad_w1)
    sums_of_columns(ZERO, n_filters, ZERO, len(expansion), grad_inner, grad_b1)


def _make(parallel: bool) -> tuple[Callable, Callable]:
    """Compile both passes for several threads, or for one; see blocks.py for why they differ in more than that."""

    @njit(parallel=parallel, **PRODUCT_OPTIONS)
    def forward(expansion, window, taps, vanishing, weights, transposed, sampled, out) -> None:
        _, b1, _, b2 = weights
        w1_t, w2_t = transposed
        filters, hidden, inner_slope, outer_slope = sampled
        n_tables = out.shape[0] if parallel else len(out)
        for t in prange(n_tables):
            _sample(expansion, w1_t[t], b1[t], w2_t[t], b2[t], hidden[t], inner_slope[t], filters[t], outer_slope[t])
            filter_rows(filters[t], window, taps, vanishing, out[t])

    @njit(parallel=parallel, **PRODUCT_OPTIONS)
    def backward(grad, expansion, window, taps, vanishing, weights, sampled, grad_outer, grad_inner, found) -> None:
        _, _, w2, _ = weights
        _, hidden, inner_slope, outer_slope = sampled
        grad_w1, grad_b1, grad_w2, grad_b2 = found
        n_tables = grad.shape[0] if parallel else len(grad)
        for t in prange(n_tables):
            filter_rows_transposed(grad[t], window, taps, vanishing, grad_outer[t])
            _descend(grad_outer[t], outer_slope[t], w2[t], inner_slope[t], grad_inner[t])
            n_samples, n_filters = hidden.shape[1:]
            _learn_first(expansion, grad_inner[t], grad_w1[t], grad_b1[t])
            gemm_tn_rows(ZERO, n_filters, ZERO, n_samples, grad_outer[t], hidden[t], grad_w2[t], grad_b2[t])

    return forward, backward


_serial, _parallel = _make(False), _make(True)


class Sampled(NamedTuple):
    """Filters of T networks at M samples, each ``[T, M, F]``.

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
    """Weights of T filter networks, the samples all are evaluated at, and what is done with their filters.

    Attributes:
        expansion: Radial expansion of the samples, shape ``[M, num_gaussians]``.
        window: Window at the samples, shape ``[M, 1]``.
        vanishing: Whether the samples reach the cutoff, where value and slope are zero.
        activate: Whether there is an outer softplus.
        weights: Weights ``[T, F, num_gaussians]``, bias ``[T, F]``, weights ``[T, F, F]``, bias ``[T, F]``.
        transposed: Transposes of the weights, ``[T, num_gaussians, F]`` and ``[T, F, F]``.
    """

    expansion: np.ndarray
    window: np.ndarray
    vanishing: bool
    activate: bool
    weights: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
    transposed: tuple[np.ndarray, np.ndarray]

    @classmethod
    def pack(cls, expansion: Tensor, window: Tensor, vanishing: bool, activate: bool, weights: Stacks) -> Networks:
        """Copies of the weights of all networks: w1, b1, w2 and b2, with transposes of w1 and w2."""
        return cls(array(expansion), array(window), vanishing, activate, *map(tuple, weights()))


def tabulate(networks: Networks) -> tuple[Tensor, Sampled]:
    """Spline coefficients of all networks, shape ``[T, M - 4, F]``, and what the gradient needs."""
    expansion, window, vanishing, activate, weights, transposed = networks
    n_tables, n_filters = weights[1].shape
    n_samples = len(expansion)
    shape, dtype = (n_tables, n_samples, n_filters), expansion.dtype
    sampled = Sampled(*empties([shape] * 3 + [shape if activate else (n_tables, 0, n_filters)], dtype))
    out = empty((n_tables, n_samples - _BEYOND, n_filters), dtype)
    taps = np.array([*TAPS, -0.5, 1.0], dtype)
    _run(
        0,
        sampled,
        expansion,
        window,
        taps,
        vanishing,
        weights,
        transposed,
        tuple(sampled),
        out,
    )
    return torch.from_numpy(out), sampled


def table_gradient(grad: Tensor, networks: Networks, sampled: Sampled) -> tuple[Tensor, ...]:
    """Gradients by the weights of all networks, from that by their tables, shape ``[T, M - 4, F]``."""
    expansion, window, vanishing, _, weights, _ = networks
    shapes = [sampled.filters.shape] * 2 + [value.shape for value in weights]
    grad_outer, grad_inner, *found = empties(shapes, expansion.dtype)
    taps = np.array(TAPS, expansion.dtype)
    samples = expansion, window, taps, vanishing
    _run(1, sampled, array(grad), *samples, weights, tuple(sampled), grad_outer, grad_inner, tuple(found))
    return tuple(torch.from_numpy(value) for value in found)


def _run(which: int, sampled: Sampled, *arguments: Any) -> None:
    work = sampled.filters.size * sampled.filters.shape[2]  # products of matrices, ten times as fast as convolutions
    threads = num_threads(work // 10)
    if threads == 1:
        _serial[which](*arguments)
        return
    with several(threads):
        _parallel[which](*arguments)
