"""The search that other devices than CPUs take, made to run here, against ASE and loops written out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyg_schnet.neighbors import radius, radius_graph, search
from pyg_schnet.neighbors.brute import edge_tuples
from pyg_schnet.ops import close_pairs_once
from pyg_schnet.ops import radius as ops_radius

from .structures import ase_edges, collate, random_crystal, random_molecules

SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True, scope="module")
def generic():
    """No tensor is memory of the CPU here, as on other devices; says how often the search of those was called."""
    with pytest.MonkeyPatch.context() as patch:
        calls, original = [], ops_radius._filter_all
        patch.setattr(ops_radius, "kernels_for", lambda *_, **__: None)
        patch.setattr(ops_radius, "_filter_all", lambda *args: (calls.append(1), original(*args))[1])
        yield calls


def pairs_by_hand(src, dst, batch_src, batch_dst, cutoff, own=False):
    """(j, i) of all pairs of the same structure closer than the cutoff, one after the other."""
    return [
        (j, i)
        for j, (a, first) in enumerate(zip(src.tolist(), batch_src.tolist(), strict=True))
        for i, (b, second) in enumerate(zip(dst.tolist(), batch_dst.tolist(), strict=True))
        if first == second and not (own and i == j) and np.linalg.norm(np.subtract(a, b)) < cutoff
    ]


ways = pytest.mark.parametrize("all_pairs", [True, False], ids=["pairs", "bins"])
chunks = pytest.mark.parametrize("chunk", [5, 2**16])


@pytest.fixture
def limits(all_pairs, chunk, monkeypatch):
    monkeypatch.setattr(search, "DENSE_PAIRS", 10**9 if all_pairs else -1)
    monkeypatch.setattr(ops_radius, "chunk_size", lambda device: chunk)


@ways
@chunks
@pytest.mark.usefixtures("limits")
def test_molecules_have_the_pairs_of_a_loop():
    rng = np.random.default_rng(0)
    for _ in range(30):
        pos, batch, n_structures = random_molecules(rng)
        cutoff = float(rng.uniform(0.1, 8.0))
        edge_index = radius_graph(pos, cutoff, batch, batch_size=n_structures, backend="torch")
        assert edge_tuples(edge_index) == pairs_by_hand(pos, pos, batch, batch, cutoff, own=True)
        assert (edge_index[1].diff() >= 0).all()
        assert edge_index.dtype == torch.int64


@ways
@chunks
@pytest.mark.usefixtures("limits")
def test_two_sets_of_points_have_the_pairs_of_a_loop():
    rng = np.random.default_rng(1)
    for _ in range(30):
        (src, batch_src, _), (dst, batch_dst, _) = random_molecules(rng), random_molecules(rng)
        dst, cutoff = 2 * dst, float(rng.uniform(0.1, 8.0))
        edge_index = radius(src, dst, cutoff, batch_src, batch_dst)
        assert edge_tuples(edge_index) == pairs_by_hand(src, dst, batch_src, batch_dst, cutoff)
        assert (edge_index[1].diff() >= 0).all()


@ways
@chunks
@pytest.mark.usefixtures("limits")
def test_crystals_slabs_and_wires_have_the_edges_of_ase():
    rng = np.random.default_rng(2)
    seen = set()
    for _ in range(25):
        crystal, cutoff = random_crystal(rng, 20, 2.0, max_edges=800)
        graph = radius_graph(crystal.pos, cutoff, cell=crystal.cell, pbc=crystal.pbc, backend="torch")
        assert edge_tuples(*graph) == ase_edges(crystal, cutoff)
        assert (graph[0][1].diff() >= 0).all()
        seen.add(int(crystal.pbc.sum()))
    assert seen == {0, 1, 2, 3}


def test_structures_of_one_batch_keep_their_own_periodic_axes():
    rng = np.random.default_rng(3)
    for _ in range(5):
        crystals = [random_crystal(rng, 8)[0] for _ in range(4)]
        pos, batch, cell, pbc = collate(crystals)
        edge_index, edge_shift = radius_graph(pos, 2.5, batch, cell=cell, pbc=pbc, backend="torch")
        first = np.cumsum([0, *(len(crystal.pos) for crystal in crystals)])
        expected = [
            (j + start, i + start, *shift)
            for crystal, start in zip(crystals, first[:-1].tolist(), strict=True)
            for j, i, *shift in ase_edges(crystal, 2.5)
        ]
        assert edge_tuples(edge_index, edge_shift) == sorted(expected)


@settings(max_examples=25)
@given(SEEDS)
def test_bins_of_any_structure_have_the_edges_of_ase(seed):
    rng = np.random.default_rng(seed)
    crystal, cutoff = random_crystal(rng, 12, 2.0, max_edges=300)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "DENSE_PAIRS", -1)
        graph = radius_graph(crystal.pos, cutoff, cell=crystal.cell, pbc=crystal.pbc, backend="torch")
    assert edge_tuples(*graph) == ase_edges(crystal, cutoff)


@ways
@pytest.mark.parametrize("chunk", [2**16])
@pytest.mark.usefixtures("limits")
def test_the_cutoff_itself_is_excluded_and_atoms_in_one_place_are_neighbours():
    pos = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [3.0, 4.0, 0.0]])
    assert edge_tuples(radius_graph(pos, 5.0, backend="torch")) == [(0, 1), (1, 0)]
    grid = torch.cartesian_prod(*[torch.arange(4.0)] * 3)
    assert radius_graph(grid, 1.0, backend="torch").numel() == 0
    assert radius_graph(grid, 1.0001, backend="torch").size(1) == 2 * 3 * 3 * 4 * 4  # both ways along three axes


def test_large_structures_are_put_into_bins_by_themselves(monkeypatch):
    torch.manual_seed(0)
    pos, used = 18 * torch.rand(900, 3, dtype=torch.float64), []
    original = search.bin_ranges
    monkeypatch.setattr(search, "bin_ranges", lambda *args: (used.append(1), original(*args))[1])
    near = torch.cdist(pos, pos, compute_mode="donot_use_mm_for_euclid_dist") < 3.0
    expected = near.fill_diagonal_(False).nonzero()
    assert edge_tuples(radius_graph(pos, 3.0, backend="torch")) == sorted(map(tuple, expected.tolist()))
    assert used


def test_the_search_of_other_devices_is_what_runs_here(generic):
    before = len(generic)
    radius_graph(torch.rand(4, 3), 1.0, backend="torch")
    assert len(generic) > before


def test_no_half_lists_are_made():
    assert close_pairs_once(torch.rand(4, 3), 1.0, torch.zeros(4, dtype=torch.int64), 1) is None


def test_devices_without_float64_keep_the_dtype_of_the_positions():
    class Like:
        dtype = torch.float32

        def __init__(self, kind):
            self.device = torch.device(kind)

    assert search.wide_dtype(Like("mps")) is torch.float32
    assert search.wide_dtype(Like("cuda")) is torch.float64
