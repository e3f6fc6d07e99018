import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from pyg_schnet import SchNet
from pyg_schnet.analysis import atom_contributions, normal_modes
from pyg_schnet.data import AtomsDataset, MaterialsDataset
from pyg_schnet.data.charge import charge_and_spin, may_be_charge
from pyg_schnet.interfaces import SchNetCalculator

CHARGED = [
    {"charge": 1},
    {"charge": -1.0, "spin": 1},
    {"total_charge": 2},
    {"Charge": "1"},
    {"spin": 1},
    {"spin": 0.5},
    {"charge": 0, "spin": 3},
    {"multiplicity": 3},
    {"spin_multiplicity": 2},
    {"key_value_pairs": {"charge": 1}},
    {"data": {"total_charge": -1}},
    {"charge": np.array([1])},
]
NEUTRAL = [
    {},
    {"key_value_pairs": None, "data": [1, 2]},
    {"charge": np.array([0, 0, 1])},
    {"charge": 0},
    {"charge": 0, "spin": 1},
    {"charge": 0, "spin": 0, "multiplicity": 1},
    {"charge": "unknown", "name": "water"},
    {"energy": -3.0},
]


@pytest.mark.parametrize("info", CHARGED)
def test_charges_and_spins_are_found(info):
    assert charge_and_spin(Atoms("OH", info=info)) is not None


@pytest.mark.parametrize("info", NEUTRAL)
def test_neutral_structures_are_nothing_to_speak_of(info):
    assert charge_and_spin(Atoms("OH", info=info)) is None


def test_atoms_may_carry_them_too():
    assert charge_and_spin(Atoms("OH", charges=[0, -1])) == "initial charges"
    assert charge_and_spin(Atoms("O2", magmoms=[1, 1])) == "initial magnetic moments"
    assert charge_and_spin(Atoms("O2", magmoms=[0, 0], charges=[0, 0])) is None


def charged_water():
    atoms = molecule("H2O")
    atoms.info["charge"] = 1
    return atoms


def test_calculators_say_it_once():
    atoms = charged_water()
    atoms.calc = SchNetCalculator(SchNet(8, 8, 1, 8, 4.0), unit="eV")
    with pytest.warns(UserWarning, match="the structure has charge=1, but models know neither charge nor spin"):
        atoms.get_potential_energy()
    atoms.rattle(0.1)
    atoms.get_forces()  # warnings are errors here


@pytest.mark.parametrize("analyse", [normal_modes, atom_contributions])
def test_analyses_say_it(analyse):
    with pytest.warns(UserWarning, match="charge=1, but models know neither"):
        analyse(SchNet(8, 8, 1, 8, 4.0), charged_water(), unit="eV")


def test_readers_say_it_once_and_of_which_structure():
    with pytest.warns(UserWarning, match="structure 1 has charge=1, but models know neither") as caught:
        AtomsDataset([molecule("H2O"), charged_water(), charged_water()])
    assert len(caught) == 1
    assert AtomsDataset([charged_water()], properties={"charge": "1"})[0].charge == 1  # a label is not meant


@pytest.mark.parametrize("inside", [True, False])
def test_records_of_crystals_are_looked_at_too(inside, tmp_path):
    lattice = {"matrix": [[3.0, 0, 0], [0, 3.0, 0], [0, 0, 3.0]]}
    structure = {"lattice": lattice, "sites": [{"species": [{"element": "Po", "occu": 1}], "abc": [0, 0, 0]}]}
    charge = {"charge": 1.0}
    record = {
        "structure": {**structure, **(charge if inside else {"charge": 0})},
        "e": 1.0,
        **({} if inside else charge),
    }
    (tmp_path / "records.json").write_text(json.dumps([record, record]))
    with pytest.warns(UserWarning, match=r"records.json.* has charge=1\.0, but models know neither") as caught:
        MaterialsDataset(tmp_path / "records.json", {"e": "eV"})
    assert len(caught) == 1


@pytest.mark.parametrize("key", ["charge", "Spin", "MULT", "data", "key_value_pairs"])
def test_keys_that_may_be_a_charge_are_known(key):
    assert may_be_charge(["energy", key])
    assert not may_be_charge(["energy", 7])
