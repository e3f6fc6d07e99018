import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111, molecule
from ase.neighborlist import neighbor_list
from torch_geometric.data import Batch

from pyg_schnet.data import AtomsDataset, NeighborList, StructureLoader, to_atoms, to_data
from pyg_schnet.data.loader import collate_indices
from pyg_schnet.geometry import edge_distances


@pytest.fixture(scope="module")
def mixed():
    return AtomsDataset(
        [
            molecule("CH3OH"),
            bulk("NaCl", "rocksalt", a=5.6),
            fcc111("Cu", (1, 1, 2)),
            molecule("H2O"),
            molecule("H2O")[:1],
        ]
    )


def edges(data):
    """Edges as a sorted list, since their order within an atom is not stated."""
    shift = data.edge_shift if "edge_shift" in data else torch.zeros(data.edge_index.size(1), 3)
    return sorted(torch.cat([data.edge_index.T, shift], dim=1).int().tolist())


def test_a_molecule_gets_edges_only():
    data = NeighborList(2.0)(to_data(molecule("H2O")))
    assert sorted(data.keys()) == ["cell", "edge_index", "neighbor_list", "origin", "pbc", "pos", "z"]
    assert edges(data) == [[j, i, 0, 0, 0] for j in range(3) for i in range(3) if i != j]
    near = edges(NeighborList(1.0)(to_data(molecule("H2O"))))  # the two bonds
    assert [edge[:2] for edge in near] == [[0, 1], [0, 2], [1, 0], [2, 0]]


def test_a_crystal_gets_shifts():
    data = NeighborList(3.0)(to_data(bulk("NaCl", "rocksalt", a=5.6)))
    assert data.edge_index.shape == (2, 12)
    distances = edge_distances(data.pos, data.edge_index, data.edge_shift, data.cell)
    torch.testing.assert_close(distances, torch.full((12,), 2.8))


def test_the_input_is_not_changed():
    data = to_data(molecule("H2O"))
    NeighborList(2.0)(data)
    assert "edge_index" not in data


def test_whole_batch_equals_single_structures(mixed):
    transform = NeighborList(4.0, periodic=True)
    together = transform(collate_indices(mixed, range(5)))
    single = Batch.from_data_list([transform(data) for data in mixed])
    assert together.edge_shift.shape == (together.edge_index.size(1), 3)
    assert edges(together) == edges(single)
    for data, atoms in zip(together.to_data_list(), map(to_atoms, mixed), strict=True):
        i, j, shift = neighbor_list("ijS", atoms, 4.0)
        assert edges(data) == sorted(np.column_stack([j, i, shift]).tolist())
    for a, b in zip(together.to_data_list(), single.to_data_list(), strict=True):
        assert edges(a) == edges(b)
        assert a.edge_index.size(1) == 0 or int(a.edge_index.max()) < a.num_nodes


def test_shifts_are_joined_without_counting_on(mixed):
    crystal = NeighborList(4.0)(mixed[1])
    batch = Batch.from_data_list([crystal, crystal])
    n_edges = crystal.edge_index.size(1)
    assert torch.equal(batch.edge_shift[n_edges:], crystal.edge_shift)
    assert torch.equal(batch.edge_index[:, n_edges:], crystal.edge_index + 2)


def test_shifts_only_where_a_structure_is_periodic(mixed):
    transform = NeighborList(4.0)
    assert "edge_shift" not in transform(collate_indices(mixed, [0, 3]))
    assert "edge_shift" in transform(collate_indices(mixed, [0, 1]))
    again = transform(transform(collate_indices(mixed, [0, 1])))
    assert edges(again) == edges(transform(collate_indices(mixed, [0, 1])))
    with pytest.raises(ValueError, match="periodic=False, but a structure is periodic"):
        NeighborList(4.0, periodic=False)(mixed[1])


def test_a_structure_without_cell(mixed):
    data = mixed[1]
    del data.cell
    with pytest.raises(ValueError, match="no `cell`"):
        NeighborList(4.0)(data)
    del data.pbc
    assert not NeighborList(4.0, periodic=True)(data).edge_shift.any()


@pytest.mark.parametrize("cutoff", [0.0, -1.0, float("nan")])
def test_bad_cutoffs(cutoff):
    with pytest.raises(ValueError, match="positive length in Å"):
        NeighborList(cutoff)


def test_repr():
    assert repr(NeighborList(5)) == "NeighborList(cutoff=5.0 Å)"


def test_in_the_loader(mixed):
    loader = StructureLoader(mixed, batch_size=2, transform=NeighborList(4.0))
    assert all("edge_index" in batch for batch in loader)
    first = next(iter(loader))
    assert edges(first[0]) == edges(NeighborList(4.0, periodic=True)(mixed[0]))
