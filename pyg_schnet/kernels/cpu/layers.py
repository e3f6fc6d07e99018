r"""Two dense layers with a shifted softplus between them, for many inputs and few outputs, as readouts have them.

.. math::
    \mathbf{u} = \mathrm{W}_1 \mathbf{x} + \mathbf{b}_1, \quad
    \mathbf{y} = \mathrm{W}_2\, \mathrm{ssp}(\mathbf{u}) + \mathbf{b}_2
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from numba import njit, prange
from torch import Tensor

from pyg_schnet.kernels.cpu.dense import TILE, ZERO, aligned_tile, product, rows_of_product
from pyg_schnet.kernels.cpu.run import PRODUCT_OPTIONS, Cut, arrays_of, evenly, run
from pyg_schnet.kernels.cpu.simd import NARROW, WIDE, fma, lanes, load, narrow, one, total, wide
from pyg_schnet.kernels.cpu.softplus import softplus_rows
from pyg_schnet.kernels.cpu.transpose import transposes

_PRODUCTS_AT_ONCE = 10  # work is counted in products of convolutions, which take so much longer


class LayerGradients(NamedTuple):
    """Gradients of a sum over the outputs; ``None`` where they are not wanted."""

    x: Tensor | None
    w1: Tensor | None = None
    b1: Tensor | None = None
    w2: Tensor | None = None
    b2: Tensor | None = None


@njit(**PRODUCT_OPTIONS)
def _dot(zero, first, last, a, i, b, j) -> float:
    """Product of some columns of row i of one matrix with those of row j of another."""
    s0, i, j = zero, i * a.shape[1], j * b.shape[1]
    for f in range(first, last, lanes(zero)):
        s0 = fma(load(zero, a, i + f), load(zero, b, j + f), s0)
    return total(s0)


@njit(**PRODUCT_OPTIONS)
def _dots(i, hidden, weight, bias, out) -> None:
    n_features = weight.shape[1]
    after_wide = n_features - n_features % (WIDE // weight.itemsize)
    after_narrow = n_features - n_features % (NARROW // weight.itemsize)
    for c in range(weight.shape[0]):
        value = bias[c] + _dot(wide(weight), ZERO, after_wide, hidden, i, weight, c)
        value += _dot(narrow(weight), after_wide, after_narrow, hidden, i, weight, c)
        out[i, c] = value + _dot(one(weight), after_narrow, n_features, hidden, i, weight, c)


@njit(**PRODUCT_OPTIONS)
def ascend_rows(begin, end, x, w1_t, b1, w2, b2, hidden, slope, out) -> None:
    """See :func:`two_layers`; for rows from ``begin`` to ``end``."""
    inner = aligned_tile(w1_t.shape[1], x)
    for i in range(begin, end, TILE):
        rows = min(TILE, end - i)
        product(rows, x, i, w1_t, inner, ZERO)
        softplus_rows(rows, inner, b1, i, hidden, slope)
        for r in range(i, i + rows):
            _dots(r, hidden, w2, b2, out)


@njit(parallel=True, **PRODUCT_OPTIONS)
def _ascend_parallel(bounds, x, w1_t, b1, w2, b2, hidden, slope, out) -> None:
    for part in prange(bounds.shape[0] - 1):
        ascend_rows(bounds[part], bounds[part + 1], x, w1_t, b1, w2, b2, hidden, slope, out)


@njit(**PRODUCT_OPTIONS)
def descend_rows(begin, end, grad, slope, w2, w1, by_inner, by_x) -> None:
    """Gradients by the layer between, before its softplus, and by inputs, unless there is no room for these."""
    n_outputs, n_hidden = w2.shape
    for i in range(begin, end, TILE):
        rows = min(TILE, end - i)
        for r in range(i, i + rows):
            by_inner[r] = 0
            for c in range(n_outputs):
                for f in range(n_hidden):
                    by_inner[r, f] += grad[r, c] * w2[c, f]
            for f in range(n_hidden):
                by_inner[r, f] *= slope[r, f]
        if by_x.shape[0] > 0:
            product(rows, by_inner, i, w1, by_x, i)


@njit(parallel=True, **PRODUCT_OPTIONS)
def _descend_parallel(bounds, grad, slope, w2, w1, by_inner, by_x) -> None:
    for part in prange(bounds.shape[0] - 1):
        descend_rows(bounds[part], bounds[part + 1], grad, slope, w2, w1, by_inner, by_x)


@njit(**PRODUCT_OPTIONS)
def _learn(begin, end, x, by_inner, by_w1, by_b1) -> None:
    rows_of_product(begin, end, ZERO, x.shape[0], by_inner, x, by_w1, by_b1)


@njit(parallel=True, **PRODUCT_OPTIONS)
def _learn_parallel(bounds, x, by_inner, by_w1, by_b1) -> None:
    for part in prange(bounds.shape[0] - 1):
        _learn(bounds[part], bounds[part + 1], x, by_inner, by_w1, by_b1)


def two_layers(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, the softplus between the layers and its slope.

    Args:
        x: Inputs, shape ``[N, F]``.
        w1: Weights of the first layer, shape ``[H, F]``.
        b1: Its bias, shape ``[H]``.
        w2: Weights of the second layer, shape ``[C, H]``.
        b2: Its bias, shape ``[C]``.

    Returns:
        Shapes ``[N, C]``, ``[N, H]`` and ``[N, H]``.
    """
    hidden, out = x.new_empty(x.size(0), w1.size(0)), x.new_empty(x.size(0), w2.size(0))
    slope = torch.empty_like(hidden)
    rows, first, *rest = arrays_of(x, w1, b1, w2, b2, hidden, slope, out)
    run(ascend_rows, _ascend_parallel, *_by_rows(x, w1), rows, transposes(first[None])[0], *rest)
    return out, hidden, slope


def two_layers_gradient(
    grad: Tensor,
    x: Tensor,
    w1: Tensor,
    w2: Tensor,
    hidden: Tensor,
    slope: Tensor,
    *,
    by_x: bool = True,
    by_weights: bool = True,
) -> LayerGradients:
    """Gradients of :func:`two_layers`.

    Args:
        grad: Gradient by the outputs, shape ``[N, C]``.
        x: Inputs, shape ``[N, F]``.
        w1: Weights of the first layer, shape ``[H, F]``.
        w2: Weights of the second layer, shape ``[C, H]``.
        hidden: Softplus between the layers, shape ``[N, H]``.
        slope: Its slope, likewise.
        by_x: Whether the gradient by the inputs is wanted.
        by_weights: Whether those by weights and biases are.
    """
    by_inner, found = torch.empty_like(slope), x.new_empty(x.shape if by_x else (0, x.size(1)))
    run(descend_rows, _descend_parallel, *_by_rows(x, w1), *arrays_of(grad, slope, w2, w1, by_inner, found))
    if not by_weights:
        return LayerGradients(found if by_x else None)
    by_w1, by_b1 = torch.empty_like(w1), w1.new_empty(w1.size(0))
    columns = evenly(w1.size(0), NARROW // x.element_size())
    run(_learn, _learn_parallel, columns, _work(x, w1), *arrays_of(x, by_inner, by_w1, by_b1))
    return LayerGradients(found if by_x else None, by_w1, by_b1, grad.t() @ hidden, grad.sum(0))


def _work(x: Tensor, w1: Tensor) -> int:
    return x.numel() * w1.size(0) // _PRODUCTS_AT_ONCE


def _by_rows(x: Tensor, w1: Tensor) -> tuple[Cut, int]:
    return evenly(x.size(0), TILE), _work(x, w1)
