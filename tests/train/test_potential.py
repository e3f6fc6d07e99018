import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from lightning.pytorch import Trainer

from pyg_schnet import SchNet
from pyg_schnet.data import AtomsDataset, Property
from pyg_schnet.data.loader import collate_indices
from pyg_schnet.derivatives import energy_forces_stress
from pyg_schnet.train import PotentialTask, PropertyTask, StructureDataModule
from pyg_schnet.units import factor


def labelled(atoms, seed, forces=True):
    atoms = atoms.copy()
    atoms.rattle(0.05, seed=seed)
    atoms.calc = EMT()
    energy = atoms.get_potential_energy()
    if not forces:
        atoms.calc = SinglePointCalculator(atoms, energy=energy)
        return atoms
    atoms.get_forces()
    if atoms.pbc.all():
        atoms.get_stress()
    return atoms


@pytest.fixture(scope="module")
def crystals():
    return AtomsDataset([labelled(bulk("Cu", cubic=True) * (1, 1, n), seed) for seed in range(4) for n in (1, 2)])


def make_task(dataset, **options):
    torch.manual_seed(0)
    network = SchNet(16, 16, 2, 10, 4.0)
    task = PotentialTask(network, **options)
    data = StructureDataModule(dataset, "energy", num_train=len(dataset) - 1, num_val=1)
    task.trainer = type("Trainer", (), {"datamodule": data, "ckpt_path": None})()
    task.log = lambda *args, **kwargs: None
    task.setup("fit")
    return task.double()


def test_loss_is_the_weighted_sum(crystals):
    task = make_task(crystals, energy_weight=0.3, forces_weight=2.0, stress_weight=5.0)
    pairs = task.compare(collate_indices(crystals, range(4)))
    terms = {name: (predicted - true).square().mean() for name, (predicted, true) in pairs.items()}
    assert set(terms) == {"energy", "energy_per_atom", "forces", "stress"}
    expected = 0.3 * terms["energy"] + 2.0 * terms["forces"] + 5.0 * terms["stress"]
    torch.testing.assert_close(task.total_loss(pairs), expected)
    task.per_atom_energy = True
    expected = 0.3 * terms["energy_per_atom"] + 2.0 * terms["forces"] + 5.0 * terms["stress"]
    torch.testing.assert_close(task.total_loss(pairs), expected)


def test_forces_and_stress_are_derivatives_of_the_energy(crystals):
    task = make_task(crystals, stress_weight=1.0).eval()
    batch = collate_indices(crystals, [0, 1])
    batch.pos, batch.cell = batch.pos.double(), batch.cell.double()
    response = task.energy_forces_stress(batch, stress=True)
    step = 1e-5
    moved = [batch.clone(), batch.clone()]
    for sign, copy in zip((1, -1), moved, strict=True):
        copy.pos = batch.pos.clone()
        copy.pos[5, 1] += sign * step
    slope = (task(moved[0]) - task(moved[1])).sum() / (2 * step)
    assert response.forces[5, 1].item() == pytest.approx(-slope.item(), rel=1e-6)
    for sign, copy in zip((1, -1), moved, strict=True):
        strain = torch.eye(3, dtype=torch.float64)
        strain[0, 0] += sign * step
        copy.pos, copy.cell = batch.pos @ strain, batch.cell @ strain
    slope = (task(moved[0]) - task(moved[1])) / (2 * step) / torch.linalg.det(batch.cell)
    torch.testing.assert_close(response.stress[:, 0, 0], slope, rtol=1e-6, atol=1e-12)


def test_training_reaches_all_weights(crystals):
    task = make_task(crystals, stress_weight=1.0)
    task.training_step(collate_indices(crystals, range(4)), 0).backward()
    without = [name for name, weight in task.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert without == ["network.readout.network.lin2.bias"] or without == []


def test_training_lowers_the_loss(crystals):
    task = make_task(crystals)
    batch = collate_indices(crystals, range(len(crystals)))
    optimizer = torch.optim.Adam(task.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = task.training_step(batch, 0)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_scale_is_the_size_of_the_forces(crystals):
    task = make_task(crystals)
    data = task.trainer.datamodule
    forces = torch.cat([crystals[int(k)].forces for k in data.split.train])
    assert task.scale.item() == pytest.approx(forces.double().square().mean().sqrt().item())


def test_structures_without_forces_count_for_the_energy_alone():
    dataset = AtomsDataset(
        [labelled(bulk("Cu", cubic=True), 0), labelled(bulk("Cu", cubic=True), 1, forces=False)]
        + [labelled(bulk("Cu", cubic=True), seed) for seed in (2, 3)]
    )
    task = make_task(dataset)
    pairs = task.compare(collate_indices(dataset, range(4)))
    assert pairs["energy"][0].shape == (4,)
    assert pairs["forces"][0].shape == (12, 3)
    alone = task.compare(collate_indices(dataset, [1]))
    assert alone["forces"][0].numel() == 0
    assert torch.isfinite(task.total_loss(alone))


@pytest.mark.parametrize("has_energy", [[True, False, True], [False, True, True], [False, False, False]])
def test_energies_per_atom_belong_to_the_structures_with_a_label(crystals, has_energy):
    task = make_task(crystals).eval()
    batch = collate_indices(crystals, [1, 0, 3])  # 8, 4 and 8 atoms
    batch.has_energy = torch.tensor(has_energy)
    pairs = task.compare(batch)
    sizes = [8, 4, 8]
    references = [size * task.atomref[29].item() for size in sizes]
    chosen = [k for k in range(3) if has_energy[k]]
    true = [(crystals[[1, 0, 3][k]].energy.item() - references[k]) / sizes[k] for k in chosen]
    assert pairs["energy_per_atom"][1].tolist() == pytest.approx(true, abs=1e-9)
    with torch.no_grad():
        predicted = [task(collate_indices(crystals, [[1, 0, 3][k]])).item() / sizes[k] for k in chosen]
    assert pairs["energy_per_atom"][0].tolist() == pytest.approx(predicted, abs=1e-9)
    assert pairs["energy"][0].tolist() == pytest.approx([sizes[k] * p for k, p in zip(chosen, predicted, strict=True)])
    task.per_atom_energy, task.forces_weight, task.energy_weight = True, 0.0, 2.0
    loss = sum((p - t) ** 2 for p, t in zip(predicted, true, strict=True)) / max(len(chosen), 1)
    assert task.total_loss(pairs).item() == pytest.approx(2.0 * loss)


def test_molecules_need_no_cell():
    dataset = AtomsDataset([labelled(molecule("H2O"), seed) for seed in range(4)])
    task = make_task(dataset).eval()
    forces, true = task.compare(collate_indices(dataset, [0, 1]))["forces"]
    assert torch.equal(true, torch.cat([dataset[k].forces for k in (0, 1)]).double())
    pos, step = dataset[0].pos.double(), 1e-5
    moved = [pos.clone(), pos.clone()]
    for sign, copy in zip((1, -1), moved, strict=True):
        copy[2, 1] += sign * step
    with torch.no_grad():
        energies = [task.scale * task.network(dataset[0].z, copy) for copy in moved]
    assert forces[2, 1].item() == pytest.approx(-(energies[0] - energies[1]).item() / (2 * step), rel=1e-6)


def test_stress_of_molecules_is_refused():
    dataset = AtomsDataset([labelled(molecule("H2O"), seed) for seed in range(4)])
    with pytest.raises(ValueError, match="has no target 'stress'"):
        make_task(dataset, stress_weight=1.0)


def test_other_units_are_kept_and_have_to_agree():
    dataset = AtomsDataset([labelled(molecule("H2O"), seed) for seed in range(4)])
    names = {"energy": Property("energy", "kcal/mol"), "forces": Property("forces", "kcal/mol/Å", "atom")}
    dataset.properties = names
    assert make_task(dataset).quantities() == {"energy": "kcal/mol", "forces": "kcal/mol/Å"}
    dataset.properties = {**names, "forces": Property("forces", "eV/Å", "atom")}
    with pytest.raises(ValueError, match="forces have to be in kcal/mol/Å; the data set has them in eV/Å"):
        make_task(dataset)


@pytest.mark.parametrize("options", [{}, {"window": "hard", "normalize": True}])
def test_both_ways_of_the_chapter_train_on_crystals(options):
    torch.manual_seed(0)
    crystals = AtomsDataset([labelled(bulk("Cu", a=3.4 + 0.06 * k, cubic=True), k) for k in range(8)])
    task = PropertyTask(SchNet(16, 16, 2, 10, 4.0, **options))
    data = StructureDataModule(crystals, "energy", num_train=7, num_val=1)
    task.property = data.property
    task.fit_statistics(*data.training_targets())
    batch = collate_indices(crystals, range(7))
    optimizer = torch.optim.Adam(task.parameters(), lr=1e-2)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = task.total_loss(task.compare(batch))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_negative_weights_are_refused():
    with pytest.raises(ValueError, match="weights must not be negative"):
        PotentialTask(SchNet(16, 16, 2, 10, 4.0), forces_weight=-1.0)
    with pytest.raises(ValueError, match="must be positive, all are 0"):
        PotentialTask(SchNet(16, 16, 2, 10, 4.0), energy_weight=0.0, forces_weight=0.0)


def test_stress_of_a_mixed_set_is_learned_where_there_is_one():
    torch.manual_seed(0)
    slab = bulk("Cu", cubic=True)
    slab.cell[2] = 0.0  # as ASE leaves an open direction without vacuum
    slab.pbc = (True, True, False)
    mixed = AtomsDataset(
        [labelled(atoms, 3) for atoms in (bulk("Cu", cubic=True), molecule("H2O"), slab, bulk("Cu", cubic=True))]
    )
    task = make_task(mixed, stress_weight=1.0).eval()
    batch = collate_indices(mixed, [0, 1, 2])
    batch.pos, batch.cell = batch.pos.double(), batch.cell.double()
    pairs = task.compare(batch)
    assert pairs["stress"][0].shape == pairs["stress"][1].shape == (1, 3, 3)
    alone = collate_indices(mixed, [0])
    alone.pos, alone.cell = alone.pos.double(), alone.cell.double()
    expected = energy_forces_stress(
        task.network, alone.z, alone.pos, cell=alone.cell, pbc=alone.pbc, batch_size=1, stress=True
    ).stress * float(task.scale)  # fmt: skip
    torch.testing.assert_close(pairs["stress"][0], expected, rtol=1e-9, atol=1e-12)
    for k in range(3):  # energies and forces are those of each structure by itself
        one = collate_indices(mixed, [k])
        one.pos, one.cell = one.pos.double(), one.cell.double()
        torch.testing.assert_close(task(batch)[k], task(one)[0], rtol=1e-9, atol=1e-12)
        found = task.energy_forces_stress(batch, stress=True, partly=True)
        torch.testing.assert_close(found.energy[k], task(one)[0], rtol=1e-9, atol=1e-12)
        one_by_one = task.energy_forces_stress(one, stress=False).forces
        torch.testing.assert_close(found.forces[batch.batch == k], one_by_one, rtol=1e-9, atol=1e-12)
    task.train()
    task.total_loss(task.compare(batch)).backward()
    assert all(bool(torch.isfinite(weight.grad).all()) for weight in task.network.parameters())
    with pytest.raises(ValueError, match="stress is defined for structures that are periodic"):
        task.energy_forces_stress(batch, stress=True)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_trainers_that_evaluate_in_inference_mode(crystals, tmp_path, precision):
    """Lightning's default; errors are those of a trainer that only switches gradients off, in full precision."""
    torch.manual_seed(0)
    task = PotentialTask(SchNet(16, 16, 2, 10, 4.0), stress_weight=1.0)
    data = StructureDataModule(crystals, "energy", num_train=4, num_val=1, num_test=3, batch_size=2, eval_batch_size=2)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    options |= {"default_root_dir": tmp_path, "enable_model_summary": False, "num_sanity_val_steps": 0}
    trainer = Trainer(max_epochs=1, precision=precision, **options)
    trainer.fit(task, data)
    assert all(bool(weight.isfinite().all()) for weight in task.parameters())
    found = trainer.test(task, data, verbose=False)[0]
    expected = Trainer(inference_mode=False, **options).test(task, data, verbose=False)[0]
    assert found.keys() == expected.keys() >= {"test/forces_mae", "test/stress_mae"}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-4, abs=1e-9), name
    loader = data.test_dataloader()
    values = torch.cat(trainer.predict(task, loader))
    with torch.no_grad():
        torch.testing.assert_close(values, torch.cat([task.eval().predict_step(batch, 0) for batch in loader]))


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_weights_of_atoms_act_on_the_loss_of_forces_alone(loss):
    structures = [labelled(bulk("Cu", cubic=True), seed) for seed in range(3)]
    weights = torch.rand(4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    structures[0].set_array("importance", weights.numpy())
    structures[1].set_array("importance", torch.zeros(4).numpy())
    dataset = AtomsDataset(structures, properties={"importance": "1"})
    task = make_task(dataset, energy_weight=0.3, forces_weight=2.0, atom_weights="importance", loss=loss)
    batch = collate_indices(dataset, range(3))
    pairs = task.compare(batch)
    predicted, true, _ = pairs["forces"]
    expected = torch.zeros((), dtype=torch.float64)
    for atom, weight in enumerate([*weights.tolist(), *[0.0] * 4, *[1.0] * 4]):  # the third structure has none
        error = (predicted[atom] - true[atom]).abs()
        small, large = 0.5 * error.square(), task.huber_delta * (error - 0.5 * task.huber_delta)
        each = {"mse": error.square(), "mae": error, "huber": torch.where(error < task.huber_delta, small, large)}
        expected = expected + weight * each[loss].mean()
    expected = expected / (weights.sum() + 4.0)
    torch.testing.assert_close(task.loss_of(pairs["forces"]), expected)
    plain = make_task(dataset, energy_weight=0.3, forces_weight=2.0, loss=loss)
    torch.testing.assert_close(task.loss_of(pairs["energy"]), plain.loss_of(plain.compare(batch)["energy"]))
    task._add_errors("val", batch)
    means = task.errors.means(["forces"])["forces"]
    assert means.mae == pytest.approx(float((predicted - true).abs().mean()), rel=1e-6)


def test_weights_of_atoms_that_are_none_are_refused():
    structures = [labelled(bulk("Cu", cubic=True), seed) for seed in range(2)]
    for atoms in structures:
        atoms.set_array("importance", -torch.ones(4).numpy())
    dataset = AtomsDataset(structures, properties={"importance": "1"})
    batch = collate_indices(dataset, range(2))
    with pytest.raises(ValueError, match="must not be negative, 'importance' has -1"):
        make_task(dataset, atom_weights="importance").compare(batch)
    with pytest.raises(ValueError, match="must name a label with one number for each atom"):
        make_task(dataset, atom_weights="energy").compare(batch)
    with pytest.raises(ValueError, match="read it by properties="):
        make_task(dataset, atom_weights="nothing").compare(batch)


@pytest.mark.parametrize("unit", ["eV", "kcal/mol"])
def test_a_repulsion_is_trained_beside_and_exported_in_the_unit(unit, crystals):
    torch.manual_seed(0)
    task = PotentialTask(SchNet(16, 16, 2, 10, 4.0, repulsion={"outer": 1.2, "inner": 0.5}))
    data = StructureDataModule(crystals, "energy", num_train=7, num_val=1)
    task.trainer = type("Trainer", (), {"datamodule": data, "ckpt_path": None})()
    task.find_targets(data)
    task.property = Property("energy", unit)
    task.fit_statistics(*data.training_targets())
    assert float(task.scale) != 1.0
    batch = collate_indices(crystals, [0, 1])
    given = {"cell": batch.cell, "pbc": batch.pbc}
    repulsion = (
        task(batch) - task.scale * _without_repulsion(task.network)(batch.z, batch.pos, batch.batch, **given)[:, 0]
    )
    alone = SchNet(16, 16, 2, 10, 4.0, repulsion={"outer": 1.2, "inner": 0.5})
    both = [model(batch.z, batch.pos, batch.batch, **given)[:, 0] for model in (alone, _without_repulsion(alone))]
    in_ev = both[0] - both[1]
    assert in_ev.min() > 0.1
    torch.testing.assert_close(repulsion, in_ev * factor("eV", unit), rtol=1e-3, atol=1e-3)
    exported = task.export()
    found = exported(batch.z, batch.pos, batch.batch, **given)[:, 0].double()
    torch.testing.assert_close(found, task.predict_step(batch, 0), rtol=1e-5, atol=1e-3)
    assert float(exported.repulsion.scale) == pytest.approx(factor("eV", unit), rel=1e-5)


def _without_repulsion(model):
    other = SchNet(**{**model.config, "repulsion": None})
    other.load_state_dict(model.state_dict(), strict=False)
    return other
