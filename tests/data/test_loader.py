import copy

import numpy as np
import pytest
import torch
from ase.build import bulk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import Subset
from torch_geometric.data import Batch, Data
from torch_geometric.transforms import BaseTransform

from pyg_schnet import SchNet
from pyg_schnet.data import NeighborList, StructureDataset, StructureLoader, to_data
from pyg_schnet.data import loader as loader_module
from pyg_schnet.data.loader import collate_indices


def assert_same(ours, theirs):
    """Attribute by attribute, with the bookkeeping behind ``batch[i]``."""
    assert type(ours) is type(theirs)
    assert list(ours.keys()) == list(theirs.keys())
    assert ours.num_graphs == theirs.num_graphs
    for key in theirs.keys():  # noqa: SIM118 - a Batch iterates over its structures
        assert_same_value(ours[key], theirs[key])
    for name in ("_slice_dict", "_inc_dict"):
        a, b = getattr(ours, name), getattr(theirs, name)
        assert list(a) == list(b)
        for key in b:
            assert_same_value(a[key], b[key])
    for a, b in zip(ours.to_data_list(), theirs.to_data_list(), strict=True):
        assert list(a.keys()) == list(b.keys())
        for key in b.keys():  # noqa: SIM118
            assert_same_value(a[key], b[key])


def assert_same_value(a, b):
    if isinstance(b, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    else:
        assert a == b


def pyg_batch(dataset, indices):
    return Batch.from_data_list([dataset[int(i)] for i in indices])


@pytest.fixture
def no_fallback(monkeypatch):
    monkeypatch.setattr(loader_module.Batch, "from_data_list", lambda *_, **__: pytest.fail("collated by PyG"))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(indices=st.lists(st.integers(0, 11), min_size=1, max_size=20))
def test_equals_pyg_for_any_subset(graphs, indices):
    assert loader_module.can_gather(graphs)
    assert_same(collate_indices(graphs, indices), pyg_batch(graphs, indices))


def test_equals_pyg_on_selected_and_shuffled_data_sets(graphs):
    torch.manual_seed(0)
    for dataset in (graphs[3:9], graphs[[5, 1, 7]], graphs.shuffle(), graphs[3:9].shuffle(), graphs[2:][::2]):
        indices = torch.randperm(len(dataset))[:4]
        assert_same(collate_indices(dataset, indices), pyg_batch(dataset, indices))


def test_looks_through_subsets(graphs):
    subset = Subset(Subset(graphs[1:], [4, 2, 9]), [2, 0])
    assert_same(collate_indices(subset, [1, 0]), pyg_batch(subset, [1, 0]))


def test_equals_pyg_on_qm9(qm9, no_fallback):
    batch = collate_indices(qm9, [5, 0, 5])
    assert batch.name == ["gdb_6", "gdb_1", "gdb_6"]
    assert torch.equal(batch[0].pos, batch[2].pos)
    assert torch.equal(batch[1].z, qm9[0].z)


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_kinds_of_indices(graphs, kind):
    assert_same(collate_indices(graphs, kind([2, 11, 0])), pyg_batch(graphs, [2, 11, 0]))


def test_negative_indices_count_from_the_end(graphs):
    assert_same(collate_indices(graphs, [-1, -12]), pyg_batch(graphs, [11, 0]))


def test_bad_indices(graphs):
    with pytest.raises(ValueError, match="at least one structure"):
        collate_indices(graphs, [])
    with pytest.raises(TypeError, match="for a mask, select"):
        collate_indices(graphs, [True, False])
    with pytest.raises(IndexError, match="run from 0 to 12; the data set has 12 structures"):
        collate_indices(graphs, [0, 12])
    with pytest.raises(IndexError, match="run from -3 to 0; the data set has 2"):
        collate_indices(graphs[:2], [-3, 0])


def test_exclude_keys(graphs):
    ours = collate_indices(graphs, [0, 1], exclude_keys=["pos", "name"])
    theirs = Batch.from_data_list([graphs[0], graphs[1]], exclude_keys=["pos", "name"])
    assert list(ours.keys()) == list(theirs.keys())
    assert torch.equal(ours.ptr, theirs.ptr)


class Shift(BaseTransform):
    def forward(self, data):
        data.pos = data.pos + 1.0
        return data


class OtherData(Data):
    def __inc__(self, key, value, *args, **kwargs):
        return 7 if key == "label" else super().__inc__(key, value, *args, **kwargs)


@pytest.mark.parametrize("how", ["transform", "increment", "nested", "batch in a name", "no list", "num_nodes"])
def test_falls_back_to_pyg(graphs, list_dataset, how):
    structures = [graphs[i] for i in range(4)]
    if how == "transform":
        dataset = list_dataset(structures, transform=Shift())
    elif how == "no list":
        dataset = structures
    else:
        for k, structure in enumerate(structures):
            if how == "nested":
                structure.extra = {"a": torch.full((2,), k)}
            elif how == "batch in a name":
                structure.fragment_batch = torch.arange(k + 1)
            elif how == "num_nodes":
                structure.num_nodes = structure.pos.size(0)
        if how == "increment":
            structures = [OtherData(label=torch.tensor([k]), **s.to_dict()) for k, s in enumerate(structures)]
        dataset = list_dataset(structures)
    assert not loader_module.can_gather(dataset)
    ours, theirs = collate_indices(dataset, [3, 1]), pyg_batch(dataset, [3, 1])
    for key in theirs.keys():  # noqa: SIM118
        if how != "nested" or key != "extra":
            assert_same_value(ours[key], theirs[key])
    if how == "increment":
        assert ours.label.tolist() == [3, 8]


def test_loader_covers_the_data_set_once(graphs):
    loader = StructureLoader(graphs, batch_size=5)
    assert [batch.num_graphs for batch in loader] == [5, 5, 2]
    assert torch.cat([batch.idx for batch in loader]).tolist() == list(range(12))
    assert len(loader) == 3
    assert [b.num_graphs for b in StructureLoader(graphs, batch_size=5, drop_last=True)] == [5, 5]
    assert loader.structures is graphs


def test_loader_shuffles_by_its_generator(graphs):
    def order(seed):
        loader = StructureLoader(graphs, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(seed))
        return [torch.cat([batch.idx for batch in loader]).tolist() for _ in range(2)]

    first, second = order(0)
    assert sorted(first) == list(range(12))
    assert first != second
    assert order(0) == [first, second]
    assert order(1)[0] != first


def test_loader_applies_the_transform_to_whole_batches(graphs):
    seen = []

    def transform(batch):
        seen.append(batch.num_graphs)
        return batch

    list(StructureLoader(graphs, batch_size=5, transform=transform))
    assert seen == [5, 5, 2]


def test_loader_with_workers(graphs):
    alone = list(StructureLoader(graphs, batch_size=5, transform=Shift()))
    helped = list(StructureLoader(graphs, batch_size=5, transform=Shift(), num_workers=2))
    for a, b in zip(alone, helped, strict=True):
        assert_same(a, b)


def test_loader_of_lists_and_of_index_lists(graphs):
    assert next(iter(StructureLoader([graphs[0], graphs[1]], batch_size=2))).num_graphs == 2
    loader = StructureLoader(graphs, batch_size=None, sampler=[[1, 2], [3]])
    assert [batch.idx.tolist() for batch in loader] == [[1, 2], [3]]


def test_loader_can_be_rebuilt_from_its_attributes(graphs):
    # what Lightning does to put in a distributed sampler
    loader = StructureLoader(graphs, batch_size=4, transform=Shift(), exclude_keys=["name"])
    again = StructureLoader(
        dataset=loader.dataset,
        batch_size=loader.batch_size,
        transform=loader.transform,
        exclude_keys=loader.exclude_keys,
        collate_fn=loader.collate_fn,
        sampler=[3, 1],
    )
    assert again.structures is graphs
    batch = next(iter(again))
    assert batch.idx.tolist() == [3, 1]
    assert "name" not in batch


def test_structures_without_a_lattice_beside_crystals():
    """PyG keeps the attributes of the first structure: after a molecule, crystals would lose their cells and shifts."""
    molecule_ = Data(z=torch.tensor([1, 1]), pos=torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.8]]))
    crystal = to_data(bulk("NaCl", "rocksalt", a=5.6))
    torch.manual_seed(0)
    model = SchNet(16, 16, 1, 10, 5.0).eval()
    alone = [model(molecule_.z, molecule_.pos).item()]
    alone.append(model(crystal.z, crystal.pos, cell=crystal.cell, pbc=crystal.pbc).item())
    for order in ([0, 1], [1, 0]):
        structures = [(molecule_, crystal)[k] for k in order]
        batch = collate_indices(structures, [0, 1])
        assert batch.origin.tolist() == [[0.0] * 3] * 2
        energy = model(batch.z, batch.pos, batch.batch, cell=batch.cell, pbc=batch.pbc)
        assert energy.flatten().tolist() == pytest.approx([alone[k] for k in order], rel=1e-5)
        batch = collate_indices([NeighborList(5.0)(data) for data in structures], [0, 1])
        graph = {name: batch[name] for name in ("edge_index", "edge_shift", "cell", "pbc")}
        energy = model(batch.z, batch.pos, batch.batch, **graph)
        assert energy.flatten().tolist() == pytest.approx([alone[k] for k in order], rel=1e-5)
    assert "cell" not in molecule_
    assert "cell" not in collate_indices([molecule_, crystal], [0, 1], exclude_keys=["cell", "pbc", "origin"])


# data sets on a device


def moved(dataset):
    """A copy of a data set on a device of which tensors have no numbers."""
    there = copy.deepcopy(dataset)
    there._data_list = None  # structures that were cut out before, which PyG refuses to move
    return there.to("meta")


def test_data_sets_of_this_package_can_be_moved_at_any_time():
    dataset = StructureDataset()
    dataset.set_store(torch.tensor([1, 2, 1]), {"pos": torch.zeros(4, 3)}, {"energy": torch.arange(3.0)})
    part = dataset[1:]
    assert dataset[1].pos.shape == (2, 3)
    assert dataset.to("meta") is dataset
    for one in (dataset, part):  # selections share the store
        assert collate_indices(one, [0, 1]).pos.is_meta
    assert dataset[1].pos.is_meta
    with pytest.raises(ValueError, match="subset"):
        part.to("cpu")


def test_batches_are_gathered_where_the_store_is(graphs, no_fallback):
    """Shapes and places, of tensors without numbers; the numbers are those of the CPU, by the same selections."""
    there = moved(graphs)
    assert loader_module.device_of(Subset(there, [0, 1])).type == "meta"
    assert loader_module.can_gather(there)
    for chosen in (there, Subset(there, range(len(there)))):
        batch, expected = collate_indices(chosen, [3, 1, 1]), collate_indices(graphs, [3, 1, 1])
        for key, value in expected.to_dict().items():
            if isinstance(value, torch.Tensor):
                assert (batch[key].device.type, batch[key].shape, batch[key].dtype) == (
                    "meta",
                    value.shape,
                    value.dtype,
                )
            else:
                assert batch[key] == value
        assert batch.num_graphs == 3
        bounds = batch._slice_dict
        assert all(torch.equal(bounds[key], expected._slice_dict[key]) for key in bounds)  # on the CPU, as PyG's


def test_rows_are_sent_to_the_store(graphs, monkeypatch):
    """With numbers: a device of which tensors are said to be, to which rows are sent."""
    sent = []
    monkeypatch.setattr(loader_module, "_sent", lambda numbers, device: sent.append(device) or numbers)
    assert_same(collate_indices(graphs, [4, 0, 2]), pyg_batch(graphs, [4, 0, 2]))
    assert set(sent) == {torch.device("cpu")}


def test_a_store_on_two_devices_is_left_to_pyg(graphs):
    both = copy.deepcopy(graphs)
    both._data.pos = both._data.pos.to("meta")
    assert not loader_module.can_gather(both)


def test_loaders_of_a_store_on_a_device(graphs):
    there = moved(graphs)
    with pytest.raises(
        ValueError, match="the data set is on meta, where batches are gathered without worker processes"
    ):
        StructureLoader(there, batch_size=2, num_workers=1)
    loader = StructureLoader(there, batch_size=2, pin_memory=True)
    assert not loader.pin_memory
    assert next(iter(loader)).pos.is_meta
    assert StructureLoader(graphs, batch_size=2, pin_memory=True).pin_memory


def test_batches_can_be_pinned(graphs, monkeypatch):
    """Every tensor is asked to be pinned, as torch's loader does where there is a device; values stay."""
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *_: pinned.append(self) or self)
    batch = collate_indices(graphs, [2, 0])
    assert_same(batch.pin_memory(), pyg_batch(graphs, [2, 0]))
    assert len(pinned) >= sum(isinstance(value, torch.Tensor) for value in batch.to_dict().values())
