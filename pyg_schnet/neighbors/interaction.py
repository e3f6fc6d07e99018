"""The radius graph as a module, for models that build their own graph."""

from __future__ import annotations

import torch
from torch import Tensor

from pyg_schnet.geometry import edge_distances
from pyg_schnet.neighbors.backend import Backend
from pyg_schnet.neighbors.radius import radius_graph
from pyg_schnet.ops.checks import positive_length


class InteractionGraph(torch.nn.Module):
    """Complete radius graph with distances, the ``interaction_graph`` of PyG's SchNet.

    ``torch_geometric.nn.models.SchNet(interaction_graph=InteractionGraph(10.0))`` then sees every neighbour, needs no
    pyg-lib, and keeps PyG's names: ``edge_weight`` are the distances, differentiable in the positions. Pass the same
    cutoff to both.

    Args:
        cutoff: Cutoff in Å.
        backend: How to search, see :func:`~pyg_schnet.neighbors.radius_graph`.

    Raises:
        ValueError: If ``cutoff`` is not a positive finite length.

    Example:
        >>> graph = InteractionGraph(cutoff=2.0)
        >>> graph(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.5]]), torch.tensor([0, 0]))
        (tensor([[1, 0],
                [0, 1]]), tensor([1.5000, 1.5000]))
    """

    def __init__(self, cutoff: float, backend: Backend = "auto"):
        super().__init__()
        self.cutoff = positive_length(cutoff)
        self.backend = backend

    def forward(self, pos: Tensor, batch: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return ``edge_index`` ``[2, E]`` and the distances in Å ``[E]`` of positions ``[N, 3]`` in Å."""
        edge_index = radius_graph(pos, self.cutoff, batch, backend=self.backend)
        return edge_index, edge_distances(pos, edge_index)

    def extra_repr(self) -> str:
        """Options shown by ``print``."""
        return f"cutoff={self.cutoff}, backend={self.backend!r}"
