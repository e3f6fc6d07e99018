"""The torch-cluster backend; run alone with ``pytest tests/neighbors/test_cluster_ext.py`` after installing [ext]."""

import numpy as np
import pytest
import torch

from pyg_schnet.neighbors import radius_graph
from pyg_schnet.neighbors.brute import brute_radius_graph, edge_tuples

from .structures import random_molecules

pytest.importorskip("torch_cluster", reason="torch-cluster is not installed: pip install pyg_schnet[ext]")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_random_batches_equal_the_oracle(dtype):
    rng = np.random.default_rng(0)
    for _ in range(100):
        pos, batch, n_structures = random_molecules(rng, dtype)
        cutoff = float(rng.uniform(0.1, 8.0))
        edge_index = radius_graph(pos, cutoff, batch, batch_size=n_structures, backend="torch_cluster")
        assert (edge_index[1].diff() >= 0).all()
        assert edge_tuples(edge_index) == edge_tuples(brute_radius_graph(pos, cutoff, batch)[0])


def test_no_neighbour_quota():
    pos = torch.rand(150, 3)
    assert radius_graph(pos, 5.0, backend="torch_cluster").size(1) == 150 * 149


def test_agrees_with_torch_on_a_large_structure():
    torch.manual_seed(0)
    pos = torch.rand(3000, 3) * 30
    expected = radius_graph(pos, 4.0, backend="torch")
    assert edge_tuples(radius_graph(pos, 4.0, backend="torch_cluster")) == edge_tuples(expected)
