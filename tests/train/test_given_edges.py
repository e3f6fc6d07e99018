"""Edges in batches: used where NeighborList made them for the network, ignored and said so where they are others."""

import copy
import warnings

import pytest
import torch
from ase.build import bulk
from torch_geometric.data import Batch, Data, InMemoryDataset
from torch_geometric.loader import DataLoader
from torch_geometric.transforms import AddSelfLoops, Compose, ToUndirected

from pyg_schnet import DTNN, SchNet
from pyg_schnet.data import NeighborList, Property, StructureLoader, StructureStore, to_data
from pyg_schnet.data.transforms import cutoff_of_edges
from pyg_schnet.train import PotentialTask, PropertyTask, RelaxedTask

TARGET = Property("energy", "eV")


class InMemory(InMemoryDataset):
    def __init__(self, structures, transform=None):
        super().__init__(transform=transform)
        self.data, self.slices = self.collate(structures)


class Recorded(SchNet):
    """Notes what it is called with."""

    def forward(self, *args, **kwargs):
        self.given = kwargs
        return super().forward(*args, **kwargs)


def network(cls=Recorded, **kwargs):
    torch.manual_seed(0)
    sizes = (8, 8, 2, 12) if cls is not DTNN else (8, 6, 2, 12)
    options = {"filters": "exact"} if cls is not DTNN else {}
    return cls(*sizes, 4.0, **options, **kwargs).double()


@pytest.fixture
def structures(water, ethanol, nacl, triclinic):
    found = [to_data(atoms) for atoms in (water, ethanol, nacl, triclinic)]
    for k, data in enumerate(found):
        data.energy, data.forces = torch.tensor([float(k)]), torch.zeros(len(data.z), 3)
        data.stress = torch.zeros(1, 3, 3)
    return found


MADE = NeighborList(4.5, periodic=True)
WAYS = {
    "batch of the loader": lambda s, folder: StructureLoader(s, 4, transform=MADE),
    "single structures": lambda s, folder: DataLoader([MADE(data) for data in s], 4),
    "in memory": lambda s, folder: StructureLoader(InMemory([MADE(data) for data in s]), 4),
    "in memory, PyG's loader": lambda s, folder: DataLoader(InMemory([MADE(data) for data in s]), 4),
    "transform of the data set": lambda s, folder: DataLoader(InMemory(s, transform=Compose([MADE])), 4),
    "copies": lambda s, folder: DataLoader([copy.copy(MADE(data).clone()) for data in s], 4),
    "written and read": lambda s, folder: DataLoader(_reread(Batch.from_data_list([MADE(d) for d in s]), folder), 4),
    "parts of a batch": lambda s, folder: DataLoader(
        next(iter(StructureLoader(s, 4, transform=MADE))).to_data_list(), 4
    ),
    "on disk": lambda s, folder: StructureLoader(StructureStore.create(folder / "s", [MADE(data) for data in s]), 4),
}


def _reread(batch, folder):
    torch.save(batch, folder / "batch.pt")
    return torch.load(folder / "batch.pt", weights_only=False).to_data_list()


@pytest.mark.parametrize("way", WAYS)
def test_marked_edges_are_used_and_right(way, structures, tmp_path):
    task = PropertyTask(network(), target=TARGET).eval()
    batch = next(iter(WAYS[way](structures, tmp_path)))
    assert cutoff_of_edges(batch) == 4.5
    with torch.no_grad():
        found = task.predict_step(batch, 0)
        assert torch.equal(task.network.given["edge_index"], batch.edge_index)
        assert torch.equal(task.network.given["edge_shift"], batch.edge_shift)
        expected = task.predict_step(next(iter(DataLoader(structures, 4))), 0)
    assert "edge_index" not in task.network.given
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cls", [SchNet, DTNN])
@pytest.mark.parametrize("kind", [PotentialTask, RelaxedTask])
def test_losses_of_derivatives_are_the_same(kind, cls, structures):
    crystals = structures[2:]
    task = kind(network(cls), target=TARGET, **({"stress_weight": 1.0} if kind is PotentialTask else {}))
    if kind is PotentialTask:
        task.derivatives = {"forces": Property("forces", "eV/Å", "atom"), "stress": Property("stress", "eV/Å³")}
    losses = [
        task.loss_of_batch(next(iter(StructureLoader(crystals, 2, transform=transform))))
        for transform in (None, NeighborList(4.0))
    ]
    torch.testing.assert_close(*losses, rtol=1e-10, atol=1e-12)


def others(data):
    return Data(z=data.z, pos=data.pos, energy=data.energy, edge_index=torch.tensor([[0, 1], [1, 0]]))


FOREIGN = {
    "bonds": others,
    "self-loops added": lambda data: AddSelfLoops()(NeighborList(4.5)(data)),
    "edges taken away": lambda data: _without_last(NeighborList(4.5)(data)),
    "exchanged for bonds": lambda data: _exchanged(NeighborList(4.5)(data)),
}


def _without_last(data):
    data.edge_index = data.edge_index[:, :-1]
    return data


def _exchanged(data):
    data.edge_index = torch.tensor([[0, 1], [1, 0]])
    return data


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_edges_are_ignored_and_that_is_said_once(kind, structures):
    task = PropertyTask(network(), target=TARGET).eval()
    batch = next(iter(DataLoader([FOREIGN[kind](data) for data in structures[:2]], 2)))
    assert cutoff_of_edges(batch) is None
    with pytest.warns(UserWarning, match=r"not made by .*NeighborList.* ignored, and all neighbours within 4\.0 Å are"):
        found = task.predict_step(batch, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = task.predict_step(batch, 0)
    plain = [Data(z=data.z, pos=data.pos) for data in structures[:2]]
    expected = task.predict_step(next(iter(DataLoader(plain, 2))), 0)
    assert torch.equal(found, expected)
    assert torch.equal(again, expected)


def test_edges_of_a_smaller_cutoff_are_refused(structures):
    task = PropertyTask(network(), target=TARGET)
    batch = next(iter(StructureLoader(structures, 4, transform=NeighborList(3.9))))
    with pytest.raises(
        ValueError, match=r"NeighborList\(3\.9\) but the network has a cutoff of 4\.0 Å, so neighbours in"
    ):
        task(batch)
    mixed = [NeighborList(cutoff, periodic=True)(data) for cutoff, data in zip((6, 4, 4, 3.9), structures, strict=True)]
    with pytest.raises(ValueError, match=r"NeighborList\(3\.9\)"):
        task(next(iter(DataLoader(mixed, 4))))
    task(next(iter(StructureLoader(structures, 4, transform=NeighborList(4.0)))))


def test_order_and_direction_of_edges_may_change(structures):
    task = PropertyTask(network(), target=TARGET).eval()
    batch = next(iter(DataLoader([ToUndirected()(NeighborList(4.0)(data)) for data in structures[:2]], 2)))
    assert cutoff_of_edges(batch) == 4.0
    expected = task.predict_step(next(iter(DataLoader(structures[:2], 2))), 0)
    torch.testing.assert_close(task.predict_step(batch, 0), expected, rtol=1e-12, atol=1e-12)


class NoEdges(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.ones(1))

    def forward(self, z, pos, batch):
        return self.factor * torch.zeros(2).index_add(0, batch, z.float())


def test_networks_that_take_no_edges_are_given_none(structures):
    batch = next(iter(DataLoader([others(data) for data in structures[:2]], 2)))
    task = PropertyTask(NoEdges(), pooling="sum", target=TARGET)
    assert task(batch).tolist() == [10.0, 26.0]


@pytest.mark.parametrize("structure", [0, 1])
def test_follow_batch_and_exclude_keys_are_pygs(structure, structures):
    options = {"follow_batch": ["edge_index", "forces"], "exclude_keys": ["stress"]}
    made = [MADE(data) for data in structures]
    dataset = [made, InMemory(made)][structure]
    ours, theirs = (next(iter(loader(dataset, 3, **options))) for loader in (StructureLoader, DataLoader))
    assert sorted(ours.keys()) == sorted(theirs.keys())
    assert {"forces_batch", "forces_ptr", "edge_index_batch"} <= set(ours.keys())
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key
    assert StructureLoader(made, 2, exclude_keys=None, follow_batch=None).exclude_keys == ()


def test_edges_that_lost_their_shifts_are_refused():
    molecule = Data(z=torch.tensor([1, 1]), pos=torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.8]]))
    molecule.cell, molecule.pbc = torch.zeros(1, 3, 3), torch.zeros(1, 3, dtype=torch.bool)
    crystal = to_data(bulk("NaCl", "rocksalt", a=5.6))
    batch = next(iter(DataLoader([NeighborList(5.0)(data) for data in (molecule, crystal)], batch_size=2)))
    task = PropertyTask(SchNet(8, 8, 1, 8, 5.0), target=TARGET)
    with pytest.raises(ValueError, match="edges without edge_shift, which PyTorch Geometric's loader leaves out"):
        task(batch)
