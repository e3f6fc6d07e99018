import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from lightning.pytorch import Trainer, seed_everything

from pyg_schnet import SchNet, neighbors
from pyg_schnet.data import AtomsDataset, Property, StructureDataset, StructureStore
from pyg_schnet.models import graph
from pyg_schnet.train import PotentialTask, StructureDataModule


def test_split_is_reproduced_from_its_file(qm9_sample, tmp_path):
    first = StructureDataModule(qm9_sample, "U0", num_train=10, num_val=5, seed=3)
    path = first.save_split(tmp_path / "run" / "split.json")
    again = StructureDataModule(qm9_sample, "U0", split=path)
    assert again.split == first.split
    assert torch.equal(again.test_set[0].pos, first.test_set[0].pos)


def test_seed_changes_the_split(qm9_sample):
    splits = [StructureDataModule(qm9_sample, "U0", num_train=10, num_val=5, seed=seed).split for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]


def test_remainder_goes_where_no_number_is_given(qm9_sample):
    data = StructureDataModule(qm9_sample, "U0", num_val=4, num_test=6)
    assert len(data.train_set) == len(qm9_sample) - 10


def test_other_test_structures_must_not_be_learned_from():
    def waters(seeds):
        structures = [molecule("H2O") for _ in seeds]
        for atoms, seed in zip(structures, seeds, strict=True):
            atoms.rattle(0.1, seed=seed)
            atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
        return AtomsDataset(structures)

    data = waters(range(10))
    ok = StructureDataModule(data, "energy", num_train=6, num_val=2, test_dataset=waters([20, 21]))
    assert len(ok.test_set) == 2
    learned, chosen = int(ok.split.train[0]), int(ok.split.val[0])
    (left, *_) = set(range(10)) - {*ok.split.train.tolist(), *ok.split.val.tolist()}
    with pytest.raises(
        ValueError, match=r"^2 of the 3 structures of test_dataset are also among those for training or"
    ):
        StructureDataModule(data, "energy", num_train=6, num_val=2, test_dataset=waters([learned, chosen, left]))


@pytest.mark.parametrize("option", ["batch_size", "eval_batch_size"])
def test_batches_of_nothing_are_refused(qm9_sample, option):
    with pytest.raises(ValueError, match=f"^{option} must be a number of structures, at least 1, got 0"):
        StructureDataModule(qm9_sample, "U0", num_train=4, num_val=4, **{option: 0})


def test_no_numbers_are_refused(qm9_sample):
    with pytest.raises(ValueError, match="give num_train or num_test"):
        StructureDataModule(qm9_sample, "U0", num_val=4)


def test_unknown_target_is_refused_with_the_known_ones(qm9_sample):
    with pytest.raises(ValueError, match=r"no target 'energy'.*U0"):
        StructureDataModule(qm9_sample, "energy", num_train=10, num_val=5)


def test_training_targets_are_all_training_structures(qm9_sample, monkeypatch):
    monkeypatch.setattr("pyg_schnet.train.datamodule._PIECE", 4)  # so that there are several pieces
    data = StructureDataModule(qm9_sample, "U0", num_train=10, num_val=5)
    counts, target = data.training_targets()
    assert target.dtype == torch.float64
    expected = torch.stack([qm9_sample[int(k)].y[0, 7] for k in data.split.train])
    assert torch.equal(target, expected)
    atoms = torch.stack([qm9_sample[int(k)].z.bincount(minlength=100) for k in data.split.train])
    assert torch.equal(counts, atoms.double())


def test_structures_without_label_are_left_out_of_statistics():
    dataset = StructureDataset()
    dataset.set_store(
        torch.tensor([1, 2, 1, 3]),
        {
            "z": torch.tensor([1, 6, 6, 1, 8, 8, 8]),
            "pos": torch.randn(7, 3),
            "forces": torch.tensor([3.0, 9.0, 9.0, 4.0, 0.0, 0.0, 0.0]).view(7, 1).expand(7, 3),
        },
        {
            "energy": torch.tensor([1.0, 0.0, 3.0, 0.0], dtype=torch.float64),
            "has_energy": torch.tensor([True, False, True, True]),
            "has_forces": torch.tensor([True, False, True, False]),
        },
    )
    dataset.properties = {"energy": Property("energy", "eV"), "forces": Property("forces", "eV/Å", "atom")}
    data = StructureDataModule(dataset, "energy", num_train=4, num_val=0, num_test=0)
    counts, target = data.training_targets()
    labelled = sorted(
        (row.nonzero().flatten().tolist(), float(value)) for row, value in zip(counts, target, strict=True)
    )
    assert labelled == [([1], 1.0), ([1], 3.0), ([8], 0.0)]
    assert data.training_rms(dataset.properties["forces"]) == pytest.approx(12.5**0.5)


def test_statistics_are_read_from_a_store_on_disk(qm9_sample, tmp_path):
    store = StructureStore.create(tmp_path / "store", qm9_sample)
    modules = [StructureDataModule(dataset, "U0", num_train=10, num_val=5) for dataset in (qm9_sample, store)]
    for one, other in zip(*(module.training_targets() for module in modules), strict=True):
        assert torch.equal(one, other)
    batches = [next(iter(module.train_dataloader())) for module in modules]
    assert torch.equal(batches[0].pos, batches[1].pos)


def test_order_depends_on_seed_and_epoch_alone(qm9_sample):
    def order(seed, epoch):
        data = StructureDataModule(qm9_sample, "U0", num_train=20, num_val=5, batch_size=4)
        data.seed = seed
        loader = data.train_dataloader()
        loader.batch_sampler.sampler.set_epoch(epoch)
        return torch.cat([batch.idx for batch in loader])

    assert torch.equal(order(0, 3), order(0, 3))
    assert not torch.equal(order(0, 3), order(0, 4))
    assert not torch.equal(order(0, 3), order(1, 3))
    assert torch.equal(order(0, 3).sort()[0], order(1, 4).sort()[0])


def test_batches_of_training_have_no_names(qm9_sample):
    data = StructureDataModule(qm9_sample, "U0", num_train=20, num_val=4, batch_size=5)
    batch, evaluated = next(iter(data.train_dataloader())), next(iter(data.test_dataloader()))
    assert "name" in qm9_sample[0]
    assert set(evaluated.keys()) - set(batch.keys()) == {"name"}


def test_batches_stay_where_they_are(qm9_sample):
    data = StructureDataModule(qm9_sample, "U0", num_train=20, num_val=4, batch_size=5)
    batch = next(iter(data.train_dataloader()))
    assert data.transfer_batch_to_device(batch, torch.device("cpu"), 0) is batch
    assert data.transfer_batch_to_device(batch, torch.device("meta"), 0).pos.is_meta


@pytest.fixture
def crystals():
    structures = []
    for seed in range(8):
        atoms = bulk("NaCl", "rocksalt", a=5.6) * (1, 1, 1 + seed % 2)
        atoms.rattle(0.1, seed=seed)
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0 * len(atoms), forces=0.1 * atoms.positions)
        structures.append(atoms)
    return structures


def fitted(dataset, folder, **options):
    """Weights after two epochs, and how often neighbours were searched for meanwhile by the model."""
    seed_everything(0)
    data = StructureDataModule(dataset, "energy", num_train=6, num_val=2, batch_size=3, **options)
    task = PotentialTask(SchNet(8, 8, 2, 12, 4.0).double(), lr=1e-3)
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        precision="64-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(task, datamodule=data)
    return torch.cat([weight.detach().flatten() for weight in task.network.parameters()])


@pytest.fixture
def searches(monkeypatch):
    calls = []
    monkeypatch.setattr(graph, "radius_graph", lambda *a, **k: (calls.append(a), neighbors.radius_graph(*a, **k))[1])
    return calls


def test_graphs_of_crystals_are_searched_once(crystals, searches, tmp_path):
    kept = fitted(AtomsDataset(crystals), tmp_path)
    assert not searches
    expected = fitted(AtomsDataset(crystals), tmp_path, keep_graphs=False)
    assert len(searches) >= 4
    torch.testing.assert_close(kept, expected, rtol=1e-9, atol=1e-9)


def test_graphs_of_molecules_are_kept_when_asked_for(water, searches, monkeypatch, tmp_path):
    structures = []
    for seed in range(8):
        atoms = water.copy()
        atoms.rattle(0.1, seed=seed)
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=0.1 * atoms.positions)
        structures.append(atoms)
    pairs = []
    monkeypatch.setattr(graph, "close_pairs_once", lambda *a, **k: pairs.append(a))
    expected = fitted(AtomsDataset(structures), tmp_path)
    assert pairs
    pairs.clear()
    searches.clear()
    kept = fitted(AtomsDataset(structures), tmp_path, keep_graphs=True)
    assert not pairs
    assert not searches
    torch.testing.assert_close(kept, expected, rtol=1e-9, atol=1e-9)


def test_graphs_that_cannot_be_kept_are_refused_if_asked_for(crystals, tmp_path):
    store = StructureStore.create(tmp_path / "store", AtomsDataset(crystals))
    store.properties = AtomsDataset(crystals).properties
    with pytest.raises(
        ValueError, match=r"keep_graphs=True needs a data set in memory.*NeighborList\(4, periodic=True"
    ):
        fitted(store, tmp_path, keep_graphs=True)
    fitted(store, tmp_path)
    store.close()
