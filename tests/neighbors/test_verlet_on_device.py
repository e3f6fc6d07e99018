"""A list that is reused on a device: the edges and rebuilds of the other way, in one read."""

import pytest
import torch

from pyg_schnet.neighbors import VerletList, radius_graph, verlet
from pyg_schnet.neighbors.brute import edge_tuples
from pyg_schnet.neighbors.lattice import Lattice
from tests.reads import Reads, elsewhere

from .test_verlet import (  # noqa: F401 - run here with the fixture below
    test_any_deformation_leaves_the_edges_of_ase,
    test_axes_that_are_no_longer_periodic_rebuild,
    test_batch_of_walks_is_exact,
    test_cell_change_without_atoms_moving_is_seen,
    test_compression_alone_rebuilds_and_expansion_does_not,
    test_drift_of_the_whole_structure_does_not_rebuild,
    test_no_atoms,
    test_open_boundaries,
    test_other_systems_rebuild,
    test_random_walk_with_wrapping_and_strain_is_exact,
    test_rebuilds_at_half_the_skin,
    test_returned_graph_belongs_to_the_caller,
    test_the_most_compressed_direction_decides,
    test_what_is_wrong_is_said,
    test_wrapping_alone_never_rebuilds,
)


@pytest.fixture(autouse=True)
def _device(monkeypatch):
    """Reads wait for every device here."""
    monkeypatch.setattr(verlet, "is_waited_for", lambda pos: True)


@pytest.mark.parametrize("lattice", [{}, {"cell": 6.0, "pbc": [True, True, False]}], ids=["open", "slab"])
def test_one_read(lattice, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    pos, batch = 6.0 * torch.rand(40, 3, generator=generator), torch.arange(2).repeat_interleave(20)
    if lattice:
        cell = lattice["cell"] * torch.eye(3).repeat(2, 1, 1)
        lattice = {"cell": cell, "pbc": torch.tensor(lattice["pbc"]).repeat(2, 1)}
    neighbors = VerletList(3.0, 0.6)
    neighbors(pos, batch=batch, **lattice)
    elsewhere(monkeypatch)
    for step in range(3):
        moved = pos + 0.08 * torch.randn(pos.shape, generator=generator).clamp(-1.0, 1.0)
        if lattice and step == 2:  # wrapped, in another cell
            moved = torch.where(moved[:, :2] < 1.0, 1.0, 0.0) @ torch.eye(3)[:2] * 6.0 + moved
            scale = 1.01
            moved, lattice = scale * moved, {**lattice, "cell": scale * cell}
        with Reads() as reads:
            found = neighbors(moved, batch=batch, **lattice)
        assert reads.found == ["tolist"]
        assert neighbors.n_rebuilds == 1
        expected = radius_graph(moved, 3.0, batch, **lattice)
        found, expected = (one if lattice else (one,) for one in (found, expected))
        assert edge_tuples(*found) == edge_tuples(*expected)


def test_the_stretch_is_bounded_from_below(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    old = Lattice.from_cell(
        4.0 * torch.eye(3, dtype=torch.float64).repeat(50, 1, 1), torch.ones(50, 3, dtype=torch.bool)
    )
    strain = torch.eye(3) + 0.2 * torch.randn(50, 3, 3, generator=generator, dtype=torch.float64)
    strain[:2] = torch.tensor([1.3, 0.8]).view(2, 1, 1) * torch.eye(3)  # which is known exactly
    new = Lattice.from_cell(old.cell @ strain, old.pbc)
    bound = verlet._least_stretch(old, new)
    exact = torch.linalg.svdvals(strain)[:, -1]
    assert (bound <= exact + 1e-12).all()
    torch.testing.assert_close(bound[:2], exact[:2], rtol=1e-12, atol=0)
    monkeypatch.setattr(verlet, "is_waited_for", lambda pos: False)
    torch.testing.assert_close(verlet._least_stretch(old, new), exact, rtol=1e-12, atol=0)


def test_lists_without_edges_are_reused():
    pos = torch.tensor([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
    neighbors = VerletList(2.0, 0.5)
    for _ in range(2):
        assert neighbors(pos).shape == (2, 0)
    assert neighbors.n_rebuilds == 1
