"""Graphs that are searched once and kept with the structures of a data set."""

import pytest
import torch
from ase import Atoms
from torch_geometric.data import Data, InMemoryDataset
from torch_geometric.loader import DataLoader

from pyg_schnet.data import AtomsDataset, NeighborList, StructureLoader, StructureStore, to_data
from pyg_schnet.data.graphs import MAX_BYTES, size_of_graphs, with_graphs
from pyg_schnet.data.transforms import cutoff_of_edges

CUTOFF = 4.5


@pytest.fixture
def dataset(water, ethanol, nacl, triclinic, slab, small_cell):
    return AtomsDataset([water, ethanol, nacl, triclinic, slab, small_cell])


def edges_of(data):
    shift = data.edge_shift if "edge_shift" in data else torch.zeros(data.edge_index.size(1), 3)
    return sorted(zip(*data.edge_index.tolist(), *shift.t().tolist(), strict=True))


@pytest.mark.parametrize("loader", [StructureLoader, DataLoader])
def test_batches_are_those_of_neighbor_lists(dataset, loader):
    kept = with_graphs(dataset, CUTOFF)
    order = [5, 1, 3, 0, 2, 4]
    found = next(iter(loader(kept[order], 6)))
    expected = next(iter(StructureLoader(dataset[order], 6, transform=NeighborList(CUTOFF, periodic=True))))
    assert cutoff_of_edges(found) == CUTOFF
    assert edges_of(found) == edges_of(expected)
    assert found.edge_index.max() < found.num_nodes
    for one, other in zip(found.to_data_list(), expected.to_data_list(), strict=True):
        assert edges_of(one) == edges_of(other)
        assert cutoff_of_edges(one) == CUTOFF
    assert torch.equal(found.pos, expected.pos)


def test_selections_have_their_own_edges_only(dataset):
    order = [4, 2, 2]
    kept = with_graphs(dataset[order], CUTOFF)
    assert len(kept) == 3
    for data, k in zip(kept, order, strict=True):
        assert edges_of(data) == edges_of(NeighborList(CUTOFF, periodic=True)(dataset[k]))
    others = size_of_graphs(with_graphs(dataset, CUTOFF))
    assert 0 < size_of_graphs(kept) < others


def test_the_data_set_itself_stays_as_it_is(dataset):
    keys = set(dataset._data.keys())
    with_graphs(dataset, CUTOFF)
    assert set(dataset._data.keys()) == keys == set(dataset.slices)
    assert "edge_index" not in dataset[0]


def test_an_edge_takes_eleven_bytes(dataset):
    kept = with_graphs(dataset, CUTOFF)
    assert kept._data.edge_index.dtype == torch.int32
    assert kept._data.edge_shift.dtype == torch.int8
    assert size_of_graphs(kept) == 11 * kept._data.edge_index.size(1)


def test_shifts_that_need_more_bytes_have_them():
    far, near = (to_data(Atoms("H", [[0.0, 0.0, 0.0]], cell=[length, 20.0, 20.0], pbc=True)) for length in (0.1, 3.0))
    kept = with_graphs(Stored([far, near]), 20.0)
    assert kept._data.edge_shift.abs().max() >= 199
    assert edges_of(kept[0]) == edges_of(NeighborList(20.0)(far))


def test_molecules_have_no_shifts(water, ethanol):
    kept = with_graphs(AtomsDataset([water, ethanol]), CUTOFF)
    assert "edge_shift" not in kept[0]
    assert edges_of(kept[1]) == edges_of(NeighborList(CUTOFF)(to_data(ethanol)))


class Stored(InMemoryDataset):
    def __init__(self, structures, transform=None):
        super().__init__(transform=transform)
        self.data, self.slices = self.collate(structures)


def test_graphs_that_take_too_much_memory_are_not_kept(dataset):
    size = size_of_graphs(with_graphs(dataset, CUTOFF))
    assert with_graphs(dataset, CUTOFF, max_bytes=size) is not None
    assert with_graphs(dataset, CUTOFF, max_bytes=size - 1) is None
    assert with_graphs(dataset, CUTOFF, max_bytes=None) is not None
    assert MAX_BYTES == 2**30


def test_other_data_sets_are_left_alone(dataset, water, tmp_path):
    structures = [to_data(water) for _ in range(3)]
    assert with_graphs(structures, CUTOFF) is None
    assert with_graphs(Stored(structures, transform=lambda data: data), CUTOFF) is None
    assert with_graphs(with_graphs(dataset, CUTOFF), CUTOFF) is None
    bonds = [Data(z=data.z, pos=data.pos, edge_index=torch.tensor([[0], [1]])) for data in structures]
    assert with_graphs(Stored(bonds), CUTOFF) is None
    store = StructureStore.create(tmp_path / "store", structures)
    assert with_graphs(store, CUTOFF) is None
    store.close()


def test_a_store_keeps_graphs_that_are_made_when_it_is_written(dataset, tmp_path):
    search = NeighborList(CUTOFF, periodic=True)
    store = StructureStore.create(tmp_path / "store", dataset, pre_transform=search)
    batch = next(iter(StructureLoader(store, 6)))
    assert cutoff_of_edges(batch) == CUTOFF
    assert edges_of(batch) == edges_of(next(iter(StructureLoader(dataset, 6, transform=search))))
    store.close()
