"""All interaction blocks in one step, with the gradient by distances by hand."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pyg_schnet.engine.tables import Tables
from pyg_schnet.nn.interaction import SchNetInteraction
from pyg_schnet.nn.spline import SplineEdges, SplineFilter
from pyg_schnet.nn.versioned_cache import VersionedCache
from pyg_schnet.ops import cpu_kernels
from pyg_schnet.ops._autograd import gradients_of, needs_any_grad, needs_grad
from pyg_schnet.ops.dispatch import is_dense_cpu
from pyg_schnet.ops.interactions import DenseLayers, dense_layers, learn
from pyg_schnet.ops.no_parameter_grad import parameter_grads_are_off
from pyg_schnet.ops.standard import ModuleSnapshot, is_unmodified


class Stack:
    r"""Blocks as one step, for those who evaluate them again and again; what was found out about them is kept.

    .. math:: \mathbf{x} \leftarrow \mathbf{x} + \mathbf{W}_2\, \mathrm{ssp}(\mathbf{W}_1\, \mathbf{y} + \mathbf{b}_1)
              + \mathbf{b}_2, \qquad \mathbf{y} = \mathrm{cfconv}(\mathbf{W}_0 \mathbf{x})

    Small structures spend their time in calls rather than in sums, large ones in memory. Here all blocks are one call
    of :mod:`pyg_schnet.backends.numba.interactions` forward, and one backward for forces. Gradients by weights, and those that
    are to be differentiated again, are computed by the blocks themselves. Training is such a step as well
    (:func:`pyg_schnet.ops.interactions.learn`).

    Copies start empty.

    Args:
        looks: Whether changes of parts and weights are looked for; see :func:`pyg_schnet.engine.freeze`.
    """

    def __init__(self, looks: bool = True) -> None:
        self.looks = looks
        self._plan: Plan | None = None

    def __reduce__(self) -> tuple[type[Stack], tuple[bool]]:
        return Stack, (self.looks,)

    def forget(self) -> None:
        """Find out again what there is to know when it is needed next."""
        self._plan = None

    def __call__(
        self, blocks: list[nn.Module], embedding: nn.Embedding, z: Tensor, edges: SplineEdges
    ) -> Tensor | None:
        """Atom features after all blocks, those of calling one block after the other.

        Args:
            blocks: The blocks in the order they act.
            embedding: Embedding of the elements.
            z: Atomic numbers, shape ``[N]``.
            edges: Edges as all blocks see them.

        Returns:
            Shape ``[N, F]``; ``None`` where embedding and blocks are to be called, as with hooks, directed graphs, on
            other devices than CPUs, or for atomic numbers that have no embedding.
        """
        if torch.is_autocast_enabled("cpu") or not edges.graph.undirected or not _is_lookup(embedding, z):
            return None
        elements, plan = embedding.weight, self.plan(blocks)
        if not plan.usable or not all(spline.fits(edges) for spline in plan.splines):
            return None
        if plan.training:
            return learn(plan.tables, plan.dense, elements, z, edges) if torch.is_grad_enabled() else None
        packed = plan.packed(elements)
        stack = _Stacked(blocks, plan.pack(elements) if packed is None else packed, z, edges, plan.given)
        if not torch.is_grad_enabled():
            return stack.forward(edges.weights, keep=False)[0]
        if parameter_grads_are_off():
            return _Interact.apply(stack, elements.detach(), edges.weights)
        asked = (weight for weight in plan.weights if weight.requires_grad)
        return _Interact.apply(stack, elements, edges.weights, *asked)

    def plan(self, blocks: list[nn.Module]) -> Plan:
        """What is known of blocks, found out again where they have changed."""
        known = self._plan
        if known is None or known.blocks != blocks or (self.looks and not known.seen.unchanged()):
            known = self._plan = Plan.of(blocks, self.looks)
        return known


class Plan(NamedTuple):
    """What is known of blocks until they change.

    Attributes:
        blocks: The blocks in the order they act.
        seen: The blocks as they were.
        usable: Whether they are such as are written out here; the rest means nothing otherwise.
        training: Whether one of them is in training mode.
        splines: Splined filters of the blocks, each once.
        tables: Makes the tables of all blocks.
        dense: Their dense layers.
        given: Weights and buffers of each block.
        weights: All of these.
        key: What packed weights depend on beside weights.
        kept: Packed weights.
        grid: Grid of the tables in evaluation mode, for kernels; ``None`` in training, or where blocks differ in it.
    """

    blocks: list[nn.Module]
    seen: ModuleSnapshot
    usable: bool
    training: bool
    splines: list[SplineFilter]
    tables: Tables | None
    dense: DenseLayers | None
    given: dict[SchNetInteraction, list[Tensor]]
    weights: list[Tensor]
    key: Hashable
    kept: VersionedCache
    grid: Any = None

    @classmethod
    def of(cls, blocks: list[nn.Module], looks: bool = True) -> Plan:
        """Find out what there is to know."""
        seen, different = ModuleSnapshot(dict.fromkeys(blocks)), list(dict.fromkeys(blocks))
        if not (seen.standard and different and all(map(_is_ours, different)) and _are_alike(different)):
            return cls(blocks, seen, False, False, [], None, None, {}, [], None, VersionedCache())
        given = {block: _weights_of(block) for block in different}
        splines = [block.conv.spline for block in different]
        weights = [weight for values in given.values() for weight in values]
        key, training = tuple(spline.key for spline in splines), any(block.training for block in different)
        tables, dense = Tables([block.conv.spline for block in blocks]), DenseLayers(blocks)
        grids = {(spline.num_grid_points - 1, float(spline.cutoff), different[0].conv.normalize) for spline in splines}
        evaluated = not any(module.training for block in different for module in block.modules())
        grid = cpu_kernels().Grid(*grids.pop()) if len(grids) == 1 and evaluated else None
        return cls(
            blocks, seen, True, training, splines, tables, dense, given, weights, key, VersionedCache(looks), grid
        )

    def packed(self, elements: Tensor) -> Any:
        """Weights as the kernels take them, packed anew if they have changed; ``None`` where that cannot be seen."""
        return self.kept.get([elements, *self.weights], self.key, lambda: self.pack(elements))

    @torch.no_grad()
    def pack(self, elements: Tensor) -> Any:
        """Weights as the kernels take them."""
        return cpu_kernels().Weights.pack(self.tables(), self.dense.stacks, elements)


def _weights_of(block: SchNetInteraction) -> list[Tensor]:
    """Weights and buffers; by hand, since ``parameters()`` takes as long as a matrix product."""
    network = block.conv.filter_network
    layers = (block.lin1, block.lin2, network.lin1, network.lin2)
    basis = (*network.basis.parameters(), *network.basis.buffers())
    return [block.lin_in.weight, *(value for layer in layers for value in (layer.weight, layer.bias)), *basis]


def _names_of(block: SchNetInteraction) -> list[str]:
    """Names of :func:`_weights_of`."""
    names = {id(value): name for name, value in (*block.named_parameters(), *block.named_buffers())}
    return [names[id(weight)] for weight in _weights_of(block)]


def _is_lookup(embedding: nn.Module, z: Tensor) -> bool:
    """Whether an embedding is nothing but rows of its weights, and has one for every atom."""
    if type(embedding) is not nn.Embedding or not is_unmodified(embedding):
        return False
    if embedding.max_norm is not None or embedding.scale_grad_by_freq or embedding.sparse or embedding.padding_idx:
        return False
    if z.numel() == 0 or not is_dense_cpu(z, (torch.int64,)) or not is_dense_cpu(embedding.weight):
        return False
    low, high = torch.aminmax(z)
    return int(low) >= 0 and int(high) < embedding.num_embeddings


def _is_ours(block: nn.Module) -> bool:
    """Whether a standard module is a block as it is written out below and in :mod:`pyg_schnet.ops.interactions`."""
    if type(block) is not SchNetInteraction or block.conv.spline is None:
        return False
    network = block.conv.filter_network
    layers = (block.lin1, block.lin2, network.lin1, network.lin2)
    weights = (block.lin_in.weight, *(value for layer in layers for value in (layer.weight, layer.bias)))
    return block.lin_in.bias is None and all(weight is not None and is_dense_cpu(weight) for weight in weights)


def _are_alike(blocks: Sequence[SchNetInteraction]) -> bool:
    """Whether the layers of all blocks have the same shapes and types, and what they sum is treated alike."""
    shapes = {tuple((weight.shape, weight.dtype) for weight in dense_layers(block)) for block in blocks}
    return len(shapes) == 1 and len({block.conv.normalize for block in blocks}) == 1


class _Stacked(NamedTuple):
    """The blocks, their weights packed for the kernels, atoms, edges, and the weights as they were given."""

    blocks: Sequence[SchNetInteraction]
    weights: Any
    z: Tensor
    edges: SplineEdges
    given: dict[SchNetInteraction, list[Tensor]]

    def forward(self, h: Tensor, keep: bool) -> tuple[Tensor, Any]:
        """Features, and what the gradient needs of this pass if it is to be kept."""
        graph, counts = self.edges.graph, self.edges.n_neighbors
        return cpu_kernels().interactions_forward(self.z, self.weights, h, graph, counts, for_edges=keep)

    def backward(self, h: Tensor, grad: Tensor, steps: Any, grad_embedding: bool) -> tuple[Tensor | None, Tensor]:
        """Gradients by embeddings, where wanted, and by the weights of the edges."""
        graph, counts = self.edges.graph, self.edges.n_neighbors
        found, _ = cpu_kernels().interactions_backward(
            grad, self.z, self.weights, h, graph, counts, steps, grad_embedding=grad_embedding
        )
        return None if found.embedding is None else torch.from_numpy(found.embedding), torch.from_numpy(found.basis)


class _Interact(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stack: _Stacked, elements: Tensor, h: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(elements, h, *parameters)
        out, kept = stack.forward(h, keep=True)
        ctx.stack, ctx.kept = stack, kept
        ctx.places = {id(parameter): k for k, parameter in enumerate(parameters)}
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        elements, h, *parameters = ctx.saved_tensors
        grad_parameters = needs_any_grad(ctx, 2)
        if torch.is_grad_enabled() or grad_parameters:
            return None, *_by_blocks(ctx.stack, ctx.places, [elements, h, *parameters], grad)
        grad_embedding, grad_basis = ctx.stack.backward(h, grad, ctx.kept, needs_grad(ctx, 1, 0))
        return None, grad_embedding, grad_basis, *(None for _ in parameters)


def _by_blocks(stack: _Stacked, places: dict[int, int], inputs: list[Tensor], grad: Tensor) -> list[Tensor | None]:
    """Gradients that the blocks themselves give, for all inputs that have one; with the weights of the forward pass.

    Args:
        stack: Blocks, atoms and edges.
        places: Which of the parameters each weight is, by its ``id``.
        inputs: Embeddings, weights of the edges, parameters.
        grad: Gradient with respect to the features.
    """

    def composed(elements: Tensor, h: Tensor, *parameters: Tensor) -> Tensor:
        x, edges = elements.index_select(0, stack.z), stack.edges._replace(weights=h)
        for block in stack.blocks:
            given = stack.given[block]
            values = [parameters[places[id(value)]] if id(value) in places else value for value in given]
            x = functional_call(block, dict(zip(_names_of(block), values, strict=True)), (x, None, None, None, edges))
        return x

    return gradients_of(composed, inputs, grad)
