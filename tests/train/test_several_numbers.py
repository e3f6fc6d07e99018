import json

import ase.io
import numpy as np
import pytest
import torch
from ase.build import molecule

from pyg_schnet import SchNet
from pyg_schnet.cli import main
from pyg_schnet.data import AtomsDataset
from pyg_schnet.data.loader import collate_indices
from pyg_schnet.nn import DipoleReadout
from pyg_schnet.train import PropertyTask, StructureDataModule
from pyg_schnet.train.references import fit_statistics

NAMES = ["H2O", "CH4", "NH3", "CH3OH", "H2O", "CH4", "NH3", "CH3OH", "C2H6", "H2CO"]


def structures():
    """Molecules with a spectrum of four numbers of unlike sizes, and a dipole."""
    rng, found = np.random.default_rng(0), []
    for seed, name in enumerate(NAMES):
        atoms = molecule(name)
        atoms.rattle(0.05, seed=seed)
        atoms.info["spectrum"] = len(atoms) * np.array([1.0, -50.0, 1000.0, 2.0]) + rng.normal(size=4) * [1, 5, 50, 0]
        atoms.info["dipole"] = rng.normal(size=3)
        found.append(atoms)
    return found


def fitted(target, unit, network):
    dataset = AtomsDataset(structures(), properties={target: unit})
    data = StructureDataModule(dataset, target, num_train=8, num_val=1, num_test=1)
    task = PropertyTask(network)
    task.find_targets(data)
    assert task.check(data) == []
    task.fit_statistics(*data.training_targets())
    return task.eval(), data


def small(**options):
    torch.manual_seed(0)
    return SchNet(8, 8, 1, 5, 5.0, **options)


@pytest.mark.parametrize("readout", ["sum", "mean"])
def test_references_and_scale_are_those_of_each_number(readout):
    task, data = fitted("spectrum", "eV", small(readout=readout, out_channels=4))
    chosen = [structures()[k] for k in data.split.train]
    numbers = sorted({number for atoms in chosen for number in atoms.numbers})
    counts = np.array([[np.sum(atoms.numbers == number) for number in numbers] for atoms in chosen], float)
    n_atoms = counts.sum(1, keepdims=True)
    weights = counts if readout == "sum" else counts / n_atoms
    for k in range(4):
        target = np.array([atoms.info["spectrum"][k] for atoms in chosen])
        solution = np.linalg.lstsq(weights, target, rcond=None)[0]
        assert task.atomref[numbers, k].numpy() == pytest.approx(solution, rel=1e-5, abs=1e-5)
        left = target - weights @ solution
        spread = (left / n_atoms[:, 0] if readout == "sum" else left).std()
        if spread > 1e-4:
            assert float(task.scale[k]) == pytest.approx(spread, rel=1e-4)
        else:  # the last number is the number of atoms, which references say
            assert (readout, k, float(task.scale[k])) == ("sum", 3, 1.0)


def test_small_numbers_beside_large_ones_keep_their_spread():
    counts = torch.zeros(4, 100)
    counts[:, 1] = torch.tensor([1.0, 2.0, 1.0, 2.0])
    small = torch.tensor([0.1, 0.2, 0.3, 0.4])  # 0.2 and 0.3 on average, ±0.1 about them
    _, scale = fit_statistics(counts, torch.stack([1e6 * torch.tensor([1.0, 2.0, 3.0, 4.0]), small], dim=1), "mean")
    assert scale[1].item() == pytest.approx(small.std(correction=0).item(), rel=1e-5)


def test_loss_and_errors_are_over_all_numbers():
    task, data = fitted("spectrum", "eV", small(out_channels=4))
    batch = collate_indices(data.dataset, range(6))
    with torch.no_grad():
        values = task.predict_step(batch, 0)
        loss = task.total_loss(task.compare(batch))
    assert values.shape == (6, 4)
    true = torch.tensor(np.stack([atoms.info["spectrum"] for atoms in structures()[:6]]))
    assert float(loss) == pytest.approx(float((values - true).square().mean()), rel=1e-4)


def test_export_gives_the_same_numbers(tmp_path):
    task, data = fitted("spectrum", "eV", small(out_channels=4))
    batch = collate_indices(data.dataset, range(6))
    model = SchNet.load(task.export().save(tmp_path / "model.safetensors"))
    with torch.no_grad():
        expected = task.predict_step(batch, 0)
        found = model.double()(batch.z, batch.pos.double(), batch.batch)
        again = PropertyTask.from_model(SchNet.load(tmp_path / "model.safetensors"), task.property)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-4)
        torch.testing.assert_close(again.predict_step(batch, 0), expected, rtol=1e-6, atol=1e-4)


def test_vectors_have_one_scale_and_turn_with_the_molecule():
    task, data = fitted("dipole", "e·Å", small(readout=DipoleReadout(8, magnitude=False)))
    true = np.stack([structures()[k].info["dipole"] for k in data.split.train])
    assert task.scale.shape == ()
    assert float(task.scale) == pytest.approx(np.sqrt(np.mean(true**2)), rel=1e-5)
    batch = collate_indices(data.dataset, range(6))
    turn = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    with torch.no_grad():
        before = task.predict_step(batch, 0)
        batch.pos = batch.pos @ turn.T
        torch.testing.assert_close(task.predict_step(batch, 0), before @ turn.T.double(), rtol=1e-4, atol=1e-5)


def test_other_numbers_of_outputs_are_said():
    with pytest.raises(ValueError, match=r"'spectrum' has 4 numbers .* set out_channels=4"):
        fitted("spectrum", "eV", small())
    task, data = fitted("spectrum", "eV", small(out_channels=4))
    with pytest.raises(ValueError, match="gives 8 numbers for 4 structures, but 'spectrum' has 16"):
        task.pair(torch.zeros(4, 2), collate_indices(data.dataset, range(4)))


@pytest.mark.filterwarnings("ignore:the structure has")  # six molecules are few to learn from
def test_commands_learn_and_predict_them(tmp_path, capsys):
    ase.io.write(tmp_path / "a.xyz", structures(), format="extxyz")
    main(["train", "--data.dataset=pyg_schnet.data.AtomsDataset", f"--data.dataset.source={tmp_path / 'a.xyz'}",
          '--data.dataset.properties={"spectrum": "eV"}', "--data.target=spectrum", "--data.num_train=6",
          "--data.num_val=2", "--model.network.hidden_channels=8", "--model.network.num_filters=8",
          "--model.network.out_channels=4", "--trainer.max_epochs=1", "--trainer.accelerator=cpu",
          "--trainer.enable_progress_bar=false", f"--run_dir={tmp_path / 'run'}"])  # fmt: skip
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    model = tmp_path / "run" / "model.safetensors"
    assert result["errors"]["spectrum"]["mae"]["meV"] > 0
    for name in ("out.csv", "out.xyz"):
        main(["predict", str(tmp_path / "a.xyz"), f"--model={model}", f"--output={tmp_path / name}"])
    rows = (tmp_path / "out.csv").read_text().splitlines()
    assert rows[0] == "structure,formula,spectrum_0 [eV],spectrum_1 [eV],spectrum_2 [eV],spectrum_3 [eV]"
    network = SchNet.load(model).double()
    for k, atoms in enumerate(ase.io.read(tmp_path / "out.xyz", ":")):
        with torch.no_grad():
            expected = network(torch.tensor(atoms.numbers), torch.tensor(atoms.positions))[0].numpy()
        assert atoms.info["predicted_spectrum"] == pytest.approx(expected, abs=1e-3)
        assert [float(text) for text in rows[k + 1].split(",")[2:]] == pytest.approx(expected, abs=1e-3)
