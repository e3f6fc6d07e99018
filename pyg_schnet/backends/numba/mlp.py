r"""Two dense layers with a shifted softplus between them, for many inputs and few outputs, as readouts have them.

.. math::
    \mathbf{u} = \mathrm{W}_1 \mathbf{x} + \mathbf{b}_1, \quad
    \mathbf{y} = \mathrm{W}_2\, \mathrm{ssp}(\mathbf{u}) + \mathbf{b}_2
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numba import prange
from torch import Tensor

from pyg_schnet.backends.numba.lib.compiler import njit
from pyg_schnet.backends.numba.lib.gemm import TILE, ZERO, aligned_tile, gemm_tn_rows, product, product_before
from pyg_schnet.backends.numba.lib.parallel import PRODUCT_OPTIONS, Cut, array, arrays_of, evenly, run
from pyg_schnet.backends.numba.lib.simd import NARROW, WIDE, fma, lanes, load, narrow, one, total, wide
from pyg_schnet.backends.numba.lib.softplus import softplus_rows
from pyg_schnet.backends.numba.lib.transpose import transposes

_GROUP, _MOST_GROUPS = 128, 8  # rows whose gradients by weights are summed on their own, whoever does it
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
    """See :func:`mlp`; for rows from ``begin`` to ``end``."""
    inner = aligned_tile(w1_t.shape[1], x)
    for i in range(begin, end, TILE):
        rows = min(TILE, end - i)
        product_before(rows, x, i, w1_t, inner, ZERO, (hidden, slope), i)
        softplus_rows(rows, inner, b1, i, hidden, slope)
        for r in range(i, i + rows):
            _dots(r, hidden, w2, b2, out)


@njit(parallel=True, **PRODUCT_OPTIONS)
def _ascend_parallel(bounds, x, w1_t, b1, w2, b2, hidden, slope, out) -> None:
    for part in prange(bounds.shape[0] - 1):
        ascend_rows(bounds[part], bounds[part + 1], x, w1_t, b1, w2, b2, hidden, slope, out)


@njit(**PRODUCT_OPTIONS)
def descend_rows(begin, end, grad, slope, w2, w1, grad_inner, grad_x) -> None:
    """Gradients by the layer between, before its softplus, and by inputs, unless there is no room for these."""
    n_outputs, n_hidden = w2.shape
    for i in range(begin, end, TILE):
        rows = min(TILE, end - i)
        for r in range(i, i + rows):
            grad_inner[r] = 0
            for c in range(n_outputs):
                for f in range(n_hidden):
                    grad_inner[r, f] += grad[r, c] * w2[c, f]
            for f in range(n_hidden):
                grad_inner[r, f] *= slope[r, f]
        if grad_x.shape[0] > 0:
            product(rows, grad_inner, i, w1, grad_x, i)


@njit(**PRODUCT_OPTIONS)
def _descend_groups(begin, end, groups, grad, x, w1, w2, hidden, slope, grad_inner, grad_x, learned) -> None:
    """All gradients of some groups of rows, those by weights where there is room for them."""
    grad_w1, grad_b1, grad_w2, grad_b2 = learned
    for group in range(begin, end):
        first, last = groups[group], groups[group + 1]
        descend_rows(first, last, grad, slope, w2, w1, grad_inner, grad_x)
        if grad_w1.shape[0] > 0:
            gemm_tn_rows(ZERO, w1.shape[0], first, last, grad_inner, x, grad_w1[group], grad_b1[group])
            gemm_tn_rows(ZERO, w2.shape[0], first, last, grad, hidden, grad_w2[group], grad_b2[group])


@njit(parallel=True, **PRODUCT_OPTIONS)
def _descend_parallel(bounds, groups, grad, x, w1, w2, hidden, slope, grad_inner, grad_x, learned) -> None:
    grad_w1, grad_b1, grad_w2, grad_b2 = learned
    for part in prange(bounds.shape[0] - 1):
        begin, end, room = bounds[part], bounds[part + 1], (grad_w1, grad_b1, grad_w2, grad_b2)
        _descend_groups(begin, end, groups, grad, x, w1, w2, hidden, slope, grad_inner, grad_x, room)


def mlp(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
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


def mlp_backward(
    grad: Tensor,
    x: Tensor,
    w1: Tensor,
    w2: Tensor,
    hidden: Tensor,
    slope: Tensor,
    *,
    grad_x: bool = True,
    grad_weights: bool = True,
) -> LayerGradients:
    """Gradients of :func:`mlp`.

    Args:
        grad: Gradient by the outputs, shape ``[N, C]``.
        x: Inputs, shape ``[N, F]``.
        w1: Weights of the first layer, shape ``[H, F]``.
        w2: Weights of the second layer, shape ``[C, H]``.
        hidden: Softplus between the layers, shape ``[N, H]``.
        slope: Its slope, likewise.
        grad_x: Whether the gradient by the inputs is wanted.
        grad_weights: Whether those by weights and biases are.
    """
    (n_rows, n_features), (n_outputs, n_hidden) = x.shape, w2.shape
    groups = evenly(n_rows, TILE)(min(max(-(-n_rows // _GROUP), 1), _MOST_GROUPS))
    n_groups = len(groups) - 1
    n_learned = n_groups if grad_weights else 0
    shapes = (n_hidden, n_features), (n_hidden,), (n_outputs, n_hidden), (n_outputs,)
    learned = tuple(array(x.new_empty(n_learned, *shape)) for shape in shapes)
    grad_inner, by_x_found = torch.empty_like(slope), x.new_empty(n_rows if grad_x else 0, n_features)
    arrays = arrays_of(grad, x, w1, w2, hidden, slope, grad_inner, by_x_found)
    run(_descend_groups, _descend_parallel, evenly(n_groups), _work(x, w1), groups, *arrays, learned)
    found = by_x_found if grad_x else None
    if not grad_weights:
        return LayerGradients(found)
    return LayerGradients(found, *(torch.from_numpy(np.add.reduce(each, axis=0)) for each in learned))


def _work(x: Tensor, w1: Tensor) -> int:
    return x.numel() * w1.size(0) // _PRODUCTS_AT_ONCE


def _by_rows(x: Tensor, w1: Tensor) -> tuple[Cut, int]:
    return evenly(x.size(0), TILE), _work(x, w1)
