"""``pyg-schnet predict``: what is in the file comes back, with the prediction added."""

import csv

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.db import connect

from pyg_schnet import SchNet
from pyg_schnet.cli.predict import predict_file
from pyg_schnet.data.extxyz import writable
from pyg_schnet.nn import DipoleReadout, ElectronicSpatialExtentReadout


@pytest.fixture
def energies(tmp_path):
    torch.manual_seed(0)
    SchNet(8, 8, 1, 8, 5.0).save(tmp_path / "model.safetensors", target="energy", unit="eV")
    return tmp_path


def save(folder, readout, unit):
    torch.manual_seed(0)
    model = SchNet(8, 8, 1, 8, 5.0, readout=readout)
    model.save(folder / "model.safetensors", target="mu", unit=unit)
    return model


def predict(folder, source="in.xyz", output="out.xyz", **options):
    predict_file(str(folder / source), model=str(folder / "model.safetensors"), output=str(folder / output), **options)


def rich():
    atoms = molecule("H2O", vacuum=3.0, pbc=(True, True, False))
    atoms.info.update(
        config_type="liquid", name="w 17", temperature=300.5, weights=np.array([1.0, 2.0]), charge_note=""
    )
    atoms.set_masses([16.0, 2.0, 2.0])
    atoms.set_array("residue", np.array([1, 1, 2]))
    atoms.set_array("words", np.array(["a b", "", "c"]))
    atoms.set_array("tensor", np.arange(27.0).reshape(3, 3, 3))
    atoms.set_constraint(FixAtoms([1]))
    atoms.calc = SinglePointCalculator(atoms, energy=-14.0, forces=np.arange(9.0).reshape(3, 3), stress=np.arange(6.0))
    return atoms


def test_all_that_a_structure_has_comes_back(energies, capsys, monkeypatch):
    images = [("", rich()), ("", molecule("CH4"))]  # more than any one format holds
    monkeypatch.setattr("pyg_schnet.cli._prediction.read_all", lambda *_: images)
    (energies / "in.xyz").touch()
    predict(energies)
    assert "2 values of energy in eV" in capsys.readouterr().out
    found, methane = ase.io.read(energies / "out.xyz", ":")
    expected = rich()
    assert found.numbers.tolist() == expected.numbers.tolist()
    np.testing.assert_allclose(found.positions, expected.positions, atol=1e-7)
    np.testing.assert_allclose(found.cell, expected.cell)
    assert found.pbc.tolist() == [True, True, False]
    assert (found.info["config_type"], found.info["name"], found.info["temperature"]) == ("liquid", "w 17", 300.5)
    assert found.info["charge_note"] == ""
    assert found.info["weights"].tolist() == [1.0, 2.0]
    assert found.arrays["masses"].tolist() == [16.0, 2.0, 2.0]
    assert found.arrays["residue"].tolist() == [1, 1, 2]
    assert found.arrays["words"].tolist() == ["a_b", "_", "c"]
    assert found.arrays["tensor"].tolist() == np.arange(27.0).reshape(3, 9).tolist()
    assert found.constraints[0].index.tolist() == [1]
    assert found.calc.results["energy"] == -14.0  # the label of the file, not the prediction
    assert found.calc.results["forces"].tolist() == np.arange(9.0).reshape(3, 3).tolist()
    assert found.calc.results["stress"].tolist() == list(range(6))
    model = SchNet.load(energies / "model.safetensors")
    pos = torch.tensor(methane.positions, dtype=torch.float32)
    assert methane.info["predicted_energy"] == pytest.approx(model(torch.tensor(methane.numbers), pos).item(), abs=1e-5)
    assert methane.info["predicted_energy_unit"] == "eV"
    assert methane.calc is None


def test_results_of_structures_are_numbers():
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=np.array(-14.0))
    info = writable(atoms).info
    assert type(info["energy"]) is float
    assert info["energy"] == -14.0


@pytest.mark.parametrize(
    "text",
    ["", "a=b", 'a "b"', "it's", "12", "T F", "a b=c d", "C:\\new\\table", "é", "_JSON", "[1, 2]", "1 2 3 4 5 6 7 8 9"],
)
def test_texts_come_back_as_they_were(tmp_path, text):
    atoms = Atoms("H", info={"note": text, "after": 1})
    ase.io.write(tmp_path / "a.xyz", writable(atoms), format="extxyz", write_results=False)
    assert ase.io.read(tmp_path / "a.xyz").info == {"note": text, "after": 1}


def test_line_ends_become_spaces(tmp_path):
    atoms = Atoms("H", info={"note": "two\nlines", "after": 1})
    ase.io.write(tmp_path / "a.xyz", writable(atoms), format="extxyz", write_results=False)
    assert ase.io.read(tmp_path / "a.xyz").info == {"note": "two lines", "after": 1}


def test_earlier_predictions_stay(energies):
    atoms = molecule("H2O")
    atoms.info["predicted_energy"] = 1.5
    ase.io.write(energies / "in.xyz", atoms)
    predict(energies)
    predict(energies, "out.xyz", "again.xyz")
    found = ase.io.read(energies / "again.xyz").info
    assert found["predicted_energy"] == 1.5
    assert found["predicted_energy_2"] == pytest.approx(found["predicted_energy_3"], abs=1e-5)
    assert found["predicted_energy_3_unit"] == "eV"


def test_rows_of_data_bases_keep_their_entries(energies):
    with connect(energies / "in.db") as rows:
        rows.write(molecule("H2O"), gap=0.5, group="a", data={"vector": [1.0, 2.0]})
    predict(energies, "in.db")
    info = ase.io.read(energies / "out.xyz").info
    assert (info["gap"], info["group"], info["vector"].tolist()) == (0.5, "a", [1.0, 2.0])


def test_tables_have_what_is_a_number_or_a_word(energies):
    ase.io.write(energies / "in.traj", [molecule("CH4"), rich()])
    predict(energies, "in.traj", "out.csv")
    with (energies / "out.csv").open() as file:
        methane, water = csv.DictReader(file)
    assert list(water)[:3] == ["structure", "formula", "energy [eV]"]
    assert (water["structure"], water["formula"], water["name"], water["temperature"]) == ("1", "H2O", "w 17", "300.5")
    assert methane["name"] == ""


def test_labels_of_the_file_are_not_needed(energies):
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=float("nan"))
    ase.io.write(energies / "in.xyz", atoms)
    predict(energies)
    assert np.isfinite(ase.io.read(energies / "out.xyz").info["predicted_energy"])


def test_other_endings_are_refused(energies):
    ase.io.write(energies / "in.xyz", molecule("H2O"))
    with pytest.raises(
        ValueError, match=r"output must end in \.csv, \.xyz, \.extxyz, got .*out\.cif; or state --format"
    ):
        predict(energies, output="out.cif")
    predict(energies, output="out.dat", format="csv")
    assert (energies / "out.dat").read_text().startswith("structure,formula,energy [eV]")


def test_structures_far_out_are_as_near_zero(energies):
    near, far = molecule("CH3CH2OH"), molecule("CH3CH2OH")
    far.positions += [1e6, -1e5, 1e5]
    ase.io.write(energies / "in.traj", [near, far])
    predict(energies, "in.traj")
    near, far = ase.io.read(energies / "out.xyz", ":")
    assert near.info["predicted_energy"] == pytest.approx(far.info["predicted_energy"], abs=1e-5)
    np.testing.assert_allclose(far.positions - near.positions, [[1e6, -1e5, 1e5]] * 9, atol=1e-7)


@pytest.mark.parametrize(
    ("readout", "unit"), [(DipoleReadout(8, magnitude=True), "D"), (ElectronicSpatialExtentReadout(8), "a₀²")]
)
def test_dipoles_of_periodic_structures_are_refused(tmp_path, readout, unit):
    save(tmp_path, readout, unit)
    whole = molecule("CH3OH", vacuum=4.0)
    broken = whole.copy()
    broken.pbc = True
    broken.positions[:, 0] += broken.cell[0, 0] / 2
    broken.wrap()
    ase.io.write(tmp_path / "in.xyz", [whole, broken])
    with pytest.raises(
        ValueError, match=r"of a periodic structure is not defined.*structure 1 has pbc=\[True, True, True\]"
    ):
        predict(tmp_path)
    assert not (tmp_path / "out.xyz").exists()
    ase.io.write(tmp_path / "in.xyz", [whole])
    predict(tmp_path)
    assert ase.io.read(tmp_path / "out.xyz").info["predicted_mu_unit"] == unit


def test_vectors_are_written(tmp_path, capsys):
    model = save(tmp_path, DipoleReadout(8, magnitude=False), "e·Å").eval()
    ase.io.write(tmp_path / "in.xyz", molecule("H2O"))
    predict(tmp_path)
    found = ase.io.read(tmp_path / "out.xyz")
    expected = model(torch.tensor(found.numbers), torch.tensor(found.positions, dtype=torch.float32))[0]
    np.testing.assert_allclose(found.info["predicted_mu"], expected.detach(), atol=1e-5)
    predict(tmp_path, output="out.csv")
    assert (tmp_path / "out.csv").read_text().startswith("structure,formula,mu_0 [e·Å],mu_1 [e·Å],mu_2 [e·Å]\n")


def test_a_dipole_about_the_origin_is_refused_far_from_it(tmp_path):
    save(tmp_path, DipoleReadout(8, origin="zero", neutralize=False), "e·Å")
    far = molecule("H2O")
    far.positions += 1e5
    ase.io.write(tmp_path / "in.xyz", far)
    with pytest.raises(ValueError, match=r"about the origin of the coordinates.*structure 0 is 1\.73e\+05 Å from it"):
        predict(tmp_path)
