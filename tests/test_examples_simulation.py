"""The simulation examples run on a small model of random weights, and what they print is right."""

import importlib.util
import re
import runpy
import sys
from pathlib import Path

import ase.io
import pytest
import torch
from ase.build import bulk, molecule

from pyg_schnet import SchNet

ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("matplotlib") is None,
        reason="draws pictures: pip install pyg_schnet[plot]",
    ),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib"),
]


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


def test_geometry_optimisation(model, tmp_path, monkeypatch, capsys):
    ase.io.write(tmp_path / "in.xyz", molecule("CH3CH2OH"))
    printed = run(
        "03_geometry_optimisation.py", monkeypatch, capsys, f"--model={model}", f"--structure={tmp_path / 'in.xyz'}",
        "--steps=15", f"--output={tmp_path / 'out'}",
    )  # fmt: skip
    before, after = map(float, re.search(r"energy ([-\d.]+) -> ([-\d.]+) eV", printed).groups())
    assert after < before
    assert (tmp_path / "out.png").stat().st_size > 1000
    assert len(ase.io.read(tmp_path / "out.xyz")) == 9


@pytest.mark.parametrize("ensemble", ["nve", "nvt"])
def test_molecular_dynamics(model, tmp_path, monkeypatch, capsys, ensemble):
    ase.io.write(tmp_path / "in.xyz", bulk("Cu", cubic=True), format="extxyz")
    printed = run(
        "04_molecular_dynamics.py", monkeypatch, capsys, f"--model={model}", f"--structure={tmp_path / 'in.xyz'}",
        "--repeat=2", f"--ensemble={ensemble}", "--steps=40", f"--output={tmp_path / 'out'}",
    )  # fmt: skip
    assert "32 atoms" in printed
    assert "0.02 ps" in printed
    if ensemble == "nve":
        assert abs(float(re.search(r"fluctuation ([\d.]+) meV/atom", printed)[1])) < 1.0
    assert (tmp_path / "out.png").stat().st_size > 1000


def test_crystal_mechanics(model, tmp_path, monkeypatch, capsys):
    printed = run(
        "05_crystal_mechanics.py", monkeypatch, capsys, f"--model={model}", "--element=Cu", "--lattice=fcc", "--a=3.6",
        f"--output={tmp_path / 'out.png'}",
    )  # fmt: skip
    from_curve = float(re.search(r"bulk modulus ([-\d.]+) GPa", printed)[1])
    from_strain = float(re.search(r"/ 3: ([-\d.]+) GPa", printed)[1])
    assert from_curve == pytest.approx(from_strain, rel=0.1, abs=1.0)
    assert (tmp_path / "out.png").stat().st_size > 1000
