"""PyTorch Geometric's SchNet, which builds its graph by itself: given edges, and its quota of neighbours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn.models import SchNet
from torch_geometric.nn.models.schnet import RadiusInteractionGraph

from pyg_schnet.engine.frozen import copy_of
from pyg_schnet.models.convert.like_pyg import CompleteGraph


class QuotaGraph(nn.Module):
    """Radius graph that keeps a number of neighbours of each atom, the first in the order of atoms.

    Args:
        cutoff: Cutoff in Å.
        max_num_neighbors: Neighbours that are kept.
    """

    def __init__(self, cutoff: float, max_num_neighbors: int) -> None:
        super().__init__()
        self.cutoff, self.max_num_neighbors = cutoff, max_num_neighbors

    def forward(self, pos: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Edges ``(j, i)`` and distances in Å, as PyTorch Geometric's ``interaction_graph`` gives them."""
        close = torch.cdist(pos.detach(), pos.detach(), compute_mode="donot_use_mm_for_euclid_dist") < self.cutoff
        close &= batch.unsqueeze(1) == batch
        close.fill_diagonal_(False)
        close &= close.cumsum(1) <= self.max_num_neighbors  # [i, j]
        i, j = close.nonzero().T
        return torch.stack([j, i]), (pos[j] - pos[i]).norm(dim=-1)

    def extra_repr(self) -> str:
        """Options shown by ``print``."""
        return f"cutoff={self.cutoff}, max_num_neighbors={self.max_num_neighbors}, emulates torch_geometric"


def is_pyg_schnet(model: Any) -> bool:
    """Whether a model is PyTorch Geometric's SchNet or a subclass."""
    return isinstance(model, SchNet)


def swaps_graph(model: Any) -> bool:
    """Whether edges are given to a model by another ``interaction_graph``, rather than with the call."""
    return is_pyg_schnet(model) and not isinstance(model.interaction_graph, CompleteGraph)


def with_running_graph(model: SchNet) -> tuple[SchNet, list[str]]:
    """The model, and what is to be said of its graph.

    Where the library that ``radius_graph`` of PyTorch Geometric needs is missing, a copy with a :class:`QuotaGraph`.
    """
    graph = model.interaction_graph
    if type(graph) is not RadiusInteractionGraph:
        return model, []
    try:
        graph(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
    except ImportError:
        model = copy_of(model)
        model.interaction_graph = QuotaGraph(graph.cutoff, graph.max_num_neighbors)
        note = (
            f"radius_graph cannot run here; its quota, max_num_neighbors={graph.max_num_neighbors}, is emulated by a "
            "graph that keeps as many neighbours of each atom, the first in the order of atoms"
        )
        return model, [note]
    return model, []


@contextlib.contextmanager
def given_graph(model: SchNet, edge_index: Tensor) -> Iterator[None]:
    """Let the model use given edges."""
    before = model.interaction_graph
    del model.interaction_graph  # it may be a module or a function
    model.interaction_graph = _Given(edge_index)
    try:
        yield
    finally:
        del model.interaction_graph
        model.interaction_graph = before


class _Given(nn.Module):
    """An ``interaction_graph`` of given edges."""

    def __init__(self, edge_index: Tensor) -> None:
        super().__init__()
        self.edge_index = edge_index

    def forward(self, pos: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        j, i = self.edge_index
        return self.edge_index, (pos[j] - pos[i]).norm(dim=-1)
