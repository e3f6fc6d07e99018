import pytest
import torch
from ase.build import bulk, molecule

from pyg_schnet import SchNet
from pyg_schnet.data import AtomsDataset
from pyg_schnet.data.loader import collate_indices
from pyg_schnet.train import PropertyTask, RelaxedTask, StructureDataModule


def structures(periodic):
    kinds = [bulk("NaCl", "rocksalt", a=5.6, cubic=True), bulk("MgO", "rocksalt", a=4.2, cubic=True)]
    found = []
    for seed in range(6):
        atoms = kinds[seed % 2].copy() if periodic else molecule(["H2O", "CH4", "CH3OH"][seed % 3])
        atoms.rattle(0.1, seed=seed)
        atoms.info["e_form"] = float(seed)
        found.append(atoms)
    return AtomsDataset(found, properties={"e_form": "eV"})


def make_task(dataset, cls=RelaxedTask, **options):
    torch.manual_seed(0)
    task = cls(SchNet(16, 16, 2, 10, 4.0, readout="mean"), **options)
    data = StructureDataModule(dataset, "e_form", num_train=len(dataset) - 1, num_val=1)
    task.trainer = type("Trainer", (), {"datamodule": data, "ckpt_path": None})()
    task.log = lambda *args, **kwargs: None
    task.setup("fit")
    return task.double()


def make_batch(dataset):
    batch = collate_indices(dataset, range(4))
    batch.pos = batch.pos.double()
    if "cell" in batch:
        batch.cell = batch.cell.double()
    return batch


def numerical_gradients(task, batch, step=1e-4):
    """Gradients by every coordinate and by the size of each structure, by finite differences."""

    def changed(by, factor=1.0):
        other = batch.clone()
        other.pos = (batch.pos + by) * factor
        if "cell" in batch:
            other.cell = batch.cell * factor
        return task(other)

    grad_pos = torch.zeros_like(batch.pos)
    for i in range(batch.pos.size(0)):
        for axis in range(3):
            shift = torch.zeros_like(batch.pos)
            shift[i, axis] = step
            grad_pos[i, axis] = (changed(shift) - changed(-shift)).sum() / (2 * step)
    return grad_pos, (changed(0.0, 1 + step) - changed(0.0, 1 - step)) / (2 * step)


@pytest.mark.parametrize("periodic", [True, False])
def test_loss_is_the_weighted_sum(periodic):
    dataset = structures(periodic)
    weights = {"forces_weight": 0.7, "pressure_weight": 0.2 if periodic else 0.0}
    task, batch = make_task(dataset, loss="mae", **weights), make_batch(dataset)
    task.network.filters = "exact"
    plain = make_task(dataset, PropertyTask, loss="mae")
    plain.network.filters = "exact"
    with torch.no_grad():
        grad_pos, grad_size = numerical_gradients(task, batch)
        expected = plain.loss_of_batch(batch) + 0.7 * grad_pos.norm(dim=1).mean()
        expected += weights["pressure_weight"] * grad_size.abs().mean()
    assert grad_size.abs().mean() > 1e-3
    assert task.loss_of_batch(batch).item() == pytest.approx(expected.item(), rel=1e-7)


def test_molecules_have_no_pressure():
    dataset = structures(periodic=False)
    with pytest.raises(ValueError, match="cell with a volume"):
        make_task(dataset).loss_of_batch(make_batch(dataset))


def test_training_flattens_the_energy_and_reaches_all_weights():
    dataset = structures(periodic=True)
    steep = {}
    for weights in ({"forces_weight": 0.0, "pressure_weight": 0.0}, {"forces_weight": 0.5, "pressure_weight": 0.5}):
        task, batch = make_task(dataset, loss="mae", **weights), make_batch(dataset)
        optimizer = torch.optim.Adam(task.parameters(), lr=3e-3)
        for _ in range(60):
            optimizer.zero_grad()
            task.backward(task.training_step(batch, 0))
            optimizer.step()
        found = task.energy_forces_stress(batch, stress=True)
        steep[weights["forces_weight"]] = (found.forces.norm(dim=1).mean() + found.stress.abs().mean()).item()
    assert steep[0.5] < 0.3 * steep[0.0]
    assert all(weight.grad is not None for weight in task.parameters())


def test_atoms_at_rest_by_symmetry_spoil_no_gradient():
    dataset = structures(periodic=True)
    batch = make_batch(dataset)
    perfect = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    batch.pos[:8] = torch.from_numpy(perfect.positions)
    batch.cell[0] = torch.from_numpy(perfect.cell.array)
    task = make_task(dataset)
    task.backward(task.training_step(batch, 0))
    assert all(torch.isfinite(weight.grad).all() for weight in task.parameters())


@pytest.mark.parametrize("option", ["forces_weight", "pressure_weight"])
def test_negative_weights_are_refused(option):
    with pytest.raises(ValueError, match="weights must not be negative"):
        RelaxedTask(SchNet(16, 16, 1, 10, 4.0), **{option: -1.0})
