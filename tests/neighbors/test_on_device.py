"""The search of devices that a read waits for, on the CPU: the same edges as ASE and the other search, few reads."""

from importlib import import_module

import numpy as np
import pytest
import torch

from pyg_schnet.neighbors import on_device, radius_graph
from pyg_schnet.neighbors.brute import brute_radius_graph, edge_tuples
from tests.reads import Reads

from .structures import ase_edges, collate, random_crystal, random_molecules


@pytest.fixture(autouse=True)
def device(monkeypatch):
    """Reads wait for every device here; says which searches were taken."""
    taken = []
    for name in ("open_graph", "periodic_graph"):
        module = import_module(f"pyg_schnet.neighbors.{'radius' if name == 'open_graph' else 'periodic'}")
        original = getattr(on_device, name)

        def call(*arguments, name=name, original=original):
            found = original(*arguments)
            taken.append((name, found is not None))
            return found

        monkeypatch.setattr(module, name, call)
        monkeypatch.setattr(module, "is_waited_for", lambda pos: True)
    monkeypatch.setattr(on_device, "chunk_size", lambda device: 2**20)
    return taken


def test_molecules_have_the_edges_of_brute_force(device):
    rng = np.random.default_rng(0)
    for k in range(30):
        pos, batch, n_structures = random_molecules(rng, torch.float32 if k % 2 else torch.float64)
        cutoff = float(rng.uniform(0.1, 8.0))
        index = radius_graph(pos, cutoff, batch, batch_size=n_structures if k % 3 else None)
        assert edge_tuples(index) == sorted((j, i) for j, i in brute_radius_graph(pos, cutoff, batch)[0].T.tolist())
        assert (index[1].diff() >= 0).all()
        assert index.dtype == torch.int64
    assert ("open_graph", True) in device


def test_crystals_slabs_and_wires_have_the_edges_of_ase(device):
    rng = np.random.default_rng(2)
    for _ in range(25):
        crystal, cutoff = random_crystal(rng, 20, 2.0, max_edges=800)
        index, shift = radius_graph(crystal.pos, cutoff, cell=crystal.cell, pbc=crystal.pbc)
        assert edge_tuples(index, shift) == ase_edges(crystal, cutoff)
        assert (index[1].diff() >= 0).all()
        assert shift.dtype == torch.int32
    assert set(device) == {("periodic_graph", True)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_structures_of_one_batch_keep_their_own_periodic_axes(device, dtype):
    rng = np.random.default_rng(3)
    for _ in range(5):
        pos, batch, cell, pbc = collate([random_crystal(rng, 8)[0] for _ in range(4)])
        pos, cell = pos.to(dtype), cell.to(dtype)
        found = radius_graph(pos, 2.5, batch, cell=cell, pbc=pbc)
        assert edge_tuples(*found) == edge_tuples(*radius_graph(pos, 2.5, batch, cell=cell, pbc=pbc, backend="vesin"))
    assert set(device) == {("periodic_graph", True)}


def test_perfect_crystals_whose_neighbours_are_at_the_cutoff(device):
    pos, cell = torch.zeros(1, 3), 2.0 * torch.eye(3)
    assert radius_graph(pos, 2.0, cell=cell, pbc=[True] * 3)[0].size(1) == 0
    assert radius_graph(pos, 2.0001, cell=cell, pbc=[True] * 3)[0].size(1) == 6
    both = torch.zeros(2, 3)
    assert edge_tuples(radius_graph(both, 1.0)) == [(0, 1), (1, 0)]


def test_reads():
    """The number of edges with open boundaries, and that of images before it with a cell, with all checks."""
    generator = torch.Generator().manual_seed(0)
    pos, batch = 4.0 * torch.rand(40, 3, generator=generator), torch.arange(4).repeat_interleave(10)
    cell, pbc = 5.0 * torch.eye(3).repeat(4, 1, 1), torch.tensor([[1, 1, 1], [1, 1, 0], [0, 0, 0], [1, 0, 0]]).bool()
    for arguments, lattice, count in (
        ((pos, 3.0), {}, 1),
        ((pos, 3.0, batch), {}, 1),
        ((pos, 3.0, batch), {"batch_size": 4}, 1),
        ((pos, 3.0, batch), {"cell": cell, "pbc": pbc}, 2),
        ((pos[:10], 3.0), {"cell": cell[0], "pbc": pbc[:1]}, 2),
        ((pos, 3.0, batch), {"cell": cell, "pbc": torch.zeros_like(pbc), "batch_size": 4}, 2),
    ):
        with Reads() as reads:
            radius_graph(*arguments, **lattice)
        assert len(reads.found) == count, reads.found


def test_reads_of_the_search_in_chunks(monkeypatch):
    """Their number does not grow with the number of atoms as long as chunks hold all candidates."""
    counts = []
    monkeypatch.setattr(on_device, "chunk_size", lambda device: 10)
    monkeypatch.setattr("pyg_schnet.ops.radius.kernels_for", lambda *_, **__: None)
    for n_atoms in (50, 150):
        pos = 6.0 * torch.rand(n_atoms, 3, generator=torch.Generator().manual_seed(n_atoms))
        with Reads() as reads:
            found = radius_graph(pos, 2.0)
        assert edge_tuples(found) == edge_tuples(brute_radius_graph(pos, 2.0)[0])
        counts.append(len(reads.found))
    assert counts[0] == counts[1] <= 5


def test_where_there_are_more_pairs_the_other_search_is_taken(device, monkeypatch):
    monkeypatch.setattr(on_device, "chunk_size", lambda device: 10)
    pos = torch.rand(6, 3, generator=torch.Generator().manual_seed(0))
    for lattice in ({}, {"cell": 1.5 * torch.eye(3), "pbc": torch.ones(3, dtype=torch.bool)}):
        found = radius_graph(pos, 1.0, **lattice)
        expected = brute_radius_graph(pos, 1.0, **lattice)
        assert edge_tuples(*(found if lattice else (found,))) == edge_tuples(*(expected if lattice else expected[:1]))
    assert device == [("open_graph", False), ("periodic_graph", False)]


NAN, FAR = torch.tensor([[0.0, 0.0, torch.nan]]), torch.tensor([[0.0, 0.0, 0.0], [1e30, 0.0, 0.0]])
CELL, PBC = {"cell": torch.eye(3)}, {"pbc": torch.ones(3, dtype=torch.bool)}


@pytest.mark.parametrize(
    ("arguments", "lattice", "message"),
    [
        ((NAN, 1.0), {}, "pos must be finite"),
        ((NAN, 1.0), CELL | PBC, "pos must be finite"),
        ((torch.rand(3, 3), 1.0, torch.tensor([1, 0, 1])), {}, "sorted in ascending order"),
        ((torch.rand(3, 3), 1.0, torch.tensor([0, 1, 5])), {"batch_size": 2}, "batch_size must be at least 6"),
        ((torch.rand(2, 3), 1.0, torch.tensor([-1, 0])), {}, "must not be negative"),
        ((torch.rand(2, 3), 1.0), {"batch_size": 0}, "batch_size must be at least 1"),
        ((torch.rand(2, 3), 1.0), {"batch_size": -1}, "batch_size must be the number of structures"),
        ((torch.rand(2, 3), 1.0), PBC | {"cell": torch.zeros(3, 3)}, "zero or linearly dependent"),
        ((torch.rand(2, 3), 1.0), PBC | {"cell": torch.full((3, 3), torch.inf)}, "cell must be finite"),
        ((torch.rand(2, 3), 1.0), PBC | {"cell": 1e-3 * torch.eye(3)}, "lattice images of its atoms within"),
        ((FAR, 1.0), CELL | PBC, "too far away"),
        ((torch.rand(2, 3), 1.0, torch.tensor([0, 1])), CELL | PBC, "cell must hold one cell for each of 2"),
        ((torch.rand(2, 3), 1.0), CELL, "cell was given without pbc"),
        ((torch.rand(2, 2), 1.0), {}, "pos must have shape"),
    ],
)
def test_what_is_wrong_is_said_as_elsewhere(arguments, lattice, message):
    with pytest.raises(ValueError, match=message):
        radius_graph(*arguments, **lattice)


def test_devices():
    assert not on_device.is_waited_for(torch.zeros(1, 3))
    assert not on_device.is_waited_for(torch.zeros(1, 3, device="meta"))
    assert radius_graph(torch.zeros(0, 3), 1.0).shape == (2, 0)
