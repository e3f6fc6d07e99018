r"""All interaction blocks in one step for training, on properties and on forces, with gradients by hand.

A block is, with its table C and the weights h of the edges,

.. math::
    \mathbf{y} = \mathrm{W}_0 \mathbf{x}, \quad
    \mathbf{u} = \mathrm{W}_1\, \mathrm{conv}(\mathbf{y}, C, h) + \mathbf{b}_1, \quad
    \mathbf{x}' = \mathbf{x} + \mathrm{W}_2\, \mathrm{ssp}(\mathbf{u}) + \mathbf{b}_2

The first features are the embeddings of the elements, which belong to the step. :class:`_Learn` goes through all
blocks, and its backward through their gradient. Forces are part of the loss when one trains on them; then that
gradient, from the top of the blocks to the edges, is a step of its own (:class:`_Slopes`), and has a gradient by hand
as well. What is asked beyond that is left to autograd.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.engine.tables import Tables
from pyg_schnet.nn.activation import shifted_softplus
from pyg_schnet.nn.interaction import SchNetInteraction
from pyg_schnet.nn.spline import SplineEdges
from pyg_schnet.ops import cpu_kernels, linear, spline_conv
from pyg_schnet.ops._autograd import gradients_of, needs_any_grad, needs_grad

_PER_BLOCK = 5


class _Weights(NamedTuple):
    """Dense layers of one block."""

    w0: Tensor
    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor


class DenseLayers:
    """The dense layers of some blocks.

    Args:
        blocks: The blocks in the order they act.

    Attributes:
        weights: Weights of the first block, then those of the next one.
        stacks: The same for the kernels.
    """

    def __init__(self, blocks: Sequence[SchNetInteraction]) -> None:
        self.weights = [weight for block in blocks for weight in dense_layers(block)]
        self.stacks = list(zip(*_by_block(self.weights), strict=True))


def dense_layers(block: SchNetInteraction) -> _Weights:
    """The dense layers of one block."""
    return _Weights(block.lin_in.weight, block.lin1.weight, block.lin1.bias, block.lin2.weight, block.lin2.bias)


def learn(tables: Tables, dense: DenseLayers, elements: Tensor, z: Tensor, edges: SplineEdges) -> Tensor:
    """Atom features after all blocks, differentiable any number of times.

    Args:
        tables: Of the filters of the blocks, such as are written out in :mod:`pyg_schnet.engine.interactions`.
        dense: The dense layers of the blocks.
        elements: Embedding of each kind of atom, shape ``[Z, F]``.
        z: Kind of each atom, shape ``[N]``.
        edges: Edges as all blocks see them, undirected.

    Returns:
        Shape ``[N, F]``.
    """
    coefficients = tables(edges.span)
    return _Learn.apply(edges, dense.stacks, z, elements, edges.weights, coefficients, *dense.weights)[0]


def _by_block(weights: Sequence[Tensor]) -> list[_Weights]:
    return [_Weights(*weights[k : k + _PER_BLOCK]) for k in range(0, len(weights), _PER_BLOCK)]


class _Learn(torch.autograd.Function):
    """Features after all blocks; and y and u of each block, so that gradients which need them flow back from there.

    Those are gradients of the gradient by edges, so y and u are returned only where that is asked for. What is returned
    in the place of u are the slopes of its softplus: nobody needs the values of u.
    """

    @staticmethod
    def forward(
        ctx: Any,
        edges: SplineEdges,
        stacks: Any,
        z: Tensor,
        elements: Tensor,
        h: Tensor,
        tables: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        kernels = cpu_kernels()
        packed = kernels.Weights.pack(tables, stacks, elements)
        out, steps = kernels.interactions_forward(z, packed, h, edges.graph, edges.n_neighbors, for_edges=True, for_weights=True)
        hidden, slopes = (), ()
        if ctx.needs_input_grad[4]:
            hidden, slopes = torch.from_numpy(steps.hidden).unbind(), torch.from_numpy(steps.slope).unbind()
        ctx.save_for_backward(z, elements, h, tables, *weights, *hidden, *slopes)
        ctx.set_materialize_grads(False)
        ctx.edges, ctx.packed, ctx.steps = edges, packed, steps
        return out, *hidden, *slopes

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *grad_steps: Tensor | None) -> tuple[Tensor | None, ...]:
        n_steps = len(grad_steps) // 2
        z, elements, h, tables, *rest = ctx.saved_tensors
        n_weights = len(rest) - 2 * n_steps
        weights, hidden, slopes = rest[:n_weights], rest[n_weights : n_weights + n_steps], rest[n_weights + n_steps :]
        if torch.is_grad_enabled():
            plain = grad is not None and all(grad_step is None for grad_step in grad_steps)
            if plain and not needs_grad(ctx, 3, 1) and not needs_any_grad(ctx, 3):  # for forces
                known = ctx.edges, ctx.packed, ctx.steps, z
                grad_h = _Slopes.apply(*known, grad, elements, h, tables, *weights, *hidden, *slopes)
                return None, None, None, None, grad_h, None, *(None for _ in weights)
            return None, None, None, *_by_autograd(ctx.edges, z, [elements, h, tables, *weights], (grad, *grad_steps))
        found, _ = cpu_kernels().interactions_backward(
            torch.zeros(z.size(0), elements.size(1), dtype=elements.dtype) if grad is None else grad,
            z,
            ctx.packed,
            h,
            ctx.edges.graph,
            ctx.edges.n_neighbors,
            ctx.steps,
            grad_embedding=needs_grad(ctx, 3, 1),
            grad_basis=needs_grad(ctx, 4, 2),
            grad_weights=needs_any_grad(ctx, 3),
            grad_hidden=_stacked(grad_steps[:n_steps], hidden),
            grad_inner=_stacked(grad_steps[n_steps:], slopes),
        )
        grad_embedding, grad_h, grad_tables, *grad_weights = [
            None if value is None else torch.from_numpy(value) for value in found
        ]
        if grad_tables is None:
            return None, None, None, grad_embedding, grad_h, None, *(None for _ in weights)
        each = zip(*[values.unbind() for values in grad_weights], strict=True)
        return None, None, None, grad_embedding, grad_h, grad_tables, *chain.from_iterable(each)


def _stacked(grad_steps: Sequence[Tensor | None], steps: Sequence[Tensor]) -> np.ndarray | None:
    """Gradients by a step of every block in one array; ``None`` where no block has one."""
    if all(grad_step is None for grad_step in grad_steps):
        return None
    first = grad_steps[0]
    if all(grad_step is not None and grad_step._base is first._base is not None for grad_step in grad_steps):
        whole = first._base  # as :class:`_Slopes` cut it into pieces
        if whole.shape == (len(steps), *steps[0].shape) and whole.is_contiguous():
            places = [grad_step.storage_offset() for grad_step in grad_steps]
            if places == [whole.storage_offset() + k * steps[0].numel() for k in range(len(steps))]:
                return whole.numpy()
    pairs = zip(grad_steps, steps, strict=True)
    return torch.stack([torch.zeros_like(step) if grad is None else grad for grad, step in pairs]).numpy()


class _Slopes(torch.autograd.Function):
    r"""Gradient of a sum over features by the weights h of the edges, as a function of all it depends on.

    With :math:`\mathbf{g}` above a block, :math:`\mathbf{q} = \mathbf{g} \mathrm{W}_2`,
    :math:`\mathbf{p} = \mathbf{q} \circ \sigma(\mathbf{u})`, :math:`\mathbf{s} = \mathbf{p} \mathrm{W}_1`, the block
    adds :math:`\partial_h L(\mathbf{s}, \mathbf{y}, C, h)`, and below it the gradient is
    :math:`\mathbf{g} + \partial_y L(\mathbf{s}, \mathbf{y}, C, h)\, \mathrm{W}_0`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        edges: SplineEdges,
        packed: Any,
        steps: Any,
        z: Tensor,
        grad: Tensor,
        elements: Tensor,
        h: Tensor,
        tables: Tensor,
        *rest: Tensor,
    ) -> Tensor:
        found, descent = cpu_kernels().interactions_backward(grad, z, packed, h, edges.graph, edges.n_neighbors, steps, keep=True)
        ctx.save_for_backward(z, grad, elements, h, tables, *rest)
        ctx.edges, ctx.known = edges, (steps, descent)
        ctx.packed = packed
        return torch.from_numpy(found.basis)

    @staticmethod
    def backward(ctx: Any, tangent: Tensor) -> tuple[Tensor | None, ...]:
        edges = ctx.edges
        z, grad, elements, h, tables, *rest = ctx.saved_tensors
        n_blocks = tables.size(0)
        if torch.is_grad_enabled():
            return _slopes_by_autograd(edges, z, grad, elements, h, tables, rest[: -2 * n_blocks], tangent)
        grad_basis = needs_grad(ctx, 6, 3)
        found = cpu_kernels().interactions_double_backward(
            tangent, ctx.packed, h, edges.graph, edges.n_neighbors, *ctx.known, grad_basis=grad_basis
        )
        grad_grad, grad_h, grad_hidden, grad_inner, grad_tables, *grad_weights = (
            None if value is None else torch.from_numpy(value) for value in found
        )
        grad_w0, grad_w1, grad_w2 = (value.unbind() for value in grad_weights)
        each = (value for k in range(n_blocks) for value in (grad_w0[k], grad_w1[k], None, grad_w2[k], None))
        return (
            None,
            None,
            None,
            None,
            grad_grad,
            None,
            grad_h,
            grad_tables,
            *each,
            *grad_hidden.unbind(),
            *grad_inner.unbind(),
        )


def _by_functions(
    edges: SplineEdges, z: Tensor, elements: Tensor, h: Tensor, tables: Tensor, *weights: Tensor
) -> tuple[Tensor, ...]:
    """What :class:`_Learn` returns, by functions that autograd knows."""
    x, hidden, inner = elements.index_select(0, z), [], []
    for table, block in zip(tables, _by_block(weights), strict=True):
        hidden.append(linear(x, block.w0))
        summed = spline_conv(hidden[-1], table, h, edges.graph)
        summed = summed if edges.n_neighbors is None else summed / edges.n_neighbors.unsqueeze(-1)
        inner.append(linear(summed, block.w1, block.b1))
        x = x + linear(shifted_softplus(inner[-1]), block.w2, block.b2)
    return x, *hidden, *inner


def _by_autograd(
    edges: SplineEdges, z: Tensor, inputs: list[Tensor], grads: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Gradients that can be differentiated again, for all inputs that have one."""
    return gradients_of(lambda *inputs: _by_functions(edges, z, *inputs), inputs, grads)


def _slopes_by_autograd(
    edges: SplineEdges,
    z: Tensor,
    grad: Tensor,
    elements: Tensor,
    h: Tensor,
    tables: Tensor,
    weights: Sequence[Tensor],
    tangent: Tensor,
) -> tuple[Tensor | None, ...]:
    """Gradients of :class:`_Slopes` that can be differentiated again; y and u are taken for functions of the others."""

    def grad_basis(grad: Tensor, elements: Tensor, h: Tensor, tables: Tensor, *weights: Tensor) -> Tensor:
        out = _by_functions(edges, z, elements, h, tables, *weights)[0]
        return torch.autograd.grad(out, h, grad, create_graph=True)[0]  # h is an alias, of which nothing else is made

    found = gradients_of(grad_basis, [grad, elements, h, tables, *weights], tangent)
    steps = 2 * (len(weights) // _PER_BLOCK)
    return None, None, None, None, *found, *(None for _ in range(steps))
