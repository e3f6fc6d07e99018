import numpy as np
import pytest
import torch

from pyg_schnet.geometry import edge_distances
from pyg_schnet.neighbors import radius, radius_graph, search
from pyg_schnet.neighbors.brute import brute_radius_graph, edge_tuples
from pyg_schnet.ops import close_pairs_once
from pyg_schnet.ops import radius as ops_radius

from .structures import random_molecules

CPU_BACKENDS = ["torch", "vesin", "auto"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(5))
def test_500_random_batches_equal_the_oracle(seed, dtype):
    rng = np.random.default_rng(seed)
    for _ in range(50):
        pos, batch, n_structures = random_molecules(rng, dtype)
        cutoff = float(rng.uniform(0.1, 10.0))
        expected = edge_tuples(brute_radius_graph(pos, cutoff, batch)[0])
        for backend in CPU_BACKENDS:
            edge_index = radius_graph(pos, cutoff, batch, batch_size=n_structures, backend=backend)
            assert edge_index.dtype == torch.int64
            assert (edge_index[1].diff() >= 0).all()
            assert edge_tuples(edge_index) == expected


@pytest.mark.parametrize("all_pairs", [True, False])
@pytest.mark.parametrize("chunk", [7, 2**17])
def test_bins_and_chunks_do_not_change_the_graph(monkeypatch, all_pairs, chunk):
    monkeypatch.setattr(search, "DENSE_PAIRS", 10**9 if all_pairs else -1)
    monkeypatch.setattr(ops_radius, "chunk_size", lambda device: chunk)
    rng = np.random.default_rng(3)
    for _ in range(60):
        pos, batch, n_structures = random_molecules(rng)
        cutoff = float(rng.uniform(0.1, 6.0))
        edge_index = radius_graph(pos, cutoff, batch, batch_size=n_structures, backend="torch")
        assert edge_tuples(edge_index) == edge_tuples(brute_radius_graph(pos, cutoff, batch)[0])
        assert (edge_index[1].diff() >= 0).all()


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_bins_find_all_neighbours_of_large_and_sparse_structures(offset):
    torch.manual_seed(0)
    dense = torch.rand(700, 3, dtype=torch.float64) * 20 + offset
    sparse = torch.randn(300, 3, dtype=torch.float64) * 1e6  # more empty bins than could be stored
    pos, batch = torch.cat([dense, sparse, dense[:1]]), torch.arange(3).repeat_interleave(torch.tensor([700, 300, 1]))
    pairs = torch.cdist(dense, dense, compute_mode="donot_use_mm_for_euclid_dist") < 4.0
    expected = pairs.fill_diagonal_(False).nonzero()
    edge_index = radius_graph(pos, 4.0, batch, backend="torch")
    assert edge_tuples(edge_index) == sorted(map(tuple, expected.tolist()))
    assert edge_tuples(radius_graph(dense, 4.0, backend="vesin")) == edge_tuples(edge_index)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("sizes", [[], [0], [1], [0, 0, 3], [3, 0, 0], [2, 0, 2], [1, 1, 1]])
def test_empty_and_single(backend, sizes):
    batch = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes, dtype=torch.int64))
    pos = torch.arange(3.0 * len(batch)).reshape(-1, 3) * 0.1
    edge_index = radius_graph(pos, 5.0, batch, batch_size=len(sizes), backend=backend)
    assert edge_index.shape == (2, sum(n * (n - 1) for n in sizes))
    assert edge_index.dtype == torch.int64


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_no_neighbour_quota(backend):
    pos = torch.rand(150, 3, generator=torch.Generator().manual_seed(0))
    assert radius_graph(pos, 5.0, backend=backend).size(1) == 150 * 149


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_cutoff_is_strict_and_coincident_atoms_are_neighbours(backend):
    pos = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [3.0, 4.0, 0.0]])
    assert edge_tuples(radius_graph(pos, 5.0, backend=backend)) == [(0, 1), (1, 0)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_backends_agree_where_neighbours_sit_on_the_cutoff(dtype):
    grid = torch.cartesian_prod(*[torch.arange(5.0, dtype=dtype) * 0.1 + 0.7] * 3)
    for cutoff in (0.1, 0.2, 0.30000001, 0.3):
        expected = edge_tuples(brute_radius_graph(grid, cutoff)[0])
        for backend in CPU_BACKENDS:
            assert edge_tuples(radius_graph(grid, cutoff, backend=backend)) == expected


def test_direction_is_neighbour_to_centre():
    pos = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [2.5, 0.0, 0.0]])
    assert radius_graph(pos, 1.2).tolist() == [[1, 0], [0, 1]]


def test_graph_carries_no_gradient_and_leaves_its_input_alone():
    pos = torch.rand(20, 3, requires_grad=True)
    before = pos.detach().clone()
    assert not radius_graph(pos, 0.5).requires_grad
    assert torch.equal(pos.detach(), before)


def test_strided_positions():
    pos = torch.rand(3, 40).T
    assert edge_tuples(radius_graph(pos, 0.4)) == edge_tuples(radius_graph(pos.contiguous(), 0.4))


def test_new_tensors_follow_the_device_of_the_positions():
    # tensors made without an explicit device would now be on "meta" and clash with those on the CPU
    pos, batch = torch.rand(600, 3) * 10, torch.arange(2).repeat_interleave(300)
    expected = radius_graph(pos, 2.0, batch)
    with torch.device("meta"):
        assert torch.equal(radius_graph(pos, 2.0, batch, backend="torch"), expected)
        assert edge_tuples(radius_graph(pos, 2.0, batch, backend="vesin")) == edge_tuples(expected)
        assert radius(pos, pos, 2.0, batch, batch).device.type == "cpu"


@pytest.mark.parametrize("all_pairs", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bipartite_search(monkeypatch, all_pairs, dtype):
    monkeypatch.setattr(search, "DENSE_PAIRS", 10**9 if all_pairs else -1)
    rng = np.random.default_rng(5)
    for _ in range(60):
        pos_src, batch_src, _ = random_molecules(rng, dtype)
        pos_dst, batch_dst, _ = random_molecules(rng, dtype)
        pos_dst = pos_dst * 3  # also far beyond the sources
        cutoff = float(rng.uniform(0.1, 8.0))
        edge_index = radius(pos_src, pos_dst, cutoff, batch_src, batch_dst)
        assert (edge_index[1].diff() >= 0).all()
        vec = pos_src[:, None] - pos_dst
        near = vec[..., 0] ** 2 + vec[..., 1] ** 2 + vec[..., 2] ** 2 < cutoff**2
        expected = (near & (batch_src[:, None] == batch_dst)).nonzero()
        assert edge_tuples(edge_index) == sorted(map(tuple, expected.tolist()))


def test_bipartite_search_keeps_equal_indices():
    pos = torch.tensor([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
    assert radius(pos, pos, 1.0).tolist() == [[0, 1], [0, 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pairs_are_the_edges_in_one_direction(dtype):
    rng = np.random.default_rng(5)
    for _ in range(60):
        pos, batch, n_structures = random_molecules(rng, dtype)
        cutoff = float(rng.uniform(0.1, 10.0))
        pairs, ptr, dist = close_pairs_once(pos, cutoff, batch, n_structures)
        expected = sorted((i, j) for j, i in edge_tuples(brute_radius_graph(pos, cutoff, batch)[0]) if i < j)
        assert list(zip(*pairs.flip(0).tolist(), strict=True)) == expected
        assert ptr.tolist() == [sum(i < atom for i, _ in expected) for atom in range(len(pos) + 1)]
        torch.testing.assert_close(dist, edge_distances(pos, pairs))


def one_structure(pos):
    return torch.zeros(len(pos), dtype=torch.int64), 1


def test_pairs_are_left_to_bins_where_these_are_faster(monkeypatch):
    pos = torch.rand(30, 3, generator=torch.Generator().manual_seed(0))
    assert close_pairs_once(pos, 0.5, *one_structure(pos)) is not None
    monkeypatch.setattr("pyg_schnet.ops.radius.MOST_CANDIDATES", 3)
    assert close_pairs_once(pos, 0.5, *one_structure(pos)) is None
    assert close_pairs_once(torch.empty(0, 3), 0.5, *one_structure([]))[0].shape == (2, 0)


def test_pairs_of_what_is_no_batch_are_left_to_the_search_that_says_why():
    pos = torch.rand(3, 3)
    assert close_pairs_once(pos, 5.0, torch.tensor([0, 1, 0]), 2) is None
    assert close_pairs_once(pos, 5.0, torch.tensor([0, 0, 2]), 2) is None
    assert close_pairs_once(pos, 5.0, torch.tensor([-1, 0, 0]), 2) is None
    assert close_pairs_once(pos, 5.0, torch.tensor([0, 0]), 1) is None
    assert close_pairs_once(pos, -5.0, *one_structure(pos)) is None
    assert close_pairs_once(torch.full((3, 3), torch.nan), 5.0, *one_structure(pos)) is None
