"""The models of ``compare_gnns.py``: graph neural networks with the call ``(z, pos, batch)``, on complete graphs.

PyTorch Geometric's models search neighbours with pyg-lib or torch-cluster, at most 32 for each atom, and triplets with
torch-sparse. Here they get the complete graphs of this package, and nothing else has to be installed.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torch_geometric.nn.models import DimeNetPlusPlus as PyGDimeNetPlusPlus
from torch_geometric.nn.models import SchNet as PyGSchNet
from torch_geometric.nn.models import ViSNet as PyGViSNet
from torch_geometric.utils import scatter

from pyg_schnet import DTNN, InteractionGraph, SchNet
from pyg_schnet.geometry import edge_vectors, safe_norm
from pyg_schnet.neighbors import radius_graph

CUTOFF = 5.0  # Å


def triplets(edge_index, n_atoms):
    r"""All pairs of edges that follow each other, :math:`k \to j \to i` with :math:`k \neq i`.

    Every edge :math:`j \to i` is combined with the edges that end at j: with edges sorted by target these are a slice,
    whose begin and length are known for all edges at once.

    Args:
        edge_index: Row 0 holds j (neighbour, source), row 1 holds i (centre, target), shape ``[2, E]``, in any order.
        n_atoms: Number N of atoms.

    Returns:
        The edges ``kj`` and ``ji`` of each triplet, numbered as in ``edge_index``, shape ``[T]`` each.

    Example:
        >>> triplets(torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), 3)  # a chain of three atoms
        (tensor([3, 0]), tensor([1, 2]))
    """
    source, target = edge_index
    by_target = target.argsort(stable=True)
    degree = torch.bincount(target, minlength=n_atoms)  # [N]
    begin = degree.cumsum(0) - degree
    counts = degree[source]  # [E], triplets of each edge ji, those with k = i included
    ji = torch.arange(source.numel(), device=source.device).repeat_interleave(counts)
    rank = torch.arange(ji.numel(), device=ji.device) - (counts.cumsum(0) - counts)[ji]
    kj = by_target[begin[source[ji]] + rank]
    proper = source[kj] != target[ji]
    return kj[proper], ji[proper]


class DimeNetPlusPlus(PyGDimeNetPlusPlus):
    """DimeNet++ of `Gasteiger et al. (2020) <https://arxiv.org/abs/2011.14115>`_ with all neighbours and triplets.

    The layers, and the arguments, are those of ``torch_geometric.nn.models.DimeNetPlusPlus``.
    """

    def forward(self, z, pos, batch=None, batch_size=None):
        """Sums over atoms, shape ``[B, out_channels]``, of positions ``[N, 3]`` in Å."""
        batch = torch.zeros_like(z) if batch is None else batch
        edge_index = radius_graph(pos, self.cutoff, batch, batch_size=batch_size)
        j, i = edge_index
        kj, ji = triplets(edge_index, z.numel())
        vec = edge_vectors(pos, edge_index)  # [E, 3]
        dist = safe_norm(vec)
        vec_kj, vec_ji = vec[kj], vec[ji]
        # as PyG: between the directions of the two edges, zero where they are in line
        angle = torch.atan2(safe_norm(torch.linalg.cross(vec_ji, vec_kj)), (vec_ji * vec_kj).sum(-1))

        rbf, sbf = self.rbf(dist), self.sbf(dist, angle, kj)
        x = self.emb(z, rbf, i, j)  # [E, F]
        atoms = self.output_blocks[0](x, rbf, i, num_nodes=z.numel())
        for interaction, output in zip(self.interaction_blocks, self.output_blocks[1:], strict=True):
            x = interaction(x, rbf, sbf, kj, ji)
            atoms = atoms + output(x, rbf, i, num_nodes=z.numel())
        return scatter(atoms, batch, dim=0, dim_size=batch_size, reduce="sum")


class LoopedGraph(nn.Module):
    """The complete graph, with every atom as a neighbour of itself too, instead of ViSNet's ``Distance``.

    Args:
        cutoff: Cutoff in Å.
    """

    def __init__(self, cutoff):
        super().__init__()
        self.cutoff = cutoff

    def forward(self, pos, batch):
        """Edges ``[2, E]``, distances ``[E]`` and vectors ``[E, 3]`` in Å, both zero from an atom to itself."""
        loops = torch.arange(pos.size(0), device=pos.device).expand(2, -1)
        edge_index = torch.cat([radius_graph(pos, self.cutoff, batch), loops], dim=1)
        vec = edge_vectors(pos, edge_index)
        return edge_index, safe_norm(vec), vec.clone()  # ViSNet normalises vectors in place, the norm needs them


class ViSNet(PyGViSNet):
    """ViSNet of `Wang et al. (2024) <https://doi.org/10.1038/s41467-023-43720-2>`_ with all neighbours.

    The layers, and the arguments, are those of ``torch_geometric.nn.models.ViSNet``.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.representation_model.distance = LoopedGraph(self.representation_model.cutoff)

    def forward(self, z, pos, batch):
        """Sums over atoms, shape ``[B, 1]``, of positions ``[N, 3]`` in Å."""
        return super().forward(z, pos, batch)[0]


class Candidate(NamedTuple):
    """A model to compare.

    Attributes:
        build: Function without arguments that returns the network, a module with the call ``(z, pos, batch)`` whose
            output, shape ``[B]`` or ``[B, 1]``, is a sum over atoms.
        lr: Largest learning rate, unless ``--lr`` says another.
    """

    build: Callable[[], nn.Module]
    lr: float = 1e-3


def pyg_schnet():
    """PyG's SchNet in the size that ``pyg-schnet train`` has by default, with the complete graph."""
    return PyGSchNet(64, 64, 3, 25, CUTOFF, interaction_graph=InteractionGraph(CUTOFF))


def schnet():
    """Our SchNet, with the weights of :func:`pyg_schnet`: both learn the same in a step."""
    return SchNet.from_pyg(pyg_schnet())


MODELS = {
    "SchNet": Candidate(schnet, lr=5e-3),
    "PyG-SchNet": Candidate(pyg_schnet, lr=5e-3),
    "DTNN": Candidate(partial(DTNN, 64, 128, 3), lr=2e-3),
    "DimeNet++": Candidate(
        partial(
            DimeNetPlusPlus,
            hidden_channels=64,
            out_channels=1,
            num_blocks=3,
            int_emb_size=32,
            basis_emb_size=8,
            out_emb_channels=128,
            num_spherical=7,
            num_radial=6,
            cutoff=CUTOFF,
            output_initializer="glorot_orthogonal",
        )
    ),
    "ViSNet": Candidate(partial(ViSNet, hidden_channels=64, num_layers=3, cutoff=CUTOFF)),
}
"""What is compared, by name; a model more is a line more."""
