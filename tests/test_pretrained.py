"""The models that come with the package: found by name, whole, and as good as their cards say."""

import json
import re
from pathlib import Path

import ase.io
import pytest
import torch
from ase.build import bulk, molecule

import pyg_schnet
from pyg_schnet import DTNN, SchNet, pretrained
from pyg_schnet.cli import main
from pyg_schnet.data import to_data
from pyg_schnet.interfaces import SchNetCalculator
from pyg_schnet.models import read_header

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
MODELS = {  # name -> result of the run, folder of the data
    "qm9-u0": ("qm9_u0_3h-0", None),
    "qm9-mu": ("qm9_mu-0", None),
    "rmd17-aspirin": ("rmd17_aspirin-0", "rmd17_aspirin"),
    "rmd17-aspirin-no-cutoff": ("rmd17_aspirin_no_cutoff-0", "rmd17_aspirin"),
    "mp-formation-energy": ("mp_formation_energy-0", "mp_formation_energy"),
    "perovskites": ("perovskites-merged", "perovskites_castelli"),
    "phonons": ("phonons-0", "phonon_peak"),
}
CRYSTALS = ("mp-formation-energy", "perovskites", "phonons")


def test_all_models_are_there():
    assert pretrained.available() == sorted(MODELS)
    for name in MODELS:
        assert pretrained.find(name).stat().st_size < 3e6


@pytest.mark.parametrize("name", MODELS)
def test_card_says_what_the_model_is(name):
    header = read_header(name)
    card = header["card"]
    assert {"target", "unit", "data", "source", "licence", "run", "split", "training", "test"} <= set(card)
    assert header["units"] == {"length": "Å", "output": card["unit"]}
    assert '"/' not in json.dumps(header)  # no absolute path of the machine it was trained on
    stored = ROOT / "benchmarks" / "paper" / "results" / f"{MODELS[name][0]}.json"
    result = json.loads(stored.read_text(encoding="utf-8"))
    assert result["errors"] == card["test"]
    assert result["training"] == card["training"]


@pytest.mark.parametrize("name", MODELS)
def test_all_ways_to_load_give_the_same(name):
    atoms = bulk("NaCl", "rocksalt", a=5.64) if name in CRYSTALS else molecule("CH3COOH")
    data = to_data(atoms)
    periodic = {"cell": data.cell, "pbc": data.pbc} if name in CRYSTALS else {}
    models = [pyg_schnet.load(name), SchNet.from_pretrained(name), SchNet.load(pretrained.find(name))]
    values = [model(data.z, data.pos, **periodic) for model in models]
    assert not any(model.training for model in models)
    assert torch.isfinite(values[0]).all()
    assert all(torch.equal(value, values[0]) for value in values)


def test_unknown_names_are_answered_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match=r"no pretrained model 'qm9-u1'; there are .*qm9-u0"):
        SchNet.from_pretrained("qm9-u1")
    with pytest.raises(FileNotFoundError, match=r"no model file at qm9-u1, and no pretrained model .* qm9-u0"):
        pyg_schnet.load("qm9-u1")
    with pytest.raises(ValueError, match="holds a SchNet, expected a DTNN"):
        DTNN.from_pretrained("qm9-u0")


def test_a_file_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    SchNet(8, 8, 1).save("qm9-u0")
    assert pyg_schnet.load("qm9-u0").hidden_channels == 8
    assert SchNet.from_pretrained("qm9-u0").hidden_channels == 128


def test_predict_takes_a_name(tmp_path, capsys):
    """Energy of water, which is not in the training set: B3LYP/6-31G(2df,p) gives -76.404702 Hartree in QM9."""
    ase.io.write(tmp_path / "water.xyz", molecule("H2O"))
    main(["predict", "--model=qm9-u0", str(tmp_path / "water.xyz")])
    energy = float(capsys.readouterr().out.split()[-1])
    assert energy == pytest.approx(-76.404702 * 27.211386, abs=0.3)


def test_calculator_takes_a_name():
    atoms = molecule("CH3COOH")
    atoms.calc = SchNetCalculator("rmd17-aspirin")
    forces, step = atoms.get_forces(), 1e-4
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[2, 1] += sign * step
        moved.calc = SchNetCalculator("rmd17-aspirin")
        energies.append(moved.get_potential_energy())
    assert forces[2, 1] == pytest.approx((energies[1] - energies[0]) / (2 * step), abs=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_errors_are_those_of_the_card(name, capsys):
    """The whole test set again, in one command."""
    folder = MODELS[name][1]
    if folder is not None and not SHARED.exists():
        pytest.skip("needs published data files in ../shared/data")
    main(["test", name, *([f"--data_dir={SHARED / folder}"] if folder else [])])
    printed = re.findall(r"^ +(\w+) +MAE +([\d.]+) (\S+)", capsys.readouterr().out, re.MULTILINE)
    card = read_header(name)["card"]["test"]
    assert {row[0] for row in printed} == set(card)
    for quantity, value, unit in printed:
        assert float(value) == pytest.approx(card[quantity]["mae"][unit], rel=5e-3)
