import pickle

import pytest
import torch
from ase.build import bulk, molecule
from torch_geometric.data import Data

from pyg_schnet.data import AtomsDataset, NeighborList, StructureLoader, StructureStore, random_split
from pyg_schnet.data.loader import collate_indices
from pyg_schnet.data.properties import properties_of
from pyg_schnet.data.split import fingerprint


def assert_same(a, b):
    assert sorted(a.keys()) == sorted(b.keys())
    for key in b.keys():  # noqa: SIM118 - a Batch iterates over its structures
        same = torch.equal(a[key], b[key]) if isinstance(b[key], torch.Tensor) else a[key] == b[key]
        assert same, key
        assert not isinstance(b[key], torch.Tensor) or a[key].dtype == b[key].dtype


@pytest.fixture(scope="module")
def store(qm9, tmp_path_factory):
    return StructureStore.create(tmp_path_factory.mktemp("store"), qm9, chunk_size=7)


def test_structures_and_targets_come_back(store, qm9):
    again = StructureStore(store.root)
    assert len(again) == len(qm9)
    for a, b in zip(again, qm9, strict=True):
        assert_same(a, b)
    assert properties_of(again) == properties_of(qm9)
    assert fingerprint(again) == fingerprint(qm9)


def test_batches_are_those_of_the_set_in_memory(store, qm9):
    for indices in ([3], [5, 0, 29, 5]):
        assert_same(collate_indices(store, indices), collate_indices(qm9, indices))
    chosen = [9, 4, 7, 1]
    assert_same(collate_indices(store[chosen], [2, 0]), collate_indices(qm9[chosen], [2, 0]))
    assert [data.name for data in store[chosen].__getitems__([2, 0])] == ["gdb_8", "gdb_10"]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_streams_from_it(store, qm9, num_workers):
    train, _, _ = random_split(store, 20, 5).apply(store)
    expected, _, _ = random_split(qm9, 20, 5).apply(qm9)
    transform = NeighborList(5.0)
    store[0]  # the file is open when the workers start
    ours = StructureLoader(train, batch_size=6, transform=transform, num_workers=num_workers)
    theirs = StructureLoader(expected, batch_size=6, transform=transform)
    for a, b in zip(ours, theirs, strict=True):
        assert_same(a, b)


def test_tensors_can_be_written_to(store):
    data = store[0]
    before = data.pos.clone()
    data.pos += 1.0
    assert torch.equal(store[0].pos, before)


def test_it_can_be_pickled_and_closed(store):
    assert_same(pickle.loads(pickle.dumps(store))[1], store[1])
    store.close()
    assert len(store[:3]) == 3
    assert store[2].name == "gdb_3"


def test_graphs_and_mixed_labels(tmp_path):
    crystal = bulk("NaCl", "rocksalt", a=5.6)
    dataset = AtomsDataset([molecule("H2O"), crystal, molecule("H2O")[:1]], transform=NeighborList(3.0, periodic=True))
    store = StructureStore.create(tmp_path, dataset)
    assert_same(collate_indices(store, [2, 1, 0]), collate_indices(dataset, [2, 1, 0]))


def test_a_generator_is_enough(tmp_path):
    structures = (Data(z=torch.full((n,), 6), pos=torch.zeros(n, 3)) for n in range(1, 6))
    store = StructureStore.create(tmp_path, structures, chunk_size=2)
    assert [data.num_nodes for data in store] == [1, 2, 3, 4, 5]
    with pytest.raises(FileExistsError, match="overwrite=True"):
        StructureStore.create(tmp_path, [])
    (tmp_path / "mine.txt").write_text("not of the store")
    with pytest.raises(ValueError, match="'y' is 3"):
        StructureStore.create(tmp_path, [Data(y=3)], overwrite=True)
    assert len(StructureStore(tmp_path)) == 5  # the old one is kept until the new one is complete
    assert len(StructureStore.create(tmp_path, [store[0]], overwrite=True)) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", "structures.db", "structures.json"]


def test_bad_stores(tmp_path):
    with pytest.raises(FileNotFoundError, match="no complete store"):
        StructureStore(tmp_path)
    with pytest.raises(ValueError, match="no structures"):
        StructureStore.create(tmp_path, [])
    with pytest.raises(ValueError, match="attribute 'y' is 3; a store holds tensors"):
        StructureStore.create(tmp_path, [Data(y=3)])
    good, other = Data(pos=torch.zeros(1, 3)), Data(pos=torch.zeros(1, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"structure 1 has attributes .*float64.* the first one .*float32"):
        StructureStore.create(tmp_path, [good, other])
    assert list(tmp_path.iterdir()) == []  # nothing is left of what was begun


def test_a_transform_that_fails_is_not_taken_for_a_damaged_file(store):
    def fails(_):
        raise ValueError("of the transform")

    store = StructureStore(store.root, transform=fails)
    for read in (lambda: store[0], lambda: store.__getitems__([0, 1])):
        with pytest.raises(ValueError, match=r"^of the transform$"):
            read()
