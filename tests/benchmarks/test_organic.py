"""The benchmark of organic molecules finds no error where the model is the method, and those that there are."""

import sys
from pathlib import Path
from types import SimpleNamespace

import ase.build
import numpy as np
import pytest
import torch

from pyg_schnet import SchNet
from pyg_schnet.cli import main as command
from pyg_schnet.data import ReferenceData
from pyg_schnet.units import factor

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    network = SchNet(16, 16, 1, 12, 4.0)
    network.readout.scale.fill_(0.1)
    return str(network.save(tmp_path / "model.safetensors", target="energy", unit="eV"))


@pytest.fixture
def run(qm9_dir):
    import organic

    return lambda part, model, *options: organic.main([part, f"--model={model}", f"--qm9_dir={qm9_dir}", *options])


def test_errors_are_those_of_the_labels(run, model, qm9_dir, tmp_path):
    cheap = ["--method=ase.calculators.lj.LennardJones", "--max_energy=1e5", "--max_force=1e5"]
    folder = tmp_path / "some"
    command(
        ["reference-data", str(folder), "--qm9=3", "--part=test", f"--qm9_dir={qm9_dir}", "--kinds={modes: 4}", *cheap]
    )
    (row,) = run("errors", model, f"--sets={folder}")
    data, network = ReferenceData(str(folder)), SchNet.load(model).eval()
    assert row["structures"] == len(data) == 12
    energy, found, label = [], [], []
    for one in data:
        pos = one.pos.clone().requires_grad_()
        value = network(one.z, pos)
        (grad,) = torch.autograd.grad(value, pos)
        energy.append(float(value.detach()) - float(one.energy))
        found.append(-grad.numpy())
        label.append(one.forces.numpy())
    kcal = factor("kcal/mol", "eV")
    assert row["energy"] == pytest.approx(np.abs(energy).mean() / kcal, rel=1e-4)
    assert row["forces"] == pytest.approx(np.abs(np.concatenate(found) - np.concatenate(label)).mean() / kcal, rel=1e-3)
    parts = np.array(energy).reshape(3, 4)
    assert row["within"] == pytest.approx(np.abs(parts - parts.mean(1, keepdims=True)).mean() / kcal, rel=1e-3)


def test_the_method_has_no_errors_beside_itself(run, monkeypatch, model):
    """Minima and vibrations of a calculator beside the same one."""
    import organic

    method = "--method=ase.calculators.lj.LennardJones"
    monkeypatch.setattr(organic, "SchNetCalculator", lambda *_, **__: organic.ByMethod(organic.Method(method[9:])))
    *rows, mean = run("vibrations", model, method, "--molecules=1")
    assert mean["rmsd"] == rows[0]["rmsd"] < 1e-3
    assert mean["frequencies"] < 1.0


def test_molecules_can_be_shared_among_processes(qm9_dir):
    import organic

    def chosen(skip, count):
        options = SimpleNamespace(qm9_dir=qm9_dir, skip=skip, molecules=count)
        return [name for name, _ in organic.held_out(options)]

    assert chosen(0, 2) + chosen(2, 3) == chosen(0, 5)
    assert len(set(chosen(0, 5))) == 5


def test_bonds_keep_their_range():
    from bonds import Bonds, outside

    pairs = [(0, np.array([[0, 1]])), (2, np.array([[0, 1]]))]  # the second molecule begins at atom 2
    bonds = Bonds(pairs, frames=2)
    for first, second in ((1.0, 2.0), (1.2, 1.8), (0.9, 1.9)):
        bonds.look(np.array([[0.0, 0, 0], [first, 0, 0], [50.0, 0, 0], [50.0, second, 0]]))
    np.testing.assert_allclose(bonds.range, [[0.9, 1.8], [1.2, 2.0]])
    (whole,) = bonds.whole  # the third frame is half a stretch
    np.testing.assert_allclose(whole, [[1.0, 1.8], [1.2, 2.0]])
    assert outside(bonds.stretches[1], whole) == pytest.approx(0.1)  # 0.9 below 1.0
    assert outside(whole, bonds.stretches[1]) == pytest.approx(0.3)  # 1.2 above 0.9


def test_dynamics_of_bonds(run, model):
    (row,) = run("dynamics", model, "--method=ase.calculators.lj.LennardJones", "--molecules=1", "--picoseconds=0.02",
                 "--of_reference=0.01")  # fmt: skip
    assert row["bonds"] > 0
    assert row["stretch"] > 0.9
    assert row["equal"] <= max(row["above"], row["below"])  # a stretch does not leave a range further than all of them
    assert row["own"] > 0  # there are two, and no two are alike


def test_molecules_that_are_evaluated_together(model):
    import organic

    molecules = [ase.build.molecule(name) for name in ("H2O", "CH3CH2OH", "NH3")]
    evaluate = organic.of_all(organic.Committee(model, dtype=torch.float32), molecules)
    apart = [atoms.positions + 2000.0 * k for k, atoms in enumerate(molecules)]  # in float32 this far, 1e-4 Å are lost
    energy, forces = evaluate(np.concatenate(apart))
    for atoms in molecules:
        atoms.calc = organic.SchNetCalculator(model)
    assert energy == pytest.approx(sum(atoms.get_potential_energy() for atoms in molecules), rel=1e-5)
    np.testing.assert_allclose(forces, np.concatenate([atoms.get_forces() for atoms in molecules]), atol=1e-5)


def test_speed(run, model):
    (row,) = run("speed", model, "--method=ase.calculators.lj.LennardJones", "--molecules=2", "--repeats=3")
    assert row["of_batch"]["median"] == pytest.approx(row["method"]["median"] / row["batch"]["median"], rel=0.5)
