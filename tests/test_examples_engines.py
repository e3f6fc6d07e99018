"""The examples of engines run on models of random weights, a few steps each, and what they print is plausible."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

from pyg_schnet import SchNet

ROOT = Path(__file__).parents[1]
STRUCTURE = ROOT / "examples" / "aspirin.xyz"


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(3)
    network = SchNet(16, 16, 2, 12, 4.0)
    network.readout.scale.fill_(0.05)  # weak forces, so that atoms oscillate
    return network.save(tmp_path / "model.safetensors", target="energy", unit="eV")


def run(name, monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    return capsys.readouterr().out


def test_torch_sim(model, monkeypatch, capsys):
    pytest.importorskip("torch_sim")
    text = run(
        "08_torch_sim.py",
        monkeypatch,
        capsys,
        "--model",
        model,
        "--structure",
        STRUCTURE,
        "--replicas",
        3,
        "--steps",
        5,
    )
    assert text.count("relaxed by") == 4
    assert "3 replicas, 5 steps" in text


def test_openmm(model, monkeypatch, capsys):
    openmmml = pytest.importorskip("openmmml")
    from pyg_schnet.interfaces import SchNetPotentialFactory

    openmmml.MLPotential.registerImplFactory("pyg_schnet", SchNetPotentialFactory())
    text = run(
        "09_openmm.py", monkeypatch, capsys, "--model", model, "--structure", STRUCTURE, "--steps", 40, "--cells", 4
    )
    volumes = [float(value) for value in re.findall(r"box of (\S+) nm", text)]
    assert len(volumes) == 5
    assert volumes[0] == pytest.approx((4 * 0.54) ** 3, abs=0.01)


def test_path_integrals(model, tmp_path, monkeypatch, capsys):
    pytest.importorskip("ipi")
    text = run(
        "10_path_integrals.py", monkeypatch, capsys, "--model", model, "--structure", STRUCTURE, "--beads", 1, 4,
        "--steps", 4, "--output", tmp_path / "runs",
    )  # fmt: skip
    assert " 1 beads" in text
    # the centroid virial estimator is 3/2 kT an atom for one bead, by its definition
    assert re.search(r"1 beads: 39 meV of kinetic energy an atom, 1\.00 times", text)
    assert re.search(r"4 beads: \d+ meV", text)
