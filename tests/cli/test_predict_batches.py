"""Predictions of a file, one by one and in batches."""

import csv

import ase.io
import pytest
import torch
from ase.build import molecule

from pyg_schnet import SchNet
from pyg_schnet.cli.predict import predict_file

NAMES = ["H2O", "CH4", "C2H6", "NH3", "CH3CH2OH", "H2", "CO2"]


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    model = SchNet(16, 16, 2, 12, 4.0)
    model.readout.set_references(-torch.arange(0.0, 100.0))
    model.save(tmp_path / "model.safetensors", target="E", unit="eV", elements=["H", "C", "N", "O"])
    return model.double().eval()


@pytest.mark.parametrize("batch_size", [1, 2, 3, 250])
def test_values_are_in_the_order_of_the_file(model, tmp_path, batch_size, capsys):
    structures = [molecule(name) for name in NAMES]
    ase.io.write(tmp_path / "in.xyz", structures, format="extxyz")
    with torch.no_grad():
        expected = [model(torch.tensor(a.numbers), torch.tensor(a.positions)).item() for a in structures]
    options = {"model": str(tmp_path / "model.safetensors"), "batch_size": batch_size}
    predict_file(str(tmp_path / "in.xyz"), output=str(tmp_path / "out.csv"), **options)
    predict_file(str(tmp_path / "in.xyz"), output=str(tmp_path / "out.xyz"), **options)
    with (tmp_path / "out.csv").open(encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    assert [float(row[2]) for row in rows] == pytest.approx(expected, abs=1e-4)
    assert [row[:2] for row in rows] == [[str(k), a.get_chemical_formula()] for k, a in enumerate(structures)]
    written = ase.io.read(tmp_path / "out.xyz", ":")
    assert [a.info["predicted_E"] for a in written] == pytest.approx(expected, abs=1e-4)
    assert [a.numbers.tolist() for a in written] == [a.numbers.tolist() for a in structures]
    capsys.readouterr()
    predict_file(str(tmp_path / "in.xyz"), **options)
    printed = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()[:1].isdigit()]
    assert [float(row[2]) for row in printed if len(row) == 3] == pytest.approx(expected, abs=1e-4)
