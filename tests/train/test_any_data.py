"""Training on data sets, data modules and loaders of PyTorch Geometric."""

import copy
import warnings

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import ConcatDataset, Subset, SubsetRandomSampler
from torch_geometric.data import Data, InMemoryDataset
from torch_geometric.data.lightning import LightningDataset
from torch_geometric.loader import DataLoader

from pyg_schnet import SchNet
from pyg_schnet.data import Property, StructureLoader
from pyg_schnet.models.convert.like_pyg import SchNet as LikePyG
from pyg_schnet.train import PotentialTask, PropertyTask, StructureDataModule
from pyg_schnet.train.source import LoaderSource

ATOM = {1: -13.5, 6: -1030.0, 8: -2041.0}
TARGET = Property("energy", "eV", column=7, attribute="y")


def structure(seed, y=(1, 19)):
    """A few atoms 1.5 Å apart with bonds, as PyG's QM9 has them; column 7 is a sum over the elements."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 6))
    z = torch.from_numpy(rng.choice(list(ATOM), n))
    pos = torch.zeros(n, 3)
    pos[:, 0] = 1.5 * torch.arange(n)
    values = torch.zeros(19, dtype=torch.float64)
    values[7] = sum(ATOM[number] for number in z.tolist()) + 0.01 * n
    bonds = torch.tensor([[0, 1], [1, 0]])
    return Data(z=z, pos=pos, y=values.reshape(y), edge_index=bonds, edge_attr=torch.ones(2, 4), name=f"m{seed}")


class QM9Like(InMemoryDataset):
    def __init__(self, structures):
        super().__init__()
        self.data, self.slices = self.collate(structures)


STRUCTURES = [structure(seed) for seed in range(24)]
DATA = {
    "list": lambda: STRUCTURES,
    "rows": lambda: [structure(seed, (19,)) for seed in range(24)],
    "in memory": lambda: QM9Like(STRUCTURES),
    "in memory, rows": lambda: QM9Like([structure(seed, (19,)) for seed in range(24)]),
    "concatenated": lambda: ConcatDataset([STRUCTURES[:10], QM9Like(STRUCTURES[10:])]),
    "subset": lambda: Subset(QM9Like(STRUCTURES + STRUCTURES), range(24)),
    "part": lambda: QM9Like(STRUCTURES + STRUCTURES)[:24],
}


def network(**kwargs):
    torch.manual_seed(0)
    return SchNet(8, 8, 1, 10, 4.0, **kwargs)


def trainer(**kwargs):
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    return Trainer(max_epochs=1, enable_model_summary=False, inference_mode=False, **{**options, **kwargs})


@pytest.fixture(autouse=True)
def quiet():
    """Lightning's advice on worker processes, and what is said of the bonds here in every test."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message="The number of training batches")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        warnings.filterwarnings("ignore", message="edge_index of the batches was not made")
        warnings.filterwarnings("ignore", message="You defined a `validation_step` but have no")
        yield


def expected_statistics(structures):
    """References by least squares, and the spread per atom of what they leave."""
    elements = list(ATOM)
    counts = np.array([[int((data.z == number).sum()) for number in elements] for data in structures], float)
    energies = np.array([float(data.y.reshape(-1)[7]) for data in structures])
    solution, *_ = np.linalg.lstsq(counts, energies, rcond=None)
    return elements, solution, ((energies - counts @ solution) / counts.sum(1)).std()


def check_statistics(task, structures):
    elements, solution, spread = expected_statistics(structures)
    assert task.atomref[elements, 0].tolist() == pytest.approx(solution.tolist(), rel=1e-6)
    assert float(task.scale) == pytest.approx(spread, rel=1e-2) or spread < 1e-9


@pytest.mark.parametrize("kind", DATA)
def test_data_module_of_any_data(kind):
    data = StructureDataModule(DATA[kind](), TARGET, num_train=16, num_val=4, batch_size=4)
    task = PropertyTask(network(), schedule="constant", lr=1e-9)
    fit = trainer()
    fit.fit(task, datamodule=data)
    check_statistics(task, [STRUCTURES[k] for k in data.split.train])
    errors = fit.test(task, datamodule=data, verbose=False)[0]
    true = torch.stack([STRUCTURES[k].y[0, 7] for k in data.split.test])
    found = torch.cat(fit.predict(task, StructureLoader(data.test_set, batch_size=3)))
    assert errors["test/energy_mae"] == pytest.approx(float((found - true).abs().mean()), abs=1e-4)


@pytest.mark.parametrize("kind", ["list", "in memory", "concatenated"])
@pytest.mark.parametrize("how", ["LightningDataset", "DataLoader", "StructureLoader"])
def test_statistics_of_other_data_modules_and_loaders(kind, how):
    dataset = DATA[kind]()
    task = PropertyTask(network(), schedule="constant", target=TARGET)
    if how == "LightningDataset":
        trainer().fit(task, datamodule=LightningDataset(dataset, dataset, batch_size=5, pin_memory=False))
    else:
        loader = {"DataLoader": DataLoader, "StructureLoader": StructureLoader}[how]
        trainer().fit(task, loader(dataset, batch_size=5, shuffle=True), loader(dataset, batch_size=5))
    check_statistics(task, STRUCTURES)
    assert task.export().card["target"] == "energy"


def test_statistics_are_of_what_a_sampler_draws():
    chosen = [0, 3, 4, 5, 9, 12, 13, 17]
    loader = DataLoader(STRUCTURES, batch_size=3, sampler=SubsetRandomSampler(chosen))
    torch.manual_seed(5)
    source = LoaderSource(loader, TARGET)
    assert sorted(source.training_targets()[1].tolist()) == sorted(float(STRUCTURES[k].y[0, 7]) for k in chosen)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))


def test_named_targets_of_a_loader():
    dataset = QM9Like(STRUCTURES)
    dataset.properties = {"energy": TARGET}
    task = PropertyTask(network(), schedule="constant")
    trainer().fit(task, DataLoader(dataset, batch_size=8))
    assert task.property == TARGET
    dataset.properties = {"energy": TARGET, "gap": Property("gap", "eV", column=4, attribute="y")}
    assert LoaderSource(DataLoader(dataset), "gap").property.column == 4
    with pytest.raises(ValueError, match=r"say which target is learned.* the data set has energy, gap"):
        LoaderSource(DataLoader(dataset), None)


def test_unknown_targets_are_refused():
    with pytest.raises(
        ValueError, match=r"the targets of a list are not known; .* Property\(\"y\", \"eV\", column=0\)"
    ):
        trainer().fit(PropertyTask(network(), schedule="constant"), DataLoader(STRUCTURES))
    with pytest.raises(ValueError, match=r"does not say what is compared: .*target=\.\.\."):
        trainer().test(PropertyTask(network()), DataLoader(STRUCTURES), verbose=False)
    with pytest.raises(ValueError, match=r"one data loader, got 2"):
        LoaderSource([DataLoader(STRUCTURES)] * 2, TARGET)
    with pytest.raises(ValueError, match=r"batches must be torch_geometric\.data\.Batch, got a list"):
        LoaderSource(
            torch.utils.data.DataLoader([1, 2], sampler=SubsetRandomSampler([0]), collate_fn=list), TARGET
        ).training_targets()


@pytest.mark.parametrize("kind", ["list", "rows", "in memory, rows"])
def test_several_columns_have_to_be_told_apart(kind):
    whole = Property("y", "eV")
    data = StructureDataModule(DATA[kind](), whole, num_train=10, num_val=5)
    task = PropertyTask(network(), target=whole)
    message = r"'y' has 19 numbers for each structure, .* learn one of them, Property\('y', 'eV', column=0\)"
    with pytest.raises(ValueError, match=message):
        trainer().fit(task, datamodule=data)
    with pytest.raises(ValueError, match=message):
        trainer().fit(PropertyTask(network(), target=whole), DataLoader(DATA[kind]()))
    with pytest.raises(ValueError, match="the network gives 9 numbers for 9 structures, but 'y' has 171"):
        task.compare(next(iter(data.test_dataloader())))


@pytest.mark.parametrize("kind", ["list", "rows", "in memory, rows"])
def test_all_columns_are_learned_by_as_many_outputs(kind):
    task = PropertyTask(network(out_channels=19), target=Property("y", "eV"), schedule="constant")
    trainer().fit(task, DataLoader(DATA[kind](), batch_size=8))
    elements, solution, _ = expected_statistics(STRUCTURES)
    assert task.atomref[elements, 7].tolist() == pytest.approx(solution.tolist(), rel=1e-6)


@pytest.mark.parametrize("name", ["z", "pos"])
def test_structures_without_atoms_are_refused(name):
    structures = copy.deepcopy(STRUCTURES)
    for data in structures:
        del data[name]
        data.num_nodes = 3
    message = f"a structure has no `{name}`.*; it has .*y"
    with pytest.raises(ValueError, match=message):
        StructureDataModule(structures, TARGET, num_train=10, num_val=5)
    batch = next(iter(DataLoader(structures, batch_size=2)))
    task = PropertyTask(network(), target=TARGET)
    with pytest.raises(ValueError, match=message):
        task(batch)


def test_structures_with_other_attributes_are_refused():
    odd = STRUCTURES[0].clone()
    del odd.y
    with pytest.raises(ValueError, match="must have the same attributes, but some have no 'y'"):
        StructureDataModule([*STRUCTURES, odd], TARGET, num_train=24, num_val=0, num_test=1).training_targets()


def test_what_is_no_structure_is_refused():
    with pytest.raises(ValueError, match=r"structures must be torch_geometric\.data\.Data .* got a tuple"):
        StructureDataModule([(1, 2), (3, 4)], TARGET, num_train=1, num_val=1)


def test_potentials_from_a_loader():
    structures = [data.clone() for data in STRUCTURES]
    for data in structures:
        data.forces = torch.full((len(data.z), 3), 0.5)
    task = PotentialTask(network(), schedule="constant", target=TARGET)
    trainer().fit(task, DataLoader(structures, batch_size=8))
    assert task.derivatives == {"forces": Property("forces", "eV/Å", "atom")}
    assert float(task.scale) == pytest.approx(0.5)


def test_models_under_pygs_name_are_exported(tmp_path):
    torch.manual_seed(0)
    task = PropertyTask(LikePyG(8, 8, 1, 10, 4.0), schedule="constant", target=TARGET)
    trainer().fit(task, DataLoader(STRUCTURES, batch_size=8))
    batch = next(iter(DataLoader(STRUCTURES, batch_size=8)))
    model = SchNet.load(task.export().save(tmp_path / "model.safetensors")).double()
    with torch.no_grad():
        exported = model(batch.z, batch.pos.double(), batch.batch).squeeze(-1)
        torch.testing.assert_close(exported, task.eval().predict_step(batch, 0), rtol=1e-9, atol=1e-5)
