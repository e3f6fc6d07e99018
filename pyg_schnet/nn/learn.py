"""All interaction blocks in one step for training, with the gradient by weights by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyg_schnet.kernels import cpu_kernels, linear, spline_conv
from pyg_schnet.kernels.matmul import forward_linear, forward_product
from pyg_schnet.nn.activation import shifted_softplus
from pyg_schnet.nn.interaction import SchNetInteraction
from pyg_schnet.nn.spline import SplineEdges

_PER_BLOCK = 6


class _Weights(NamedTuple):
    """Table and dense layers of one block."""

    table: Tensor
    w0: Tensor
    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor

    @classmethod
    def of(cls, block: SchNetInteraction, edges: SplineEdges) -> _Weights:
        return cls(
            block.conv.spline.coefficients(edges.first, edges.count),
            block.lin_in.weight,
            block.lin1.weight,
            block.lin1.bias,
            block.lin2.weight,
            block.lin2.bias,
        )


def learn(blocks: Sequence[SchNetInteraction], x: Tensor, edges: SplineEdges) -> Tensor:
    """Atom features after all blocks, differentiable in embeddings and weights but not in distances.

    Args:
        blocks: The blocks in the order they act, such as are written out in :mod:`pyg_schnet.nn.stack`.
        x: Embeddings, shape ``[N, F]``.
        edges: Edges as all blocks see them.

    Returns:
        Shape ``[N, F]``.
    """
    weights = [weight for block in blocks for weight in _Weights.of(block, edges)]
    return _Learn.apply(edges, x, *weights)


def _blocks_of(weights: Sequence[Tensor]) -> list[_Weights]:
    return [_Weights(*weights[k : k + _PER_BLOCK]) for k in range(0, len(weights), _PER_BLOCK)]


class _Learn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, edges: SplineEdges, x: Tensor, *weights: Tensor) -> Tensor:
        kernels, kept = cpu_kernels(), []
        out = x
        for block in _blocks_of(weights):
            hidden = forward_linear(out, block.w0, None)
            summed = _divide(kernels.convolve(hidden, block.table, edges.weights, edges.graph), edges)
            outer, slope = kernels.shifted_softplus(forward_linear(summed, block.w1, block.b1))
            kept.append((out, hidden, summed, outer, slope))
            out = forward_linear(outer, block.w2, block.b2).add_(out)
        ctx.save_for_backward(x, *weights)
        ctx.edges, ctx.kept = edges, kept
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        edges, (x, *weights) = ctx.edges, ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, *_differentiable(edges, [x, *weights], grad)
        kernels, found = cpu_kernels(), []
        graph = edges.graph.with_sources(x.size(0))
        transposed = graph.transposed()
        for block, (before, hidden, summed, outer, slope) in zip(
            reversed(_blocks_of(weights)), reversed(ctx.kept), strict=True
        ):
            by_w2, by_b2 = forward_product(grad.t(), outer), grad.sum(0)
            by_inner = forward_product(grad, block.w2).mul_(slope)
            by_w1, by_b1 = forward_product(by_inner.t(), summed), by_inner.sum(0)
            by_sum = _divide(forward_product(by_inner, block.w1), edges)
            by_table = kernels.coefficient_gradient(by_sum, hidden, edges.weights, block.table.size(0), graph)
            by_hidden = kernels.convolve(by_sum, block.table, edges.weights, transposed)
            by_w0 = forward_product(by_hidden.t(), before)
            grad = forward_product(by_hidden, block.w0).add_(grad)
            found.append((by_table, by_w0, by_w1, by_b1, by_w2, by_b2))
        return None, grad, *(value for values in reversed(found) for value in values)


def _divide(values: Tensor, edges: SplineEdges) -> Tensor:
    """Divide in place by the number of neighbours, where blocks do so."""
    return values if edges.n_neighbors is None else values.div_(edges.n_neighbors.unsqueeze(-1))


def _differentiable(edges: SplineEdges, inputs: list[Tensor], grad: Tensor) -> list[Tensor | None]:
    """Gradients that can be differentiated again."""
    out, *weights = inputs
    for block in _blocks_of(weights):
        summed = spline_conv(linear(out, block.w0), block.table, edges.weights, edges.graph)
        summed = summed if edges.n_neighbors is None else summed / edges.n_neighbors.unsqueeze(-1)
        out = out + linear(shifted_softplus(linear(summed, block.w1, block.b1)), block.w2, block.b2)
    chosen = [value for value in inputs if value.requires_grad]
    found = iter(torch.autograd.grad(out, chosen, grad, create_graph=True, allow_unused=True))
    return [next(found) if value.requires_grad else None for value in inputs]
