"""Energies of the atoms of one domain, by the layers of a model, with features exchanged before each block."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pyg_schnet.interfaces.lammps.exchange import ExchangePlan
from pyg_schnet.interfaces.lammps.halo import extend
from pyg_schnet.models.graph import embed
from pyg_schnet.nn import CFConv, SchNetInteraction
from pyg_schnet.nn.conv import SplineEdges, neighbor_counts
from pyg_schnet.ops import spline_basis, spline_graph
from pyg_schnet.ops.modules import may_fuse

_Spline = tuple[Any, Tensor]

_RECOMPUTED = 65_536
"""Own atoms from which on the inside of a block is computed again in the backward pass, rather than kept."""


class DomainModel:
    r"""The atom-wise energies of a model on one domain of a structure that is spread over ranks.

    A block of SchNet reads the features of an atom's neighbours in its convolution only,

    .. math:: \mathbf{x}_i' = f\bigl(\mathbf{x}_i, \{(\mathbf{x}_j, d_{ij})\}_j\bigr)

    so a rank computes the blocks of its own atoms, and needs before each block the features of the atoms around its
    domain from their owners. What is exchanged are the features that are convolved, which ``lin_in`` has made; the
    first block needs no exchange, since its features follow from the elements.

    Unmodified blocks with splined filters share spline basis and orders of edges. Other ones are called with pairs
    ``(x_src, x_dst)``. In domains of many atoms, what is between the exchanged features and the end of a block is
    computed again in the backward pass, which takes less memory and no further exchange.

    Args:
        model: Frozen model (:func:`pyg_schnet.engine.freeze`).

    Example:
        >>> import numpy as np
        >>> from types import SimpleNamespace
        >>> from pyg_schnet import SchNet
        >>> from pyg_schnet.engine import freeze
        >>> plan = ExchangePlan(SimpleNamespace(size=1, rank=0), np.arange(2), np.arange(0))
        >>> z, edge_index, dist = torch.tensor([6, 8]), torch.tensor([[1, 0], [0, 1]]), torch.tensor([1.1, 1.1])
        >>> DomainModel(freeze(SchNet(16, 16, 2, cutoff=5.0)))(z, plan, edge_index, dist).shape
        torch.Size([2])
    """

    def __init__(self, model: Any) -> None:
        self.embedding, self.readout = model.embedding, model.readout
        self.blocks = [(block, _is_fused(block)) for block in model.blocks()]
        self.repulsion = getattr(model, "repulsion", None)  # of close atoms, by edges alone
        self.cutoff = float(model.cutoff)

    def __call__(self, z: Tensor, plan: ExchangePlan, edge_index: Tensor, dist: Tensor) -> Tensor:
        """Output of the model for each own atom, before it is pooled; collective.

        Args:
            z: Atomic numbers of all rows, shape ``[num_own + num_remote]``.
            plan: Which rows are exchanged.
            edge_index: ``(j, i)``, rows, of the edges to own atoms, sorted by i, shape ``[2, E]``.
            dist: Distances in Å, shape ``[E]``.

        Returns:
            Shape ``[num_own]``.
        """
        n, x = plan.num_own, embed(self.embedding, z)  # of all rows
        edges = _Edges(edge_index, dist, n, z.size(0))
        for k, (block, is_fused) in enumerate(self.blocks):
            features = block.lin_in(x) if is_fused else x
            sources = features if k == 0 else extend(features, plan)
            shared = edges.spline(block.conv) if is_fused else None
            arguments = block, edges, shared, sources, x[:n]
            if n < _RECOMPUTED:
                x = _update(*arguments)
            else:
                x = checkpoint(_update, *arguments, use_reentrant=False, preserve_rng_state=False)
        values = self.readout.atom_values(x[:n], z[:n])[:, 0]
        return values if self.repulsion is None else values + self.repulsion(z, edge_index, dist)[:n]


def _is_fused(block: Any) -> bool:
    return type(block) is SchNetInteraction and may_fuse(block) and block.conv.table is not None


def _update(block: Any, edges: _Edges, shared: _Spline | None, sources: Tensor, own: Tensor) -> Tensor:
    """Features of the own atoms after a block, from features of all rows; those that ``lin_in`` made, with splines."""
    if shared is None:
        return block((sources, own), edges.index, edges.dist, edges.ptr)
    return own + block.lin2(block.act(block.lin1(edges.convolve(block.conv, shared, sources))))


class _Edges:
    """Edges of a domain, with what blocks share."""

    def __init__(self, index: Tensor, dist: Tensor, num_targets: int, num_sources: int) -> None:
        self.index, self.dist = index, dist
        self.num_targets, self.num_sources = num_targets, num_sources
        ends = torch.arange(num_targets + 1)
        self.ptr = torch.searchsorted(index[1].contiguous(), ends)
        self._known: dict[tuple[float, int], _Spline] = {}

    def spline(self, conv: CFConv) -> _Spline:
        """Intervals and orders of edges, and the values of splines, of a convolution with splined filters."""
        assert conv.table is not None
        key = float(conv.cutoff), conv.table.size(0)
        if key not in self._known:
            interval, basis = spline_basis(self.dist, key[0], key[1] - 3, backend=conv.backend)
            graph = spline_graph(interval, self.index, self.num_targets, self.ptr).with_sources(self.num_sources)
            self._known[key] = graph, basis
        return self._known[key]

    def convolve(self, conv: CFConv, shared: _Spline, x: Tensor) -> Tensor:
        """The convolution of a block, shape ``[num_own, F]``."""
        assert conv.table is not None
        out = conv.message_and_aggregate(SplineEdges(*shared, conv.table), x_src=x)
        if not conv.normalize:
            return out
        return out / neighbor_counts(self.index, self.dist.detach(), conv.cutoff, self.num_targets).unsqueeze(1)
