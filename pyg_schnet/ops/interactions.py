r"""All interaction blocks as one operator on a half list, differentiable any number of times.

A block is, with its table C, the spline basis h of the edges and the number n of neighbours by which it may divide,

.. math::
    \mathbf{y} = \mathrm{W}_0 \mathbf{x}, \quad
    \mathbf{u} = \mathrm{W}_1\, \mathrm{conv}(\mathbf{y}, C, h) / n + \mathbf{b}_1, \quad
    \mathbf{x}' = \mathbf{x} + \mathrm{W}_2\, \mathrm{ssp}(\mathbf{u}) + \mathbf{b}_2

and the features before the first block are the rows :math:`\mathbf{A}_{Z_i}` of the embedding. Three passes have
kernels: forward, backward, and the backward pass of the gradient with respect to h, which training on forces needs
(double backward). Further derivatives are those of :func:`compose`, the formula above in differentiable
operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.ops._autograd import gradients_of, needs_any_grad, needs_grad
from pyg_schnet.ops.dispatch import Backend, kernels_for, other_types
from pyg_schnet.ops.graph import SplineGraph
from pyg_schnet.ops.linear import linear
from pyg_schnet.ops.softplus import shifted_softplus
from pyg_schnet.ops.spline_conv import convolve


class BlockWeights(NamedTuple):
    """Dense layers of one block.

    Attributes:
        w0: Shape ``[K, F]``, K filters and F features.
        w1: Shape ``[F, K]``.
        b1: Shape ``[F]``.
        w2: Shape ``[F, F]``.
        b2: Shape ``[F]``.
    """

    w0: Tensor
    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor


def interactions(
    z: Tensor,
    embedding: Tensor,
    table: Tensor,
    basis: Tensor,
    half_list: SplineGraph,
    weights: Sequence[Tensor],
    n_neighbors: Tensor | None = None,
    *,
    packed: Any = None,
    keep_for_weights: bool = False,
    backend: Backend = "auto",
) -> Tensor:
    """Like :func:`pyg_schnet.ops.interactions`, without checks, for edges that were checked or searched before."""
    tensors = z, embedding, table, basis, half_list.interval, half_list.source, half_list.target_ptr, n_neighbors
    others = weights if packed is None or torch.is_grad_enabled() else ()  # those that are packed were looked at
    refusal = other_types(embedding, table, basis, *others)
    kernels = kernels_for(backend, *tensors, *others, needs="interactions_forward", unless=refusal)
    if kernels is None:
        inner: Backend = "reference" if backend == "reference" else "auto"
        return compose(z, half_list, n_neighbors, embedding, basis, table, *weights, backend=inner)[0]
    call = _Call(kernels, z, half_list, n_neighbors, packed, keep_for_weights)
    if not torch.is_grad_enabled():
        return call.forward(call.pack(table, weights, embedding), basis, keep=False)[0]
    return InteractionsFunction.apply(call, embedding, basis, table, *weights)[0]


def pack_interactions(
    table: Tensor, weights: Sequence[Tensor], embedding: Tensor, *, backend: Backend = "auto"
) -> Any | None:
    """Copies of tables, dense layers and embedding in the order in which the kernels of a backend read them.

    Args:
        table: Shape ``[T, num_intervals + 3, K]``.
        weights: As in :func:`interactions`.
        embedding: Shape ``[Z, F]``.
        backend: How it is computed.

    Returns:
        Argument ``packed`` of :func:`interactions`; ``None`` where there are no kernels.
    """
    kernels = kernels_for(backend, table, *weights, embedding, needs="interactions_forward")
    return None if kernels is None else _pack(kernels, table, weights, embedding)


def compose(
    z: Tensor,
    half_list: SplineGraph,
    n_neighbors: Tensor | None,
    embedding: Tensor,
    basis: Tensor,
    table: Tensor,
    *weights: Tensor,
    backend: Backend = "auto",
) -> tuple[Tensor, ...]:
    """The blocks by smaller operators on directed edges, with the outputs of :class:`InteractionsFunction`.

    Returns:
        Features ``[N, F]``; the layers y of each block, ``[N, K]``; the layers u of each block, ``[N, F]``.
    """
    graph, both = half_list.in_both_directions(), torch.cat([basis, basis])
    return _compose_directed(z, graph, n_neighbors, embedding, both, table, *weights, backend=backend)


def directed_interactions(
    z: Tensor,
    embedding: Tensor,
    table: Tensor,
    basis: Tensor,
    graph: SplineGraph,
    weights: Sequence[Tensor],
    n_neighbors: Tensor | None = None,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """Like :func:`interactions`, on directed edges, by one operator after the other.

    Args:
        z: Row of the embedding for each atom, shape ``[N]``; not checked.
        embedding: Features of each element before the blocks, shape ``[Z, F]``.
        table: Spline table of each block, shape ``[T, num_intervals + 3, K]``.
        basis: Spline basis h of each edge, shape ``[E, 4]``.
        graph: Edges, in all orders that derivatives need.
        weights: The five ``BlockWeights`` of the first block, then those of the next one.
        n_neighbors: Divisor of the convolution at each atom, shape ``[N]``; ``None`` for plain sums.
        backend: How the operators are computed.

    Returns:
        Shape ``[N, F]``.
    """
    return _compose_directed(z, graph, n_neighbors, embedding, basis, table, *weights, backend=backend)[0]


def _compose_directed(
    z: Tensor,
    graph: SplineGraph,
    n_neighbors: Tensor | None,
    embedding: Tensor,
    basis: Tensor,
    table: Tensor,
    *weights: Tensor,
    backend: Backend,
) -> tuple[Tensor, ...]:
    x, hidden, inner = embedding.index_select(0, z), [], []
    for rows, block in zip(table, _by_block(weights), strict=True):
        hidden.append(linear(x, block.w0))
        summed = convolve(hidden[-1], rows, basis, graph, backend=backend)
        summed = summed if n_neighbors is None else summed / n_neighbors.unsqueeze(-1)
        inner.append(linear(summed, block.w1, block.b1))
        x = x + linear(shifted_softplus(inner[-1], backend=backend), block.w2, block.b2)
    return x, *hidden, *inner


def _by_block(weights: Sequence[Tensor]) -> list[BlockWeights]:
    size = len(BlockWeights._fields)
    return [BlockWeights(*weights[k : k + size]) for k in range(0, len(weights), size)]


def _pack(kernels: ModuleType, table: Tensor, weights: Sequence[Tensor], embedding: Tensor) -> Any:
    with torch.no_grad():
        return kernels.Weights.pack(table, list(zip(*_by_block(weights), strict=True)), embedding)


class _Call(NamedTuple):
    """Arguments of the passes that are not differentiated."""

    kernels: ModuleType
    z: Tensor
    half_list: SplineGraph
    n_neighbors: Tensor | None
    packed: Any
    for_weights: bool

    def pack(self, table: Tensor, weights: Sequence[Tensor], embedding: Tensor) -> Any:
        """Weights for the kernels."""
        return _pack(self.kernels, table, weights, embedding) if self.packed is None else self.packed

    def forward(self, packed: Any, basis: Tensor, keep: bool = True, for_weights: bool = False) -> tuple[Tensor, Any]:
        """Features after the blocks, and intermediate results for the backward pass."""
        return self.kernels.interactions_forward(
            self.z, packed, basis, self.half_list, self.n_neighbors, for_edges=keep, for_weights=for_weights
        )

    def backward(self, grad: Tensor, basis: Tensor, steps: Any, **options: Any) -> tuple[list[Tensor | None], Any]:
        """Gradients of embedding, basis, table and weights, and intermediate results for double backward."""
        found, kept = self.kernels.interactions_backward(
            grad, self.z, self.packed, basis, self.half_list, self.n_neighbors, steps, **options
        )
        return _tensors(found), kept

    def double_backward(self, tangent: Tensor, basis: Tensor, steps: Any, kept: Any, grad_basis: bool) -> list:
        """Gradients of the product of ``tangent`` with the gradient with respect to the basis."""
        return _tensors(
            self.kernels.interactions_double_backward(
                tangent, self.packed, basis, self.half_list, self.n_neighbors, steps, kept, grad_basis=grad_basis
            )
        )

    def compose(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """:func:`compose` for these atoms and edges."""
        return compose(self.z, self.half_list, self.n_neighbors, *inputs)


def _tensors(arrays: Sequence[np.ndarray | None]) -> list[Tensor | None]:
    return [None if value is None else torch.from_numpy(value) for value in arrays]


class InteractionsFunction(torch.autograd.Function):
    """Features after all blocks, and the layers y and u of each block.

    The layers are inputs of :class:`GradBasisFunction`, the gradient with respect to the basis, and its gradients flow
    back through them. They are returned only where the basis requires a gradient; the slopes of the softplus stand for
    u, which is never read.
    """

    @staticmethod
    def forward(
        ctx: Any, call: _Call, embedding: Tensor, basis: Tensor, table: Tensor, *weights: Tensor
    ) -> tuple[Tensor, ...]:
        """Features, with layers y and slopes if the basis requires a gradient."""
        call = call._replace(packed=call.pack(table, weights, embedding))
        out, steps = call.forward(call.packed, basis, for_weights=call.for_weights)
        layers: tuple[Tensor, ...] = ()
        if ctx.needs_input_grad[2]:
            layers = (*torch.from_numpy(steps.hidden).unbind(), *torch.from_numpy(steps.slope).unbind())
        ctx.save_for_backward(embedding, basis, table, *weights, *layers)
        ctx.set_materialize_grads(False)
        ctx.call, ctx.steps = call, steps
        return out, *layers

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *grad_layers: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients with respect to embedding, basis, table and weights."""
        call, saved = ctx.call, ctx.saved_tensors
        split = len(saved) - len(grad_layers)
        inputs, layers = saved[:split], saved[split:]
        of_basis = needs_grad(ctx, 2, 1)
        of_weights, of_embedding = needs_any_grad(ctx, 2), needs_grad(ctx, 1, 0)
        if kernels_for("auto", grad, *grad_layers) is None:  # several gradients at once
            return None, *gradients_of(call.compose, inputs, (grad, *grad_layers))
        if torch.is_grad_enabled():
            of_features = grad is not None and all(value is None for value in grad_layers)
            if of_features and of_basis and not of_weights and not of_embedding:  # for forces
                grad_basis = GradBasisFunction.apply(call, ctx.steps, grad, *inputs, *layers)
                return None, None, grad_basis, *(None for _ in inputs[2:])
            return None, *gradients_of(call.compose, inputs, (grad, *grad_layers))
        _, basis, _, *weights = inputs
        steps, n_blocks = ctx.steps, len(grad_layers) // 2
        if (of_weights or of_embedding) and not call.for_weights:
            steps = call.forward(call.packed, basis, for_weights=True)[1]
        if grad is None:
            grad = torch.zeros(call.z.size(0), inputs[0].size(1), dtype=inputs[0].dtype)
        (grad_embedding, grad_basis, grad_table, *stacked), _ = call.backward(
            grad,
            basis,
            steps,
            grad_embedding=of_embedding,
            grad_basis=of_basis,
            grad_weights=of_weights,
            grad_hidden=_stacked(grad_layers[:n_blocks], layers[:n_blocks]),
            grad_inner=_stacked(grad_layers[n_blocks:], layers[n_blocks:]),
        )
        if grad_table is None:
            return None, grad_embedding, grad_basis, None, *(None for _ in weights)
        return None, grad_embedding, grad_basis, grad_table, *_unstacked(stacked)


class GradBasisFunction(torch.autograd.Function):
    r"""Gradient of a sum over features with respect to the basis h, as a function of all its inputs.

    With :math:`\mathbf{g}` above a block, :math:`\mathbf{q} = \mathbf{g} \mathrm{W}_2`,
    :math:`\mathbf{p} = \mathbf{q} \circ \sigma(\mathbf{u})`, :math:`\mathbf{s} = \mathbf{p} \mathrm{W}_1 / n`, a block
    adds :math:`\partial_h L(\mathbf{s}, \mathbf{y}, C, h)`, and below it the gradient is
    :math:`\mathbf{g} + \partial_y L(\mathbf{s}, \mathbf{y}, C, h)\, \mathrm{W}_0`. The layers y and u are inputs, of
    which the gradients go back through :class:`InteractionsFunction`.
    """

    @staticmethod
    def forward(ctx: Any, call: _Call, steps: Any, grad: Tensor, *inputs: Tensor) -> Tensor:
        """The gradient with respect to the basis."""
        (_, grad_basis, *_), kept = call.backward(grad, inputs[1], steps, keep=True)
        assert grad_basis is not None
        ctx.save_for_backward(grad, *inputs)
        ctx.call, ctx.known = call, (steps, kept)
        return grad_basis

    @staticmethod
    def backward(ctx: Any, tangent: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients with respect to all inputs of this gradient."""
        call, saved = ctx.call, ctx.saved_tensors
        n_blocks = saved[3].size(0)
        if torch.is_grad_enabled() or kernels_for("auto", tangent) is None:  # y and u as functions of the others
            found = gradients_of(_composed_grad_basis(call), saved[: -2 * n_blocks], tangent)
            return None, None, *found, *(None for _ in range(2 * n_blocks))
        grad_grad, grad_basis, hidden, inner, grad_table, w0, w1, w2 = call.double_backward(
            tangent, saved[2], *ctx.known, grad_basis=needs_grad(ctx, 4, 2)
        )
        weights = _unstacked([w0, w1, None, w2, None])
        return None, None, grad_grad, None, grad_basis, grad_table, *weights, *hidden.unbind(), *inner.unbind()


def _composed_grad_basis(call: _Call) -> Any:
    """The gradient with respect to the basis in operations of torch, a function of ``grad`` and all inputs."""

    def grad_basis(grad: Tensor, embedding: Tensor, basis: Tensor, *rest: Tensor) -> Tensor:
        out = call.compose(embedding, basis, *rest)[0]
        return torch.autograd.grad(out, basis, grad, create_graph=True)[0]  # an alias, of which nothing else is made

    return grad_basis


def _unstacked(stacked: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Gradients of each block's weights in the order of the inputs, from those of all blocks together."""
    n_blocks = next(len(value) for value in stacked if value is not None)
    rows = [[None] * n_blocks if value is None else value.unbind() for value in stacked]
    return list(chain.from_iterable(zip(*rows, strict=True)))


def _stacked(grads: Sequence[Tensor | None], layers: Sequence[Tensor]) -> np.ndarray | None:
    """Gradients of the layers of all blocks in one array, ``None`` where there is none."""
    if all(grad is None for grad in grads):
        return None
    whole = None if grads[0] is None else grads[0]._base  # as :class:`GradBasisFunction` unbound it
    is_whole = whole is not None and all(grad is not None and grad._base is whole for grad in grads)
    if whole is not None and is_whole and whole.shape == (len(layers), *layers[0].shape) and whole.is_contiguous():
        places = [grad.storage_offset() for grad in grads if grad is not None]
        if places == [whole.storage_offset() + k * layers[0].numel() for k in range(len(layers))]:
            return whole.numpy()
    pairs = zip(grads, layers, strict=True)
    return torch.stack([torch.zeros_like(layer) if grad is None else grad for grad, layer in pairs]).numpy()
