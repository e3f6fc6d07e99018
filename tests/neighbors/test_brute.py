import numpy as np
import torch

from pyg_schnet.neighbors.brute import brute_radius_graph, edge_tuples

from .structures import ase_edges, random_crystal


def test_oracle_agrees_with_ase():
    rng = np.random.default_rng(1)
    for _ in range(60):
        crystal, cutoff = random_crystal(rng, max_atoms=8)
        graph = brute_radius_graph(crystal.pos, cutoff, None, crystal.cell, crystal.pbc)
        assert edge_tuples(*graph) == ase_edges(crystal, cutoff)


def test_oracle_of_a_wire_by_hand():
    pos = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 9.0]])
    edge_index, edge_shift = brute_radius_graph(
        pos, 4.0, None, torch.diag(torch.tensor([0.0, 0.0, 3.0])), torch.eye(3)[2] > 0
    )
    i, j = edge_index[1], edge_index[0]
    assert sorted(edge_shift[(i == 0) & (j == 0), 2].tolist()) == [-1, 1]
    assert sorted(edge_shift[(i == 0) & (j == 1), 2].tolist()) == [-4, -3, -2]


def test_oracle_is_strict_at_the_cutoff():
    pos = torch.tensor([[0.0, 0.0, 0.0], [3.0, 4.0, 0.0]])
    assert brute_radius_graph(pos, 5.0)[0].size(1) == 0
    assert brute_radius_graph(pos, 5.001)[0].tolist() == [[1, 0], [0, 1]]
