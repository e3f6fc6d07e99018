r"""The convolution and its derivatives on undirected graphs: a pair of atoms is evaluated once for both directions.

With pairs p of atoms i and j, the form is

.. math::
    L(g, x, C, h) = \sum_p \sum_f (g_{i, f}\, x_{j, f} + g_{j, f}\, x_{i, f}) \sum_m h_{p, m}\, C_{k(p) + m, f}

Since a row is written from several others, threads share the features rather than the rows. Each feature is summed by
one thread in the order of the pairs, so results do not depend on the number of threads.
"""

from __future__ import annotations

from numba import prange
from torch import Tensor

from pyg_schnet.backends.numba.lib.compiler import njit
from pyg_schnet.backends.numba.lib.parallel import PRODUCT_OPTIONS, Cut, array, arrays_of, by_work, evenly, run
from pyg_schnet.backends.numba.lib.simd import (
    NARROW,
    WIDE,
    add,
    at,
    fill,
    fma,
    lanes,
    load,
    multiply,
    narrow,
    one,
    prefetch,
    store,
    total,
    wide,
)
from pyg_schnet.ops.graph import SplineGraph

_AHEAD = 24  # atoms; those of a small molecule come one after the other


@njit(**PRODUCT_OPTIONS)
def fetch_ahead(zero, values, place) -> None:
    """Ask for the columns of an atom that comes later, before they are needed; as many as ``zero`` has elements."""
    place += _AHEAD * values.shape[1]
    for f in range(0, lanes(zero), NARROW // values.itemsize):
        prefetch(values, place + f)


@njit(**PRODUCT_OPTIONS)
def _convolve_columns(zero, f, first, last, x, c, h, bins, source, ptr, out) -> None:
    """As many columns of the convolution as ``zero`` has elements, from column f on."""
    n_features = x.shape[1]
    for i in range(first, last):
        store(out, i * n_features + f, zero)
    for i in range(first, last):
        row = i * n_features + f
        x_i, sum_i = load(zero, x, row), zero
        for p in range(at(ptr, i), at(ptr, i + 1)):
            j, k = at(source, p) * n_features + f, at(bins, p) * n_features + f
            w = multiply(fill(zero, h, 4 * p), load(zero, c, k))
            w = fma(fill(zero, h, 4 * p + 1), load(zero, c, k + n_features), w)
            w = fma(fill(zero, h, 4 * p + 2), load(zero, c, k + 2 * n_features), w)
            w = fma(fill(zero, h, 4 * p + 3), load(zero, c, k + 3 * n_features), w)
            sum_i = fma(load(zero, x, j), w, sum_i)
            store(out, j, fma(x_i, w, load(zero, out, j)))
        store(out, row, add(sum_i, load(zero, out, row)))


@njit(**PRODUCT_OPTIONS)
def convolve_columns(begin, end, first, last, x, c, h, bins, source, ptr, out) -> None:
    """Columns of the convolution, of atoms that have no pair with others than those from ``first`` to ``last``."""
    f = begin
    while f + WIDE // x.itemsize <= end:
        _convolve_columns(wide(x), f, first, last, x, c, h, bins, source, ptr, out)
        f += WIDE // x.itemsize
    while f + NARROW // x.itemsize <= end:
        _convolve_columns(narrow(x), f, first, last, x, c, h, bins, source, ptr, out)
        f += NARROW // x.itemsize
    while f < end:
        _convolve_columns(one(x), f, first, last, x, c, h, bins, source, ptr, out)
        f += 1


@njit(parallel=True, **PRODUCT_OPTIONS)
def _convolve_parallel(bounds, first, last, x, c, h, bins, source, ptr, out) -> None:
    for part in prange(bounds.shape[0] - 1):
        convolve_columns(bounds[part], bounds[part + 1], first, last, x, c, h, bins, source, ptr, out)


@njit(**PRODUCT_OPTIONS)
def _coefficient_columns(zero, f, first, last, g, x, h, bins, source, ptr, out) -> None:
    n_features = x.shape[1]
    for k in range(out.shape[0]):
        store(out, k * n_features + f, zero)
    for i in range(first, last):
        row = i * n_features + f
        g_i, x_i = load(zero, g, row), load(zero, x, row)
        fetch_ahead(zero, g, row)
        fetch_ahead(zero, x, row)
        for p in range(at(ptr, i), at(ptr, i + 1)):
            j, k = at(source, p) * n_features + f, at(bins, p) * n_features + f
            product = fma(g_i, load(zero, x, j), multiply(load(zero, g, j), x_i))
            for m in range(4):
                store(out, k, fma(fill(zero, h, 4 * p + m), product, load(zero, out, k)))
                k += n_features


@njit(**PRODUCT_OPTIONS)
def coefficients_of_columns(begin, end, first, last, g, x, h, bins, source, ptr, out) -> None:
    """Columns of the gradient by coefficients, of the pairs of the atoms from ``first`` to ``last``."""
    f = begin
    while f + WIDE // x.itemsize <= end:
        _coefficient_columns(wide(x), f, first, last, g, x, h, bins, source, ptr, out)
        f += WIDE // x.itemsize
    while f + NARROW // x.itemsize <= end:
        _coefficient_columns(narrow(x), f, first, last, g, x, h, bins, source, ptr, out)
        f += NARROW // x.itemsize
    while f < end:
        _coefficient_columns(one(x), f, first, last, g, x, h, bins, source, ptr, out)
        f += 1


@njit(parallel=True, **PRODUCT_OPTIONS)
def _coefficients_parallel(bounds, first, last, g, x, h, bins, source, ptr, out) -> None:
    for part in prange(bounds.shape[0] - 1):
        coefficients_of_columns(bounds[part], bounds[part + 1], first, last, g, x, h, bins, source, ptr, out)


@njit(**PRODUCT_OPTIONS)
def _dots_of_columns(zero, first, last, i, p, g, x, c, bins, source, out) -> None:
    """Add the products of some columns of pair p, of atom i, to ``out``."""
    n_features = x.shape[1]
    i, j, k = i * n_features, at(source, p) * n_features, at(bins, p) * n_features
    s0, s1, s2, s3 = zero, zero, zero, zero
    for f in range(first, last, lanes(zero)):
        product = fma(load(zero, g, i + f), load(zero, x, j + f), multiply(load(zero, g, j + f), load(zero, x, i + f)))
        s0 = fma(product, load(zero, c, k + f), s0)
        s1 = fma(product, load(zero, c, k + n_features + f), s1)
        s2 = fma(product, load(zero, c, k + 2 * n_features + f), s2)
        s3 = fma(product, load(zero, c, k + 3 * n_features + f), s3)
    out[p, 0] += total(s0)
    out[p, 1] += total(s1)
    out[p, 2] += total(s2)
    out[p, 3] += total(s3)


@njit(**PRODUCT_OPTIONS)
def dots_of_pairs(begin, end, g, x, c, bins, source, ptr, out) -> None:
    """Add the gradient by the weights of the pairs of some rows to ``out``."""
    n_features = x.shape[1]
    after_wide = n_features - n_features % (WIDE // x.itemsize)
    after_narrow = n_features - n_features % (NARROW // x.itemsize)
    for i in range(begin, end):
        for p in range(at(ptr, i), at(ptr, i + 1)):
            _dots_of_columns(wide(x), 0, after_wide, i, p, g, x, c, bins, source, out)
            if after_wide < after_narrow:
                _dots_of_columns(narrow(x), after_wide, after_narrow, i, p, g, x, c, bins, source, out)
            if after_narrow < n_features:
                _dots_of_columns(one(x), after_narrow, n_features, i, p, g, x, c, bins, source, out)


@njit(parallel=True, **PRODUCT_OPTIONS)
def _dots_parallel(bounds, g, x, c, bins, source, ptr, out) -> None:
    for part in prange(bounds.shape[0] - 1):
        dots_of_pairs(bounds[part], bounds[part + 1], g, x, c, bins, source, ptr, out)


def convolve(x: Tensor, coefficients: Tensor, weights: Tensor, graph: SplineGraph) -> Tensor:
    """Derivative of the form by g, and for other arguments by x, shape ``[N, F]``."""
    out = x.new_empty(x.shape)
    arrays = arrays_of(x, coefficients, weights, graph.interval, graph.source, graph.target_ptr)
    run(convolve_columns, _convolve_parallel, _columns(x), _work(x, graph), 0, x.size(0), *arrays, out.numpy())
    return out


def coefficient_gradient(g: Tensor, x: Tensor, weights: Tensor, num_coefficients: int, graph: SplineGraph) -> Tensor:
    """Derivative of the form by C, shape ``[num_coefficients, F]``."""
    out = x.new_empty(num_coefficients, x.size(1))
    arrays = arrays_of(g, x, weights, graph.interval, graph.source, graph.target_ptr)
    rows = 0, x.size(0)
    run(coefficients_of_columns, _coefficients_parallel, _columns(x), _work(x, graph), *rows, *arrays, out.numpy())
    return out


def weight_gradient(g: Tensor, x: Tensor, coefficients: Tensor, graph: SplineGraph) -> Tensor:
    """Derivative of the form by h, shape ``[P, 4]``."""
    out = x.new_zeros(graph.interval.size(0), 4)
    ptr = array(graph.target_ptr)
    arrays = arrays_of(g, x, coefficients, graph.interval, graph.source)
    run(dots_of_pairs, _dots_parallel, by_work(ptr), _work(x, graph), *arrays, ptr, out.numpy())
    return out


def _columns(x: Tensor) -> Cut:
    return evenly(x.size(1), NARROW // x.element_size())


def _work(x: Tensor, graph: SplineGraph) -> int:
    return 2 * graph.interval.size(0) * x.size(1)
