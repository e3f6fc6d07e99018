"""Learning from a teacher: its answers on displaced structures, in the unit of what is learned."""

import pytest
import torch
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from pyg_schnet import SchNet, load
from pyg_schnet.data import AtomsDataset, Property
from pyg_schnet.data.loader import collate_indices
from pyg_schnet.derivatives import energy_forces_stress
from pyg_schnet.models import SchNetCommittee
from pyg_schnet.models.domain import Coverage, Domain
from pyg_schnet.train import DistilledPotentialTask, DistilledTask, StructureDataModule
from pyg_schnet.train.distilled import displaced
from pyg_schnet.train.split_note import note_split
from pyg_schnet.train.teacher import Teacher


def schnet(seed, width=16):
    torch.manual_seed(seed)
    model = SchNet(width, width, 2, 10, 4.0).eval()
    model.readout.set_references(torch.linspace(-30.0, -3.0, 100))
    return model


def structures():
    found = []
    for seed in range(8):
        atoms = molecule(["H2O", "CH4", "CH3OH", "NH3"][seed % 4])
        atoms.rattle(0.05, seed=seed)
        atoms.calc = SinglePointCalculator(
            atoms, energy=-100.0 - seed, forces=atoms.positions - atoms.positions.mean(0)
        )
        found.append(atoms)
    return AtomsDataset(found)


@pytest.fixture
def teacher(tmp_path):
    """A committee of two, in another unit than the labels."""
    committee = SchNetCommittee([schnet(3), schnet(4)])
    return str(committee.save(tmp_path / "teacher.safetensors", unit="kcal/mol", target="energy"))


def make_task(cls, teacher, network=None, **options):
    network = schnet(0) if network is None else network
    task, data = (
        cls(network, teacher=teacher, loss="mae", **options),
        StructureDataModule(structures(), "energy", num_train=6, num_val=1),
    )
    task.trainer = type("Trainer", (), {"datamodule": data, "ckpt_path": None})()
    task.log = lambda *args, **kwargs: None
    task.setup("fit")
    return task


def mean_of(teacher, batch, pos):
    """Energies in eV and forces in eV/Å of the mean of a committee, one structure after the other, in float64."""
    energies, forces = [], []
    models = [model.double() for model in load(teacher).models()]
    for b in range(batch.num_graphs):
        rows = batch.batch == b
        found = [energy_forces_stress(model, batch.z[rows], pos[rows].double()) for model in models]
        energies.append(sum(one.energy for one in found) / 2)
        forces.append(sum(one.forces for one in found) / 2)
    return 0.0433641153 * torch.cat(energies), 0.0433641153 * torch.cat(forces)


@pytest.mark.parametrize("gradients", [0.0, 0.3])
def test_loss_is_that_of_labels_and_of_the_teacher_on_displaced_structures(teacher, gradients):
    task = make_task(DistilledTask, teacher, teacher_weight=0.7, teacher_gradients_weight=gradients, displacement=0.1)
    batch = collate_indices(task.trainer.datamodule.train_set, range(4))
    torch.manual_seed(5)
    loss = task.loss_of_batch(batch)
    torch.manual_seed(5)
    moved = displaced(batch, 0.1)
    assert 0.01 < (moved.pos - batch.pos).abs().max() < 0.5
    energy, forces = mean_of(teacher, batch, moved.pos)
    expected = task.total_loss(task.compare(batch))
    expected = expected + 0.7 * (task(moved) + task.references(moved) - energy).abs().mean()
    if gradients:
        own = task.energy_forces_stress(moved, stress=False).forces
        expected = expected + 0.7 * gradients * (own - forces).abs().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss.requires_grad


@pytest.mark.parametrize("per_atom", [False, True])
def test_potentials_learn_energies_and_forces_with_their_weights(per_atom, teacher):
    options = {"energy_weight": 0.2, "forces_weight": 0.9, "displacement": 0.1, "per_atom_energy": per_atom}
    task = make_task(DistilledPotentialTask, teacher, teacher_weight=0.5, **options)
    batch = collate_indices(task.trainer.datamodule.train_set, range(4))
    torch.manual_seed(5)
    loss = task.loss_of_batch(batch)
    torch.manual_seed(5)
    moved = displaced(batch, 0.1)
    energy, forces = mean_of(teacher, batch, moved.pos)
    own = task.energy_forces_stress(moved, stress=False)
    expected = task.total_loss(task.compare(batch))
    size = torch.bincount(batch.batch) if per_atom else 1.0
    expected = expected + 0.5 * 0.2 * ((own.energy + task.references(moved) - energy) / size).abs().mean()
    expected = expected + 0.5 * 0.9 * (own.forces - forces).abs().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_copy_of_the_teacher_has_nothing_to_learn(teacher):
    network = load(teacher).joined()
    task = make_task(DistilledTask, teacher, network, teacher_gradients_weight=1.0)
    references = network.readout.atomref.clone() + network.readout.shift
    network.readout.atomref.zero_()
    task.atomref.copy_(0.0433641153 * references)
    task.scale.fill_(0.0433641153)
    batch = collate_indices(task.trainer.datamodule.train_set, range(4))
    assert task.taught(batch).item() < 1e-4
    with torch.no_grad():
        network.interactions[0].lin1.weight.mul_(1.5)
    assert task.taught(batch).item() > 1e-3


@pytest.mark.parametrize("readout", ["mean", {"energy": "mean", "other": "sum"}])
def test_teachers_say_what_their_model_says(readout, tmp_path):
    torch.manual_seed(0)
    model = SchNet(16, 16, 2, 10, 4.0, readout=readout).eval()
    for head in getattr(model.readout, "heads", [model.readout]):
        head.set_references(torch.linspace(-30.0, -3.0, 100))
    names = {"target": "energy", "unit": "eV"}
    if isinstance(readout, dict):
        names = {"targets": {name: {"unit": "eV"} for name in readout}}
    known = Teacher(model.save(tmp_path / "m.safetensors", **names))
    known.set_target(Property("energy", "eV"))
    batch = collate_indices(structures(), range(4))
    with torch.no_grad():
        expected = model(batch.z, batch.pos, batch.batch)[:, 0]
    assert known(batch, batch.pos, gradients=False)[0].tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_teaching_brings_networks_closer(teacher):
    task = make_task(DistilledTask, teacher)
    batch = collate_indices(task.trainer.datamodule.train_set, range(6))
    optimizer, losses = torch.optim.Adam(task.network.parameters(), lr=5e-3), []
    for _ in range(60):
        optimizer.zero_grad()
        loss = task.taught(batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    names = {name for name, _ in task.named_parameters()} | set(task.state_dict())
    assert not [name for name in names if "teacher" in name]  # it is not trained, and in no checkpoint


def test_the_card_names_the_teacher_and_says_what_was_learned_of_forces(tmp_path):
    domain = Domain("forces", False, {"molecule": Coverage(1, (1, 9), None, {"H": (0, 9)})}, {})
    path = schnet(3).save(tmp_path / "knows.safetensors", unit="eV", target="energy", trained_on=domain.as_json())
    for weight, gradients in ((0.0, "none"), (0.1, "forces")):
        model = make_task(DistilledTask, str(path), teacher_gradients_weight=weight).export()
        assert model.card["teacher"]["model"] == "knows"
        assert len(model.card["teacher"]["sha256"]) == 64
        assert Domain.of(model.card).gradients == gradients


def test_teachers_of_no_use_are_refused(teacher, tmp_path):
    data = StructureDataModule(structures(), "energy", num_train=6, num_val=1)
    other = StructureDataModule(structures(), "energy", num_train=6, num_val=1, seed=1)
    notes = {"fingerprint": data.split.fingerprint, "structures": note_split(other.split, 1)}
    assert set(data.split.test) != set(other.split.test)
    cheat = schnet(3).save(tmp_path / "a.safetensors", unit="eV", target="energy", split=notes)
    with pytest.raises(ValueError, match="1 of the 1 test structures were used for training or validation"):
        make_task(DistilledTask, str(cheat))
    gap = schnet(3).save(tmp_path / "b.safetensors", unit="eV", target="gap")
    with pytest.raises(ValueError, match="predicts gap, but energy is to be learned"):
        make_task(DistilledTask, str(gap))
    for options, message in (
        ({"teacher_weight": -1.0}, "teacher_weight must not be negative"),
        ({"teacher_gradients_weight": -1.0}, "teacher_gradients_weight must not be negative"),
        ({"displacement": 5.0}, "displacement must be a length in Å"),
    ):
        with pytest.raises(ValueError, match=message):
            DistilledTask(schnet(0), teacher=teacher, **options)
