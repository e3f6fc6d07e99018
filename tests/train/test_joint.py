import json

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from lightning.pytorch import Trainer
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader

from pyg_schnet import SchNet, load
from pyg_schnet.cli import main
from pyg_schnet.data import Property
from pyg_schnet.data.loader import collate_indices
from pyg_schnet.data.properties import QM9_PROPERTIES
from pyg_schnet.train import PotentialTask, PropertyTask, StructureDataModule
from pyg_schnet.train.joint import Joint

HEADS = {
    "mu": "dipole",
    "U0, H": "sum",
    "gap": "mean",
    "homo": "max",
    "r2": {"class": "ElectronicSpatialExtentReadout", "own_extent": True},
}
NAMES = ["gap", "U0", "mu", "homo", "H", "r2"]  # not in the order of the heads
WEIGHTS = {"mu": 2.0, "gap": 0.5}
SINGLE = {"mu": "dipole", "U0": "sum", "H": "sum", "gap": "mean", "homo": "max", "r2": HEADS["r2"]}


def network(readout, **options):
    torch.manual_seed(0)
    return SchNet(8, 8, 2, 10, 5.0, readout=readout, **options)


def fitted(dataset, target, model, **options):
    data = StructureDataModule(dataset, target, num_train=24, num_val=3, batch_size=6)
    task = PropertyTask(model, **options)
    task.find_targets(data)
    task.check(data)
    task._look_at_statistics(data)
    return task.eval(), data


def singles(dataset, joint):
    """A task of each target alone, with the weights of the one of all."""
    found = {}
    for name, readout in SINGLE.items():
        model = network(readout)
        for part in ("embedding", "interactions"):
            getattr(model, part).load_state_dict(getattr(joint.network, part).state_dict())
        head, columns = joint.network.readout.head(name)
        state = head.network.state_dict()
        if name in ("U0", "H"):
            state |= {key: state[key][columns] for key in ("lin2.weight", "lin2.bias")}
        model.readout.network.load_state_dict(state)
        found[name] = fitted(dataset, name, model, loss=joint.loss)[0]
    return found


@pytest.mark.parametrize("loss", ["mae", "mse"])
def test_values_losses_and_gradients_are_those_of_single_targets(qm9_sample, loss):
    joint, data = fitted(qm9_sample, NAMES, network(HEADS), loss=loss, weights=WEIGHTS)
    batch = collate_indices(data.train_set, range(10))
    predicted, columns = joint.predict_step(batch, 0), joint.network.readout.columns
    total = joint.loss_of_batch(batch)
    total.backward()
    assert joint.total_loss(joint.compare(batch)).item() == pytest.approx(total.item(), rel=1e-5)
    expected, gradient = 0.0, 0.0
    for name, task in singles(qm9_sample, joint).items():
        torch.testing.assert_close(
            predicted[:, columns[name]].squeeze(1), task.predict_step(batch, 0), rtol=1e-6, atol=1e-5
        )
        own = task.total_loss(task.compare(batch))
        own.backward()
        factor = WEIGHTS.get(name, 1.0) / float(joint.spread[columns[name]]) ** (1 if loss == "mae" else 2)
        expected += factor * float(own.detach())
        gradient = gradient + factor * task.network.interactions[0].lin_in.weight.grad
    assert total.item() == pytest.approx(expected, rel=1e-4)
    scale = float(gradient.abs().max())
    torch.testing.assert_close(joint.network.interactions[0].lin_in.weight.grad, gradient, rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize(("targets", "heads"), [(NAMES, HEADS), ("U0", "sum")])
def test_what_a_subclass_overrides_is_called(targets, heads, qm9_sample):
    class Own(PropertyTask):
        def loss_of(self, pair):
            called.append("loss_of")
            return 2.0 * super().loss_of(pair)

        def pair(self, predicted, batch, *part):
            called.append("pair")
            return super().pair(predicted, batch, *part)

    task, data = fitted(qm9_sample, targets, network(heads))
    own = Own(task.network)
    own.find_targets(data)
    own._look_at_statistics(data)
    called, batch = [], collate_indices(data.train_set, range(6))
    assert own.loss_of_batch(batch).item() == pytest.approx(2.0 * task.loss_of_batch(batch).item(), rel=1e-6)
    number = len(task.properties)
    assert called == ["pair"] * number + ["loss_of"] * number


def test_a_single_head_is_a_model_like_any_other(qm9_sample, tmp_path):
    task, _ = fitted(qm9_sample, "U0", network({"U0": "sum"}))
    task.export().save(tmp_path / "m.safetensors")
    model = load(tmp_path / "m.safetensors", target="U0")
    assert type(model.readout).__name__ == "SumReadout"
    atoms = molecule("H2O")
    z, pos = torch.tensor(atoms.numbers), torch.tensor(atoms.positions)
    batch = Batch(z=z, pos=pos.float(), batch=torch.zeros_like(z), num_graphs=1)
    with torch.no_grad():
        assert model.double()(z, pos).item() == pytest.approx(task.predict_step(batch, 0).item(), abs=2e-3)
    with pytest.raises(ValueError, match="there is no head for U0; there is no target for the head of H"):
        fitted(qm9_sample, "U0", network({"H": "sum"}))


def test_options_that_several_targets_do_not_take():
    with pytest.raises(ValueError, match="weights are those of several properties, but 'a' is learned alone"):
        PropertyTask(network("sum"), target=Property("a", "eV"), weights={"a": 1.0})
    with pytest.raises(ValueError, match="pooling is that of each head of the network, leave out pooling='none'"):
        PropertyTask(network(HEADS), pooling="none")


def test_references_and_spreads_are_those_of_least_squares(qm9_sample):
    joint, data = fitted(qm9_sample, NAMES, network(HEADS))
    structures = [data.train_set[k] for k in range(len(data.train_set))]
    numbers = [1, 6, 7, 8, 9]
    counts = np.array([[int((one.z == number).sum()) for number in numbers] for one in structures], float)
    for name, weights in (("U0", counts), ("gap", counts / counts.sum(1, keepdims=True)), ("homo", None), ("mu", None)):
        part = joint.joint.part(name)
        target = np.array([float(one.y[0, QM9_PROPERTIES[name].column]) for one in structures])
        solution = np.zeros(5)
        if weights is not None:
            solution = np.linalg.lstsq(weights, target, rcond=None)[0]
            left = target - weights @ solution
        else:
            left = target - target.mean()
            solution += target.mean() if name == "homo" else 0.0
        assert joint.atomref[numbers, part.columns].flatten().tolist() == pytest.approx(solution, rel=1e-4, abs=2e-3)
        assert float(joint.spread[part.columns]) == pytest.approx(left.std(), rel=1e-3)
        per_atom = left / counts.sum(1) if name == "U0" else left
        assert float(joint.scale[part.columns]) == pytest.approx(per_atom.std(), rel=1e-3)


def without(structures, lacking):
    """Copies of structures whose column 7 (U0) has no label where they are lacking."""
    found = []
    for k, one in enumerate(structures):
        has = torch.ones(1, 19, dtype=torch.bool)
        has[0, 7] = k not in lacking
        y = one.y.clone()
        if k in lacking:
            y[0, 7] = 1e6
        found.append(Data(z=one.z, pos=one.pos, y=y, has_y=has))
    return found


def test_labels_that_are_missing_are_left_out_of_their_target_alone(qm9_sample):
    structures, lacking = [qm9_sample[k] for k in range(20)], {1, 4, 5}
    targets = [QM9_PROPERTIES[name] for name in ("U0", "gap")]
    model = network({"U0": "sum", "gap": "mean"})
    task = PropertyTask(model, target=targets, loss="mae")
    data = StructureDataModule(without(structures, lacking), targets, num_train=20, num_val=0, num_test=0)
    said = task.check(data)
    assert said == ["3 of 20 training structures have no label 'U0' and are left out."]
    task._look_at_statistics(data)
    kept = [one for k, one in enumerate(structures) if k not in lacking]
    of_rest = StructureDataModule(kept, targets[:1], num_train=17, num_val=0, num_test=0)
    rest = PropertyTask(network("sum"))
    rest.find_targets(of_rest)
    rest._look_at_statistics(of_rest)
    torch.testing.assert_close(task.atomref[:, :1], rest.atomref, rtol=1e-6, atol=1e-5)
    assert float(task.scale[0]) == pytest.approx(float(rest.scale), rel=1e-5)
    batch = Batch.from_data_list(without(structures, lacking))
    pairs = task.compare(batch)
    assert [len(pairs[name][0]) for name in ("U0", "gap")] == [17, 20]
    change = {name: (pair[0] - pair[1]).abs().mean().item() for name, pair in pairs.items()}
    expected = sum(change[name] / float(task.spread[k]) for k, name in enumerate(("U0", "gap")))
    assert task.total_loss(pairs).item() == pytest.approx(expected, rel=1e-5)
    assert task.loss_of_batch(batch).item() == pytest.approx(expected, rel=1e-5)
    none = Batch.from_data_list(without(structures[:2], {0, 1}))
    assert task.loss_of_batch(none).item() == pytest.approx(task.total_loss(task.compare(none)).item(), rel=1e-5)
    alone = task.loss_of(task.in_its_size("gap", task.compare(none)["gap"])).item()
    assert task.total_loss(task.compare(none)).item() == pytest.approx(alone, rel=1e-6)


def test_networks_without_heads_give_targets_in_their_order(qm9_sample, tmp_path):
    task, data = fitted(qm9_sample, ["H", "U0"], network("sum", out_channels=2))
    batch = collate_indices(data.train_set, range(8))
    expected = task.predict_step(batch, 0)
    path = task.export().save(tmp_path / "model.safetensors")
    again = PropertyTask.from_model(load(path), task.properties)
    torch.testing.assert_close(again.predict_step(batch, 0), expected, rtol=1e-9, atol=1e-4)
    one = PropertyTask.from_model(load(path, target="U0"), QM9_PROPERTIES["U0"])
    torch.testing.assert_close(one.predict_step(batch, 0), expected[:, 1], rtol=1e-9, atol=1e-4)


def test_export_gives_the_same_numbers(qm9_sample, tmp_path):
    task, data = fitted(qm9_sample, NAMES, network(HEADS))
    batch = collate_indices(data.train_set, range(8))
    expected, columns = task.predict_step(batch, 0), task.network.readout.columns
    path = task.export().save(tmp_path / "model.safetensors")
    again = PropertyTask.from_model(load(path), task.properties)
    torch.testing.assert_close(again.predict_step(batch, 0), expected, rtol=1e-7, atol=1e-4)
    for name in NAMES:
        one = load(path, target=name)
        assert one.card["unit"] == QM9_PROPERTIES[name].unit
        alone = PropertyTask.from_model(one, QM9_PROPERTIES[name]).predict_step(batch, 0)
        torch.testing.assert_close(alone, expected[:, columns[name]].squeeze(1), rtol=1e-7, atol=1e-4)


def test_columns_of_pygs_y_are_learned_from_any_loader(qm9_sample):
    structures = [Data(z=one.z, pos=one.pos, y=one.y.float()) for one in (qm9_sample[k] for k in range(24))]
    targets = [
        Property(name, QM9_PROPERTIES[name].unit, column=QM9_PROPERTIES[name].column, attribute="y") for name in NAMES
    ]
    task = PropertyTask(network(HEADS), target=targets, loss="mae", lr=1e-3)
    loader = DataLoader(structures, batch_size=8)
    trainer = Trainer(accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    trainer.fit(task, loader, DataLoader(structures, batch_size=5))
    found = trainer.callback_metrics
    assert {name for name in found if name.endswith("_mae")} == {f"val/{name}_mae" for name in NAMES}
    with torch.no_grad():
        predicted = task.eval().predict_step(Batch.from_data_list(structures), 0)
    total = 0.0
    for name, where in task.network.readout.columns.items():
        true = torch.stack([one.y[0, QM9_PROPERTIES[name].column] for one in structures]).double()
        error = float((predicted[:, where].squeeze(1) - true).abs().mean())
        assert float(found[f"val/{name}_mae"]) == pytest.approx(error, rel=1e-3)
        total += error / float(task.spread[where])
    assert float(found["val/loss"]) == pytest.approx(total, rel=1e-3)


@pytest.mark.filterwarnings("ignore:the structure has")
def test_commands_learn_test_and_predict_them(qm9_sample, tmp_path, capsys):
    images = []
    for k in range(20):
        atoms = Atoms(qm9_sample[k].z.numpy(), qm9_sample[k].pos.numpy())
        atoms.info |= {name: float(qm9_sample[k].y[0, QM9_PROPERTIES[name].column]) for name in ("mu", "U0", "gap")}
        images.append(atoms)
    del images[3].info["gap"]
    ase.io.write(tmp_path / "a.xyz", images, format="extxyz")
    main(["train", "--data.dataset=pyg_schnet.data.AtomsDataset", f"--data.dataset.source={tmp_path / 'a.xyz'}",
          '--data.dataset.properties={"mu": "D", "U0": "eV", "gap": "eV"}', "--data.target=[U0, gap, mu]",
          "--data.num_train=12", "--data.num_val=3", "--model.network.hidden_channels=8",
          "--model.network.num_filters=8",
          '--model.network.readout={"mu": "dipole", "U0": "sum", "gap": "mean"}', "--trainer.max_epochs=1",
          "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
          f"--run_dir={tmp_path / 'run'}"])  # fmt: skip
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert list(result["errors"]) == ["mu", "U0", "gap"]
    assert list(result["errors"]["mu"]["mae"]) == ["e·Å"]
    model = str(tmp_path / "run" / "model.safetensors")
    card = load(model).card
    assert card["targets"] == {"mu": {"unit": "e·Å"}, "U0": {"unit": "eV"}, "gap": {"unit": "eV"}}
    assert "target" not in card
    capsys.readouterr()
    main(["test", model, f"--data_dir={tmp_path}"])
    shown = capsys.readouterr().out
    assert f"{result['errors']['U0']['mae']['meV']:.1f} meV" in shown
    assert "mu" in shown
    main(["test", model, f"--data_dir={tmp_path}", "--target=gap"])
    shown = capsys.readouterr().out
    assert "gap" in shown
    assert "U0" not in shown
    for name in ("out.csv", "out.xyz"):
        main(["predict", str(tmp_path / "a.xyz"), f"--model={model}", f"--output={tmp_path / name}"])
    rows = [line.split(",") for line in (tmp_path / "out.csv").read_text().splitlines()]
    assert rows[0][:5] == ["structure", "formula", "mu [e·Å]", "U0 [eV]", "gap [eV]"]
    network = load(model).double()
    for k, atoms in enumerate(ase.io.read(tmp_path / "out.xyz", ":")):
        with torch.no_grad():
            expected = network(torch.tensor(atoms.numbers), torch.tensor(atoms.positions))[0].tolist()
        assert [float(text) for text in rows[k + 1][2:5]] == pytest.approx(expected, rel=1e-5, abs=2e-3)
        found = [atoms.info[f"predicted_{name}"] for name in ("mu", "U0", "gap")]
        assert found == pytest.approx(expected, rel=1e-5, abs=2e-3)
        assert atoms.info["predicted_mu_unit"] == "e·Å"
    main(["predict", str(tmp_path / "a.xyz"), f"--model={model}", "--target=gap", f"--output={tmp_path / 'gap.csv'}"])
    one = [line.split(",") for line in (tmp_path / "gap.csv").read_text().splitlines()]
    assert one[0][2] == "gap [eV]"
    assert [float(row[2]) for row in one[1:]] == pytest.approx([float(row[4]) for row in rows[1:]], abs=1e-5)


def test_what_does_not_fit_together_is_said(qm9_sample):
    with pytest.raises(ValueError, match="there is no head for lumo; there is no target for the head of gap"):
        fitted(qm9_sample, ["U0", "lumo"], network({"U0": "sum", "gap": "mean"}))
    with pytest.raises(
        ValueError, match=r"gives 1 number for each structure, but there are 2 targets; .*out_channels=2"
    ):
        fitted(qm9_sample, ["U0", "H"], network("sum"))
    with pytest.raises(ValueError, match=r"'mu' is in D .*, but a ElectronicSpatialExtentReadout"):
        fitted(qm9_sample, ["U0", "mu"], network({"U0": "sum", "mu": "spatial_extent"}))
    with pytest.raises(ValueError, match="choose the readout 'sum'"):
        fitted(qm9_sample, ["U0", "gap"], network({"U0, gap": "mean"}))
    with pytest.raises(ValueError, match="targets that are learned together need different names, 'U0' is there twice"):
        StructureDataModule(qm9_sample, ["U0", "U0"], num_train=10)
    with pytest.raises(ValueError, match="no target to learn"):
        StructureDataModule(qm9_sample, [], num_train=10)
    with pytest.raises(ValueError, match="learns one energy with its derivatives, got 2 targets"):
        PotentialTask(network("sum"), target=[QM9_PROPERTIES["U0"], QM9_PROPERTIES["H"]])
    targets = [QM9_PROPERTIES["U0"], QM9_PROPERTIES["H"]]
    for weights, message in (
        ({"gap": 1.0}, "weights are given for gap; the targets are U0, H"),
        ({"U0": -1.0}, "must not be negative"),
        ({"U0": 0.0, "H": 0.0}, "one must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            Joint(network({"U0, H": "sum"}), targets, "none", 2, weights)
    with pytest.raises(ValueError, match="weights are those of several properties"):
        fitted(qm9_sample, "U0", network("sum"), weights={"U0": 2.0})
