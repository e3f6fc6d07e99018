r"""Two dense layers with a shifted softplus between them, for many inputs and few outputs, as in readouts.

.. math::
    \mathbf{u} = \mathrm{W}_1 \mathbf{x} + \mathbf{b}_1, \quad
    \mathbf{y} = \mathrm{W}_2\, \mathrm{ssp}(\mathbf{u}) + \mathbf{b}_2
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.backends import tuning
from pyg_schnet.backends.numba.lib.buffers import array, arrays_of, empties
from pyg_schnet.backends.numba.lib.compiler import ORDERED, njit
from pyg_schnet.backends.numba.lib.gemm import (
    TILE,
    dense_softplus_dense,
    dense_softplus_dense_backward,
    gemm_tn_rows,
)
from pyg_schnet.backends.numba.lib.parallel import evenly, run
from pyg_schnet.backends.numba.lib.simd import ZERO
from pyg_schnet.backends.numba.lib.transpose import transposes


class LayerGradients(NamedTuple):
    """Gradients of a sum over the outputs; ``None`` where they are not needed."""

    x: Tensor | None
    w1: Tensor | None = None
    b1: Tensor | None = None
    w2: Tensor | None = None
    b2: Tensor | None = None


@njit(**ORDERED)
def _backward(
    begin,
    end,
    groups,
    grad,
    x,
    w1,
    w2,
    hidden,
    slope,
    grad_hidden,
    grad_inner,
    grad_x,
    grad_w1,
    grad_b1,
    grad_w2,
    grad_b2,
) -> None:
    """Gradients of some groups of rows; those of weights only if their arrays are not empty."""
    for group in range(begin, end):
        first, last = groups[group], groups[group + 1]
        dense_softplus_dense_backward(first, last, grad, w2, slope, slope[:0], w1, grad_hidden, grad_inner, grad_x)
        if grad_w1.shape[0] > 0:
            gemm_tn_rows(ZERO, w1.shape[0], first, last, grad_inner, x, grad_w1[group], grad_b1[group])
            gemm_tn_rows(ZERO, w2.shape[0], first, last, grad, hidden, grad_w2[group], grad_b2[group])


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
    slope, (first, second) = torch.empty_like(hidden), (transposes(array(w)[None])[0] for w in (w1, w2))
    rows, bias1, bias2, *found = arrays_of(x, b1, b2, hidden, slope, out)
    layers = rows, first, bias1, second, bias2, found[2][:0]
    run(dense_softplus_dense, evenly(x.size(0), TILE), _work(x, w1), *layers, *found)
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
        grad: Gradient with respect to the outputs, shape ``[N, C]``.
        x: Inputs, shape ``[N, F]``.
        w1: Weights of the first layer, shape ``[H, F]``.
        w2: Weights of the second layer, shape ``[C, H]``.
        hidden: Softplus between the layers, shape ``[N, H]``.
        slope: Its slope, shape ``[N, H]``.
        grad_x: Whether the gradient with respect to the inputs is needed.
        grad_weights: Whether the gradients with respect to weights and biases are needed.
    """
    (n_rows, n_features), (n_outputs, n_hidden), values = x.shape, w2.shape, tuning.current
    groups = evenly(n_rows, TILE)(min(max(-(-n_rows // values.mlp_group_rows), 1), values.mlp_most_groups))
    n_groups = len(groups) - 1
    n_learned, arrays = n_groups if grad_weights else 0, arrays_of(grad, x, w1, w2, hidden, slope)
    shapes = (n_hidden, n_features), (n_hidden,), (n_outputs, n_hidden), (n_outputs,)
    learned = empties([(n_learned, *shape) for shape in shapes], arrays[1].dtype)
    grad_layers = empties([slope.shape, slope.shape, (n_rows if grad_x else 0, n_features)], arrays[1].dtype)
    run(_backward, evenly(n_groups), _work(x, w1), groups, *arrays, *grad_layers, *learned)
    found = torch.from_numpy(grad_layers[2]) if grad_x else None
    if not grad_weights:
        return LayerGradients(found)
    return LayerGradients(found, *(torch.from_numpy(np.add.reduce(each, axis=0)) for each in learned))


def _work(x: Tensor, w1: Tensor) -> int:
    return x.numel() * w1.size(0) // tuning.current.gemm_speed
