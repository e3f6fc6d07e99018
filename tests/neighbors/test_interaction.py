import pytest
import torch
from torch_geometric.nn.models import SchNet

from pyg_schnet.neighbors import InteractionGraph


def all_pairs(pos, batch):
    """Every pair of a structure, as PyG expects it."""
    same = batch[:, None] == batch
    edge_index = same.fill_diagonal_(False).nonzero().T
    return edge_index, (pos[edge_index[0]] - pos[edge_index[1]]).norm(dim=-1)


def test_pyg_schnet_sees_every_neighbour_of_a_dense_cluster():
    torch.manual_seed(0)
    pos, z = torch.rand(90, 3) * 3, torch.randint(1, 9, (90,))
    batch = torch.arange(2).repeat_interleave(torch.tensor([60, 30]))
    torch.manual_seed(1)
    ours = SchNet(16, 16, 2, 10, cutoff=10.0, interaction_graph=InteractionGraph(10.0))
    torch.manual_seed(1)
    full = SchNet(16, 16, 2, 10, cutoff=10.0, interaction_graph=all_pairs)
    graph = InteractionGraph(10.0)(pos, batch)
    assert graph[0][1].bincount().max() == 59  # more than PyG's quota of 32
    torch.testing.assert_close(ours(z, pos, batch), full(z, pos, batch))


def test_distances_are_differentiable():
    torch.manual_seed(0)
    graph = InteractionGraph(2.0)
    pos = torch.rand(6, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: graph(p, None)[1], pos)


def test_forces_from_pyg_schnet():
    torch.manual_seed(0)
    pos = (torch.rand(12, 3) * 4).requires_grad_()
    model = SchNet(8, 8, 2, 8, cutoff=5.0, interaction_graph=InteractionGraph(5.0))
    energy = model(torch.ones(12, dtype=torch.long), pos)
    (forces,) = torch.autograd.grad(-energy.sum(), pos)
    torch.testing.assert_close(forces.sum(0), torch.zeros(3), atol=1e-5, rtol=0)


def test_options_are_shown_and_checked():
    assert repr(InteractionGraph(5.0)) == "InteractionGraph(cutoff=5.0, backend='auto')"
    with pytest.raises(ValueError, match="cutoff must be a positive length in Å, got -1"):
        InteractionGraph(-1)
