"""Cards of models that were trained before cards knew of their data: facts are added, weights stay."""

import importlib.util
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from pyg_schnet import SchNet
from pyg_schnet.data import AtomsDataset
from pyg_schnet.models.checkpoint import read_header
from pyg_schnet.models.domain import Domain
from pyg_schnet.train import StructureDataModule

FILE = Path(__file__).parents[2] / "benchmarks" / "paper" / "cards.py"


@pytest.fixture
def cards():
    spec = importlib.util.spec_from_file_location("cards", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_frames(path, name="H2O"):
    frames = []
    for seed in range(8):
        atoms = molecule(name)
        atoms.rattle(0.02, seed=seed)
        atoms.calc = SinglePointCalculator(atoms, energy=float(seed), forces=np.ones((len(atoms), 3)))
        frames.append(atoms)
    path.parent.mkdir(parents=True)
    ase.io.write(path, frames)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of jsonargparse
def test_facts_are_added_and_weights_stay(cards, tmp_path, monkeypatch, capsys):
    write_frames(tmp_path / "data" / "methanol" / "frames.xyz", "CH3OH")  # of the same name, found first
    write_frames(tmp_path / "data" / "water" / "frames.xyz")
    data = StructureDataModule(
        AtomsDataset(tmp_path / "data" / "water" / "frames.xyz"), "energy", num_train=5, num_val=3, num_test=0
    )
    model = SchNet(8, 8, 1, 8, 4.0)
    dataset = {"class_path": "pyg_schnet.data.AtomsDataset", "init_args": {"source": "frames.xyz"}}
    run = {
        "model": {"class_path": "pyg_schnet.train.PotentialTask"},
        "data": {"dataset": dataset, "test_dataset": dataset, "target": "energy", "num_train": 5, "num_val": 3},
    }
    card = {"run": run, "split": {"fingerprint": data.split.fingerprint}, "test": {"energy": {}, "forces": {}}}
    path = model.save(tmp_path / "model.safetensors", target="energy", unit="eV", note="kept", **card)
    before, old = path.read_bytes(), read_header(path)["card"]
    monkeypatch.setattr(sys, "argv", ["cards.py", str(path), "--data_dir", str(tmp_path / "data")])
    cards.main()
    assert "5 molecules; gradients: forces" in capsys.readouterr().out
    after, new = path.read_bytes(), read_header(path)["card"]
    assert {name: new[name] for name in old} == old
    domain = Domain.of(new)
    assert domain.systems["molecule"].compositions == ("H2O",)
    n_weights = 4 * sum(value.numel() for value in model.state_dict().values())
    assert after[-n_weights:] == before[-n_weights:]
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in SchNet.load(path).state_dict().items())
    monkeypatch.setattr(sys, "argv", ["cards.py", str(path), "--data_dir", str(tmp_path / "data" / "methanol")])
    with pytest.raises(FileNotFoundError, match="hold no data with fingerprint"):
        cards.main()
