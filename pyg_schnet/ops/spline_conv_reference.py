"""The kernels in plain torch: any device, any floating dtype, each line the formula."""

from __future__ import annotations

import torch
from torch import Tensor

from pyg_schnet.ops.bspline import SPAN, interpolate
from pyg_schnet.ops.graph import SplineGraph


def spline_conv(x: Tensor, coefficients: Tensor, weights: Tensor, graph: SplineGraph) -> Tensor:
    """Derivative of the form by g: the convolution itself, shape ``[N_dst, F]``."""
    messages = x.index_select(0, graph.source) * interpolate(coefficients, weights, graph.bins)
    out = x.new_zeros(graph.target_ptr.size(0) - 1, x.size(1)).index_add_(0, graph.target, messages)
    if graph.undirected:
        out.index_add_(
            0, graph.source, x.index_select(0, graph.target) * interpolate(coefficients, weights, graph.bins)
        )
    return out


def spline_conv_grad_table(g: Tensor, x: Tensor, weights: Tensor, num_coefficients: int, graph: SplineGraph) -> Tensor:
    """Derivative of the form by C, shape ``[num_coefficients, F]``."""
    product = _product(g, x, graph)
    out = x.new_zeros(num_coefficients, x.size(1))
    for m in range(SPAN):
        out.index_add_(0, graph.bins + m, product * weights[:, m : m + 1])
    return out


def spline_conv_grad_basis(g: Tensor, x: Tensor, coefficients: Tensor, graph: SplineGraph) -> Tensor:
    """Derivative of the form by h, shape ``[E, 4]``."""
    product = _product(g, x, graph)
    return torch.stack([(product * coefficients.index_select(0, graph.bins + m)).sum(1) for m in range(SPAN)], 1)


def _product(g: Tensor, x: Tensor, graph: SplineGraph) -> Tensor:
    """What multiplies the filter of each edge, shape ``[E, F]``."""
    product = g.index_select(0, graph.target) * x.index_select(0, graph.source)
    if graph.undirected:
        product += g.index_select(0, graph.source) * x.index_select(0, graph.target)
    return product
