import ase.build
import numpy as np
import pytest
import torch

from pyg_schnet.geometry import edge_distances
from pyg_schnet.neighbors import criterion, periodic_radius_graph, radius_graph, search
from pyg_schnet.neighbors.brute import brute_radius_graph, edge_tuples

from .structures import ase_edges, collate, random_crystal

BACKENDS = ["torch", "vesin"]
TRUE = torch.tensor([True, True, True])


@pytest.mark.parametrize("seed", range(10))
def test_600_single_structures_equal_ase_and_the_oracle(seed):
    rng = np.random.default_rng(seed)
    for _ in range(60):
        crystal, cutoff = random_crystal(rng)
        expected = ase_edges(crystal, cutoff)
        for backend in BACKENDS:
            edge_index, edge_shift = radius_graph(
                crystal.pos, cutoff, cell=crystal.cell, pbc=crystal.pbc, backend=backend
            )
            assert (edge_index.dtype, edge_shift.dtype) == (torch.int64, torch.int32)
            assert (edge_index[1].diff() >= 0).all()
            assert edge_tuples(edge_index, edge_shift) == expected
        assert edge_tuples(*brute_radius_graph(crystal.pos, cutoff, None, crystal.cell, crystal.pbc)) == expected


@pytest.mark.parametrize("bins", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_400_structures_in_batches_equal_ase(monkeypatch, seed, bins):
    monkeypatch.setattr(search, "DENSE_PAIRS", -1 if bins else 10**9)
    monkeypatch.setattr(criterion, "chunk_size", lambda device: 50 if bins else 2**16)
    rng = np.random.default_rng(100 + seed)
    for _ in range(5):
        crystals, cutoffs = zip(*[random_crystal(rng, 30, 1.5) for _ in range(10)], strict=True)
        cutoff = min(cutoffs)
        pos, batch, cell, pbc = collate(crystals)
        expected, first = [], 0
        for crystal in crystals:
            expected += [(j + first, i + first, *s) for j, i, *s in ase_edges(crystal, cutoff)]
            first += len(crystal.pos)
        for backend in BACKENDS:
            graph = radius_graph(pos, cutoff, batch, cell=cell, pbc=pbc, backend=backend)
            assert edge_tuples(*graph) == sorted(expected)
            assert (graph[0][1].diff() >= 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_float32_equals_the_oracle_in_float32(seed):
    rng = np.random.default_rng(200 + seed)
    for _ in range(15):
        crystal, cutoff = random_crystal(rng, 6)
        pos, cell = crystal.pos.float(), crystal.cell.float()
        expected = edge_tuples(*brute_radius_graph(pos, cutoff, None, cell, crystal.pbc))
        for backend in BACKENDS:
            assert edge_tuples(*radius_graph(pos, cutoff, cell=cell, pbc=crystal.pbc, backend=backend)) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cutoff", [3.9, 3.9 * 2**0.5, 7.8, 3.9 * 3**0.5])
def test_backends_agree_where_images_sit_on_the_cutoff(dtype, cutoff):
    cell = torch.tensor([[[3.9, 0, 0], [0, 3.9, 0], [0, 0, 3.9]], [[0, 3.9, 3.9], [3.9, 0, 3.9], [3.9, 3.9, 0]]])
    cell = cell.to(dtype)
    pos = torch.tensor([[0.1, 0.2, 0.3], [2.05, 2.15, 0.3], [-3.8, 4.1, 8.1]], dtype=dtype).repeat(2, 1)
    batch, pbc = torch.tensor([0, 0, 0, 1, 1, 1]), TRUE.repeat(2, 1)
    expected = edge_tuples(*brute_radius_graph(pos, cutoff, batch, cell, pbc))
    for backend in BACKENDS:
        assert edge_tuples(*radius_graph(pos, cutoff, batch, cell=cell, pbc=pbc, backend=backend)) == expected


@pytest.mark.parametrize("backend", BACKENDS)
def test_molecule_slab_wire_crystal_and_nothing_in_one_batch(backend):
    pos = torch.tensor([[0.0, 0.0, 0.0]]).repeat(4, 1)
    pbc = torch.tensor([[False] * 3, [True, True, False], [False, False, True], [True] * 3, [True] * 3])
    cell = torch.where(pbc[:, :, None], 2.0 * torch.eye(3), 0.0)
    edge_index, edge_shift = radius_graph(pos, 2.5, torch.arange(4), cell=cell, pbc=pbc, backend=backend)
    assert edge_index[1].bincount(minlength=4).tolist() == [0, 4, 2, 6]
    assert not edge_shift[~pbc[edge_index[1]]].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_atom_sees_its_own_images_but_not_itself(backend):
    edge_index, edge_shift = radius_graph(torch.zeros(1, 3), 5.0, cell=torch.eye(3), pbc=TRUE, backend=backend)
    n = torch.cartesian_prod(*[torch.arange(-5, 6)] * 3)
    assert edge_index.size(1) == ((n**2).sum(1) < 25).sum() - 1
    assert (edge_shift != 0).any(1).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_shifts_refer_to_the_positions_given(backend):
    torch.manual_seed(0)
    cell = torch.tensor([[4.0, 0.0, 0.0], [3.0, 3.0, 0.0], [-2.0, 1.0, 5.0]], dtype=torch.float64)
    pos = torch.rand(7, 3, dtype=torch.float64) @ cell
    jump = torch.randint(-4, 5, (7, 3))
    edge_index, edge_shift = radius_graph(pos, 5.0, cell=cell, pbc=TRUE, backend=backend)
    moved = pos + jump.double() @ cell
    graph = radius_graph(moved, 5.0, cell=cell, pbc=TRUE, backend=backend)
    expected = edge_shift + jump[edge_index[1]] - jump[edge_index[0]]
    assert edge_tuples(*graph) == edge_tuples(edge_index, expected)
    dist = edge_distances(moved, *graph, cell)
    torch.testing.assert_close(dist.sort()[0], edge_distances(pos, edge_index, edge_shift, cell).sort()[0])
    assert (dist < 5.0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_edge_has_its_reverse(backend):
    crystal, cutoff = random_crystal(np.random.default_rng(7), 20)
    (j, i), shift = radius_graph(crystal.pos, cutoff, cell=crystal.cell, pbc=crystal.pbc, backend=backend)
    assert edge_tuples(torch.stack([i, j]), -shift) == edge_tuples(torch.stack([j, i]), shift)


def test_large_crystal_backends_agree():
    atoms = ase.build.bulk("Si", cubic=True, a=5.43) * (7, 6, 5)
    atoms.rattle(0.1, seed=0)
    pos, cell = torch.from_numpy(atoms.positions), torch.from_numpy(np.array(atoms.cell))
    for dtype in (torch.float64, torch.float32):
        graphs = [radius_graph(pos.to(dtype), 5.0, cell=cell.to(dtype), pbc=TRUE, backend=b) for b in BACKENDS]
        assert edge_tuples(*graphs[0]) == edge_tuples(*graphs[1])


def test_very_skewed_cell():
    cell = torch.tensor([[3.0, 0.0, 0.0], [40.0, 3.0, 0.0], [-25.0, 31.0, 3.0]], dtype=torch.float64)
    pos = torch.tensor([[0.2, 0.1, 0.0], [50.0, 1.0, -9.0]], dtype=torch.float64)
    expected = edge_tuples(*brute_radius_graph(pos, 4.0, None, cell, TRUE))
    for backend in BACKENDS:
        assert edge_tuples(*radius_graph(pos, 4.0, cell=cell, pbc=TRUE, backend=backend)) == expected


def test_pbc_false_gives_the_open_graph_and_zero_shifts():
    pos = torch.rand(40, 3) * 5
    edge_index, edge_shift = radius_graph(pos, 2.0, cell=torch.zeros(3, 3), pbc=~TRUE)
    assert edge_tuples(edge_index) == edge_tuples(radius_graph(pos, 2.0))
    assert not edge_shift.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_atoms(backend):
    edge_index, edge_shift = radius_graph(torch.empty(0, 3), 2.0, cell=torch.eye(3), pbc=TRUE, backend=backend)
    assert (edge_index.shape, edge_shift.shape) == ((2, 0), (0, 3))
    assert (edge_index.dtype, edge_shift.dtype) == (torch.int64, torch.int32)


def test_named_twin_and_lists_of_booleans():
    pos, cell = torch.rand(5, 3), torch.eye(3)
    graph = radius_graph(pos, 1.2, cell=cell, pbc=TRUE)
    assert edge_tuples(*periodic_radius_graph(pos, 1.2, cell, [True, True, True])) == edge_tuples(*graph)


def test_new_tensors_follow_the_device_of_the_positions():
    crystal, cutoff = random_crystal(np.random.default_rng(3), 30)
    expected = radius_graph(crystal.pos, cutoff, cell=crystal.cell, pbc=crystal.pbc)
    with torch.device("meta"):
        for backend in BACKENDS:
            graph = radius_graph(crystal.pos, cutoff, cell=crystal.cell, pbc=crystal.pbc, backend=backend)
            assert edge_tuples(*graph) == edge_tuples(*expected)


def test_distances_are_differentiable_in_positions_and_cell():
    crystal, cutoff = random_crystal(np.random.default_rng(11), 5)
    graph = radius_graph(crystal.pos, cutoff, cell=crystal.cell, pbc=crystal.pbc)
    pos, cell = crystal.pos.requires_grad_(), crystal.cell.requires_grad_()
    assert torch.autograd.gradcheck(lambda p, c: edge_distances(p, *graph, c), (pos, cell))
