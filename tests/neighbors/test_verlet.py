import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyg_schnet.neighbors import VerletList, radius_graph
from pyg_schnet.neighbors.brute import edge_tuples

from .structures import Crystal, ase_edges, collate, random_crystal

TRUE = torch.tensor([True, True, True])


def wrapped(pos, cell, pbc):
    """Positions moved into the cell along periodic axes."""
    frac = pos @ torch.linalg.inv(cell)
    return pos - torch.where(pbc, frac.floor(), 0.0) @ cell


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(8))
def test_random_walk_with_wrapping_and_strain_is_exact(seed, dtype):
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    crystal, cutoff = random_crystal(rng, 40, 1.5, max_edges=2000)
    pos, cell, pbc, full_cell = (x.to(dtype) if x.is_floating_point() else x for x in crystal)
    neighbors = VerletList(cutoff, skin=1.0)
    for step in range(40):
        strain = torch.eye(3, dtype=dtype) + 0.003 * torch.randn(3, 3, dtype=dtype)
        pos, cell, full_cell = pos @ strain, cell @ strain, full_cell @ strain
        pos = pos + 0.05 * torch.randn(pos.shape, dtype=dtype)
        if step % 3 == 0:
            pos = wrapped(pos, full_cell, pbc)
        graph = neighbors(pos, cell, pbc)
        expected = radius_graph(pos, cutoff, cell=cell, pbc=pbc)
        assert edge_tuples(*graph) == edge_tuples(*expected)
        assert (graph[0][1].diff() >= 0).all()
    assert 1 <= neighbors.n_rebuilds < 40


def test_batch_of_walks_is_exact():
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    crystals = [random_crystal(rng, 10)[0] for _ in range(8)]
    pos, batch, cell, pbc = collate(crystals)
    full_cell = torch.stack([c.full_cell for c in crystals])
    neighbors = VerletList(3.0, skin=0.8)
    for _ in range(30):
        strain = torch.eye(3) + 0.002 * torch.randn(8, 3, 3, dtype=torch.float64)
        cell, full_cell = cell @ strain, full_cell @ strain
        pos = (pos[:, None] @ strain[batch])[:, 0] + 0.03 * torch.randn_like(pos)
        pos = wrapped(pos[:, None], full_cell[batch], pbc[batch][:, None])[:, 0]
        expected = radius_graph(pos, 3.0, batch, cell=cell, pbc=pbc)
        assert edge_tuples(*neighbors(pos, cell, pbc, batch)) == edge_tuples(*expected)
    assert 1 <= neighbors.n_rebuilds < 30


def test_open_boundaries():
    torch.manual_seed(0)
    pos, batch = torch.rand(60, 3) * 6, torch.arange(3).repeat_interleave(20)
    neighbors = VerletList(3.0, skin=0.5)
    for _ in range(30):
        pos = pos + 0.02 * torch.randn(60, 3)
        near = (pos[:, None] - pos).square().sum(-1) < 3.0**2
        expected = (near & (batch[:, None] == batch)).fill_diagonal_(False).nonzero()
        assert edge_tuples(neighbors(pos, batch=batch)) == sorted(map(tuple, expected.tolist()))
    assert 1 <= neighbors.n_rebuilds < 15


def cubic(n=30, seed=0):
    torch.manual_seed(seed)
    return torch.rand(n, 3, dtype=torch.float64) * 8, 8 * torch.eye(3, dtype=torch.float64)


def test_wrapping_alone_never_rebuilds():
    pos, cell = cubic()
    neighbors = VerletList(3.0, skin=0.2)
    for _ in range(5):
        moved = pos + torch.randint(-3, 4, (30, 3)).double() @ cell
        assert edge_tuples(*neighbors(moved, cell, TRUE)) == ase_edges(Crystal(moved, cell, TRUE, cell), 3.0)
    assert neighbors.n_rebuilds == 1


def test_drift_of_the_whole_structure_does_not_rebuild():
    pos, cell = cubic()
    neighbors = VerletList(3.0, skin=0.2)
    for step in range(5):
        neighbors(pos + 2.3 * step, cell, TRUE)
    assert neighbors.n_rebuilds == 1


def test_rebuilds_at_half_the_skin():
    pos, cell = cubic()
    neighbors = VerletList(3.0, skin=0.4)
    neighbors(pos, cell, TRUE)
    pos[0, 0] += 0.2  # in place: the reference must be a copy
    neighbors(pos, cell, TRUE)
    assert neighbors.n_rebuilds == 1  # 29 / 30 of 0.2, as the drift is subtracted
    pos[0, 0] += 0.2
    neighbors(pos, cell, TRUE)
    assert neighbors.n_rebuilds == 2


def test_compression_alone_rebuilds_and_expansion_does_not():
    pos, cell = cubic()
    for factor, rebuilds in ((1.2, 1), (0.99, 1), (0.8, 2)):
        neighbors = VerletList(3.0, skin=0.5)
        neighbors(pos, cell, TRUE)
        graph = neighbors(factor * pos, factor * cell, TRUE)
        assert neighbors.n_rebuilds == rebuilds
        assert edge_tuples(*graph) == ase_edges(Crystal(factor * pos, factor * cell, TRUE, factor * cell), 3.0)


@pytest.mark.parametrize("axes", [(1.3, 0.75, 1.0), (0.75, 1.0, 1.3), (1.0, 1.3, 0.75)])
def test_the_most_compressed_direction_decides(axes):
    # stretched along one axis and compressed along another: pairs of the second were outside the list
    pos, cell = cubic(60)
    strain = torch.diag(torch.tensor(axes, dtype=torch.float64))
    neighbors = VerletList(3.0, skin=0.5)
    neighbors(pos, cell, TRUE)
    crystal = Crystal(pos @ strain, cell @ strain, TRUE, cell @ strain)
    assert edge_tuples(*neighbors(*crystal[:3])) == ase_edges(crystal, 3.0)
    assert neighbors.n_rebuilds == 2


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.03, 0.1, 0.3]))
def test_any_deformation_leaves_the_edges_of_ase(seed, size):
    rng = np.random.default_rng(seed)
    crystal, cutoff = random_crystal(rng, 20, 1.5, max_edges=500)
    neighbors = VerletList(cutoff, skin=0.15 * cutoff)
    neighbors(*crystal[:3])
    deformation = torch.from_numpy(np.eye(3) + rng.uniform(-size, size, (3, 3)))
    moved = Crystal(crystal.pos @ deformation, crystal.cell @ deformation, crystal.pbc, crystal.full_cell @ deformation)
    assert edge_tuples(*neighbors(*moved[:3])) == ase_edges(moved, cutoff)


def test_cell_change_without_atoms_moving_is_seen():
    # with the positions fixed, only the images come closer
    pos = torch.zeros(1, 3, dtype=torch.float64)
    neighbors = VerletList(3.0, skin=0.5)
    for length in (4.0, 3.6, 3.2, 2.9, 1.4):
        cell = length * torch.eye(3, dtype=torch.float64)
        assert edge_tuples(*neighbors(pos, cell, TRUE)) == ase_edges(Crystal(pos, cell, TRUE, cell), 3.0)


def test_other_systems_rebuild():
    pos, cell = cubic()
    neighbors = VerletList(3.0, skin=0.5)
    calls = [
        (pos, cell, TRUE),
        (pos[:20], cell, TRUE),
        (pos[:20], cell, ~TRUE),
        (pos[:20].float(), cell.float(), ~TRUE),
    ]
    for args in calls:
        assert edge_tuples(*neighbors(*args)) == edge_tuples(*radius_graph(args[0], 3.0, cell=args[1], pbc=args[2]))
    assert edge_tuples(neighbors(pos[:20].float())) == edge_tuples(radius_graph(pos[:20].float(), 3.0))
    halves = torch.arange(2).repeat_interleave(10)
    assert edge_tuples(neighbors(pos[:20].float(), batch=halves)) == edge_tuples(
        radius_graph(pos[:20].float(), 3.0, halves)
    )
    assert neighbors.n_rebuilds == 6


@pytest.mark.parametrize("axis", range(3))
def test_axes_that_are_no_longer_periodic_rebuild(axis):
    # an open axis is completed by a unit vector, which the lattice vector is already: the lattice stays the same
    lengths, pbc = torch.full((3,), 8.0, dtype=torch.float64), TRUE.clone()
    lengths[axis], pbc[axis] = 1.0, False
    cell = torch.diag(lengths)
    pos = torch.rand(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) @ cell
    neighbors = VerletList(3.0, skin=0.5)
    for periodic in (TRUE, pbc, TRUE):
        assert edge_tuples(*neighbors(pos, cell, periodic)) == ase_edges(Crystal(pos, cell, periodic, cell), 3.0)
    assert neighbors.n_rebuilds == 3


def test_returned_graph_belongs_to_the_caller():
    pos, cell = cubic()
    neighbors = VerletList(3.0, skin=0.5)
    expected = edge_tuples(*neighbors(pos, cell, TRUE))
    for part in neighbors(pos, cell, TRUE):
        part.fill_(-1)
    assert edge_tuples(*neighbors(pos, cell, TRUE)) == expected


def test_repr_counts():
    assert repr(VerletList(3.0, 0.5)) == "VerletList(cutoff=3.0, skin=0.5, n_rebuilds=0)"


@pytest.mark.parametrize(("cutoff", "skin", "message"), [(0, 1, "cutoff must be a positive"), (1, 0, "skin must be")])
def test_bad_lengths(cutoff, skin, message):
    with pytest.raises(ValueError, match=message):
        VerletList(cutoff, skin)


def test_no_atoms():
    neighbors = VerletList(3.0, skin=0.5)
    for _ in range(2):
        edge_index, edge_shift = neighbors(torch.empty(0, 3), torch.eye(3), TRUE)
        assert (edge_index.shape, edge_shift.shape) == ((2, 0), (0, 3))
        assert neighbors(torch.empty(0, 3)).shape == (2, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos": torch.full((3, 3), torch.nan)}, "pos must be finite"),
        ({"cell": torch.full((3, 3), torch.inf)}, "cell must be finite"),
        ({"cell": torch.zeros(3, 3)}, "zero or linearly dependent"),
        ({"batch": torch.tensor([0, 0, 1])}, "cell must hold one cell for each of 2"),
        ({"pbc": None}, "cell was given without pbc"),
    ],
)
def test_what_is_wrong_is_said(change, message):
    given = {"pos": torch.rand(3, 3), "cell": 3.0 * torch.eye(3), "pbc": torch.ones(3, dtype=torch.bool)}
    neighbors = VerletList(2.0, 0.5)
    neighbors(**given)
    with pytest.raises(ValueError, match=message):
        neighbors(**{**given, **change})
