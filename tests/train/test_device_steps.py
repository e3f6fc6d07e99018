"""Steps of training as on a device: nothing is read in between, what is known before is taken along."""

import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from pyg_schnet import SchNet
from pyg_schnet.data import AtomsDataset, NeighborList, StructureLoader
from pyg_schnet.data.loader import collate_indices
from pyg_schnet.data.transforms import cutoff_of_edges
from pyg_schnet.train import PotentialTask, PropertyTask, StructureDataModule
from pyg_schnet.train.derivative import with_volume
from tests.reads import Reads, elsewhere

CUTOFF = 3.5


def labelled(atoms, seed, forces=True):
    atoms = atoms.copy()
    atoms.rattle(0.05, seed=seed)
    atoms.calc = EMT()
    energy = atoms.get_potential_energy()
    if forces:
        atoms.get_forces()
        if atoms.pbc.all():
            atoms.get_stress()
    else:
        atoms.calc = SinglePointCalculator(atoms, energy=energy)
    return atoms


@pytest.fixture(scope="module")
def crystals():
    return AtomsDataset([labelled(bulk("Cu", cubic=True), seed) for seed in range(4)])


@pytest.fixture(scope="module")
def molecules():
    return AtomsDataset([labelled(molecule("H2O"), seed) for seed in range(4)])


def data_of(dataset):
    return StructureDataModule(dataset, "energy", num_train=len(dataset) - 1, num_val=1, batch_size=2)


def task_of(dataset, kind, **options):
    torch.manual_seed(0)
    task = kind(SchNet(8, 8, 2, 10, CUTOFF), **options)
    task.trainer = type("Trainer", (), {"datamodule": data_of(dataset), "ckpt_path": None})()
    task.setup("fit")
    return task


def prepared(dataset):
    """A batch with edges, as the data module takes it to a device, but on the CPU."""
    batch = NeighborList(CUTOFF)(collate_indices(dataset, range(3)))
    moved = data_of(dataset).transfer_batch_to_device(batch.clone(), torch.device("meta"), 0)
    for key in [key for key in batch.to_dict() if key not in moved]:
        delattr(batch, key)
    assert cutoff_of_edges(batch) == CUTOFF
    return batch


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("crystals", PotentialTask, {"stress_weight": 1.0}),
        ("molecules", PotentialTask, {}),
        ("molecules", PropertyTask, {}),
    ],
    ids=["crystals with stress", "molecules with forces", "energies"],
)
def test_no_step_reads_a_number(name, kind, options, request):
    dataset = request.getfixturevalue(name)
    task, batch = task_of(dataset, kind, **options), prepared(dataset)
    losses = []
    for is_elsewhere in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            if is_elsewhere:
                elsewhere(patch)
            task.loss_of_batch(batch)  # bases are compared once
            task.zero_grad()
            with Reads() as reads:
                loss = task.loss_of_batch(batch)
                loss.backward()
        losses.append(loss.detach())
        slopes = [weight.grad for weight in task.parameters() if weight.grad is not None]
        assert slopes
    assert reads.found == []
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-6)


def test_what_is_known_is_taken_along(crystals):
    data = data_of(crystals)
    batch = NeighborList(CUTOFF)(collate_indices(crystals, range(3)))
    assert {"has_energy", "has_forces"} <= set(batch.keys())
    moved = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert moved.pos.is_meta
    assert not {"has_energy", "has_forces"} & set(moved.keys())
    assert cutoff_of_edges(moved) == CUTOFF  # a tensor without numbers cannot be asked
    moved.edge_index = moved.edge_index[:, :-1]
    with pytest.raises(RuntimeError, match="meta"):
        cutoff_of_edges(moved)


def test_masks_that_leave_something_out_stay():
    dataset = AtomsDataset([labelled(bulk("Cu", cubic=True), k, forces=k != 1) for k in range(4)])
    moved = data_of(dataset).transfer_batch_to_device(collate_indices(dataset, [0, 1]), torch.device("meta"), 0)
    assert "has_forces" in moved
    assert "has_energy" not in moved


def test_edges_that_were_changed_are_not_taken_for_known(crystals):
    batch = NeighborList(CUTOFF)(collate_indices(crystals, range(2)))
    assert cutoff_of_edges(batch) == CUTOFF
    batch.edge_index = batch.edge_index[:, :-1]
    assert cutoff_of_edges(batch) is None


def test_cells_without_volume(monkeypatch):
    cell = torch.zeros(4, 3, 3, dtype=torch.float64)
    cell[0] = torch.tensor([[3.0, 0.2, 0.0], [0.0, 3.0, 0.1], [0.4, 0.0, 3.0]])
    cell[1, :2] = cell[0, :2]
    cell[2, 1] = cell[0, 0]
    expected = with_volume(cell)
    elsewhere(monkeypatch)
    with Reads() as reads:
        found = with_volume(cell)
    assert reads.found == []
    torch.testing.assert_close(found.det().abs(), expected.det().abs())
    assert torch.equal(found[0], cell[0])
    assert (cell[cell.any(-1)] == found[cell.any(-1)]).all()


def test_the_optimiser_of_the_device():
    """One kernel for all weights where there is one, CPUs and GPUs; several weights at a time elsewhere."""
    task = PropertyTask(SchNet(8, 8, 1, 10, CUTOFF))
    task.schedule = "constant"
    assert task.configure_optimizers()["optimizer"].defaults["fused"]
    task.to("meta")
    assert not task.configure_optimizers()["optimizer"].defaults["fused"]


def test_pages_are_pinned_for_devices(crystals):
    data = data_of(crystals)
    loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    assert not any(loader.pin_memory for loader in loaders)
    strategy = type("Strategy", (), {"root_device": torch.device("cuda", 0)})()
    data.trainer = type("Trainer", (), {"strategy": strategy, "lightning_module": None})()
    loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    assert all(isinstance(loader, StructureLoader) and loader.pin_memory for loader in loaders)


@pytest.fixture(scope="module")
def partly():
    """Crystals of which one has no forces, and labels of one that have no meaning."""
    return AtomsDataset([labelled(bulk("Cu", cubic=True), k, forces=k != 1) for k in range(4)])


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
@pytest.mark.parametrize("per_atom_energy", [False, True])
def test_missing_labels_are_left_out_without_a_read(partly, loss, per_atom_energy):
    """The loss and its gradients of the rows that are chosen on CPUs, of masked rows elsewhere."""
    options = {"stress_weight": 1.0, "loss": loss, "per_atom_energy": per_atom_energy}
    task, batch = task_of(partly, PotentialTask, **options), prepared(partly)
    batch.has_energy = torch.tensor([True, True, False])
    assert batch.has_forces.tolist() == [True, False, True]
    batch.forces[4:8], batch.energy[2] = torch.nan, torch.nan
    found = []
    for is_elsewhere in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            if is_elsewhere:
                elsewhere(patch)
            task.loss_of_batch(batch)
            task.zero_grad()
            with Reads() as reads:
                value = task.loss_of_batch(batch)
                value.backward()
        found.append([value.detach(), *(one.grad for one in task.parameters() if one.grad is not None)])
    assert reads.found == []
    assert len(found[0]) > 10
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * float(one.abs().max()))


def test_a_batch_without_labels_of_a_kind(partly, monkeypatch):
    task, batch = task_of(partly, PotentialTask), prepared(partly)
    batch.has_forces = torch.zeros(3, dtype=torch.bool)
    expected = task.loss_of_batch(batch)
    elsewhere(monkeypatch)
    found = task.loss_of_batch(batch)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    found.backward()
    assert all(weight.grad.isfinite().all() for weight in task.parameters() if weight.grad is not None)


def test_errors_are_those_of_labels_alone(partly, monkeypatch):
    """In evaluation rows are chosen on devices too: their number divides the sums."""
    task, batch = task_of(partly, PotentialTask).eval(), prepared(partly)
    elsewhere(monkeypatch)
    pairs = task.compare(batch)
    assert len(pairs["forces"]) == 2
    assert pairs["forces"][0].shape == (8, 3)
