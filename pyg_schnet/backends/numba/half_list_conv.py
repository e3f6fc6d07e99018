r"""The convolution and its derivatives on half lists: a pair of atoms is evaluated once for both directions.

With pairs p of atoms i and j, the form is

.. math::
    L(g, x, C, h) = \sum_p \sum_f (g_{i, f}\, x_{j, f} + g_{j, f}\, x_{i, f}) \sum_m h_{p, m}\, C_{k(p) + m, f}

Since several pairs add to the same row, tasks that do not have their own structures share features rather than rows.
Each feature is summed by one thread in the order of the pairs, so results do not depend on the number of threads.
"""

from __future__ import annotations

from pyg_schnet.backends.numba.lib.compiler import ORDERED, njit
from pyg_schnet.backends.numba.lib.simd import (
    NARROW,
    add,
    at,
    columns,
    fill,
    fma,
    lanes,
    load,
    multiply,
    prefetch,
    store,
)
from pyg_schnet.backends.numba.spline_conv import dots_with_table
from pyg_schnet.backends.tuning import compiled

AHEAD = compiled.atoms_ahead


@njit(**ORDERED)
def _convolve(zero, f, first, last, x, table, basis, interval, source, ptr, out) -> None:
    n_features = x.shape[1]
    for i in range(first, last):
        store(out, i * n_features + f, zero)
    for i in range(first, last):
        row = i * n_features + f
        x_i, sum_i = load(zero, x, row), zero
        for p in range(at(ptr, i), at(ptr, i + 1)):
            j, k = at(source, p) * n_features + f, at(interval, p) * n_features + f
            w = multiply(fill(zero, basis, 4 * p), load(zero, table, k))
            w = fma(fill(zero, basis, 4 * p + 1), load(zero, table, k + n_features), w)
            w = fma(fill(zero, basis, 4 * p + 2), load(zero, table, k + 2 * n_features), w)
            w = fma(fill(zero, basis, 4 * p + 3), load(zero, table, k + 3 * n_features), w)
            sum_i = fma(load(zero, x, j), w, sum_i)
            store(out, j, fma(x_i, w, load(zero, out, j)))
        store(out, row, add(sum_i, load(zero, out, row)))


@njit(**ORDERED)
def fetch_ahead(zero, values, place) -> None:
    """Prefetch the columns of a later atom."""
    place += AHEAD * values.shape[1]
    for f in range(0, lanes(zero), NARROW // values.itemsize):
        prefetch(values, place + f)


@njit(**ORDERED)
def _grad_table(zero, f, first, last, g, x, basis, interval, source, ptr, out) -> None:
    n_features = x.shape[1]
    for k in range(out.shape[0]):
        store(out, k * n_features + f, zero)
    for i in range(first, last):
        g_i, x_i = load(zero, g, i * n_features + f), load(zero, x, i * n_features + f)
        fetch_ahead(zero, g, i * n_features + f)
        fetch_ahead(zero, x, i * n_features + f)
        for p in range(at(ptr, i), at(ptr, i + 1)):
            j, k = at(source, p) * n_features + f, at(interval, p) * n_features + f
            product = fma(g_i, load(zero, x, j), multiply(load(zero, g, j), x_i))
            for m in range(4):
                store(out, k, fma(fill(zero, basis, 4 * p + m), product, load(zero, out, k)))
                k += n_features


convolve, grad_table = columns(_convolve), columns(_grad_table)


@njit(**ORDERED)
def _product(zero, g, x, i, j) -> float:
    return fma(load(zero, g, i), load(zero, x, j), multiply(load(zero, g, j), load(zero, x, i)))


_dots_of_pair = dots_with_table(_product)


@njit(**ORDERED)
def grad_basis(begin, end, g, x, table, interval, source, ptr, out) -> None:
    """Add the gradient with respect to the basis of the pairs of some atoms to ``out``."""
    for i in range(begin, end):
        for p in range(at(ptr, i), at(ptr, i + 1)):
            _dots_of_pair(i, p, g, x, table, interval, source, out)
