"""The models that come with the package: found by name, whole, and as good as their cards say."""

import json
import re
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.units import kcal, mol

import pyg_schnet
from pyg_schnet import DTNN, SchNet, pretrained
from pyg_schnet.cli import main
from pyg_schnet.data import to_data
from pyg_schnet.data.check import StructureCheck
from pyg_schnet.data.reference import Method, ThermalModel
from pyg_schnet.interfaces import SchNetCalculator
from pyg_schnet.models import SchNetCommittee, as_one
from pyg_schnet.models.checkpoint import read_header
from pyg_schnet.models.domain import Domain

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
MODELS = {  # name -> result of the run, folder of the data
    "qm9-u0": ("qm9_u0_3h-0", None),
    "qm9-u0-committee": ("qm9_u0_muon-merged", None),
    "qm9-twelve": ("qm9_twelve-0", None),
    "qm9-mu": ("qm9_mu-0", None),
    "rmd17-aspirin": ("rmd17_aspirin-0", "rmd17_aspirin"),
    "rmd17-aspirin-no-cutoff": ("rmd17_aspirin_no_cutoff-0", "rmd17_aspirin"),
    "mp-formation-energy": ("mp_formation_energy_muon-0", "mp_formation_energy"),
    "perovskites": ("perovskites-merged", "perovskites_castelli"),
    "phonons": ("phonons-0", "phonon_peak"),
    "organic-gfn2": ("organic_gfn2-merged", None),
    "mlearn-mo": ("mlearn_mo-0", "mlearn"),
    "mlearn-li": ("mlearn_li-0", "mlearn"),
}
COMMITTEES = ("qm9-u0-committee", "organic-gfn2")
CRYSTALS = ("mp-formation-energy", "perovskites", "phonons", "mlearn-mo", "mlearn-li")
LABELLED_HERE = ("organic-gfn2",)
"""Those whose data no file has; ``pyg-schnet reference-data`` makes them."""


def test_all_models_are_there():
    assert pretrained.available() == sorted(MODELS)
    for name in MODELS:
        assert pretrained.find(name).stat().st_size < 3e6


@pytest.mark.parametrize("name", MODELS)
def test_card_says_what_the_model_is(name):
    header = read_header(name)
    card = header["card"]
    assert {"data", "source", "licence", "run", "split", "training", "test"} <= set(card)
    if name == "qm9-twelve":
        assert set(card["targets"]) == set(card["test"])
        assert all(unit["unit"] for unit in card["targets"].values())
    else:
        assert header["units"] == {"length": "Å", "output": card["unit"]}
        assert card["target"]
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
    cls = SchNetCommittee if name in COMMITTEES else SchNet
    models = [pyg_schnet.load(name), cls.from_pretrained(name), cls.load(pretrained.find(name))]
    models = [as_one(model) for model in models]
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
    atoms = ase.io.read(ROOT / "examples" / "aspirin.xyz")
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
def test_card_says_what_the_model_was_trained_on(name):
    card = read_header(name)["card"]
    domain = Domain.of(card)
    kind = "crystal" if name in CRYSTALS else "molecule"
    assert list(domain.systems) == [kind]
    assert domain.systems[kind].structures == card["split"]["num_train"]
    assert domain.elements == card["elements"]
    learned = {"rmd17": "forces", "organic": "forces", "mlearn": "forces", "perovskites": "relaxed"}
    assert domain.gradients == learned.get(name.split("-")[0], "none")
    assert len(json.dumps(card["trained_on"])) < 10_000


def test_facts_of_known_data():
    """QM9 has at most nine heavy atoms and 29 atoms in all, MD17 one molecule, and Castelli's perovskites are ABX3."""
    qm9, aspirin, perovskites = (
        Domain.of(read_header(name)["card"]) for name in ("qm9-u0", "rmd17-aspirin", "perovskites")
    )
    assert qm9.systems["molecule"].atoms == (3, 29)
    assert qm9.systems["molecule"].elements["C"][1] == 9
    assert aspirin.systems["molecule"].compositions == ("C9H8O4",)
    assert 0.85 < aspirin.shortest[1, 8] < 0.97  # bonds of OH at 500 K
    assert perovskites.systems["crystal"].atoms == (5, 5)
    assert perovskites.systems["crystal"].elements["O"] == (0, 0.6)


@pytest.mark.parametrize(
    ("name", "atoms", "message"),
    [
        ("rmd17-aspirin", molecule("CH3CH2OH"), "the composition C2H6O, but the model was trained on C9H8O4"),
        ("mp-formation-energy", molecule("CH3CH2OH"), "open boundaries, but the model was trained on crystals"),
        (
            "qm9-u0",
            bulk("C", cubic=True),
            r"periodic boundaries, pbc=\[True, .* but the model was trained on molecules",
        ),
        ("qm9-u0", molecule("OH"), "2 atoms, but the model was trained on molecules of 3 to 29 atoms"),
    ],
)
def test_other_structures_are_warned_about(name, atoms, message):
    atoms.set_initial_magnetic_moments(None)
    atoms.calc = SchNetCalculator(name)
    with pytest.warns(UserWarning, match=message):
        atoms.get_potential_energy()
    atoms.rattle(0.01)
    atoms.get_potential_energy()  # said once: warnings are errors here


def test_a_metal_is_no_perovskite():
    check = StructureCheck([read_header("perovskites")["card"]])
    with pytest.warns(UserWarning, match="the composition Fe, but the model was trained on 0 to 40 % of Fe"):
        check.structure([26], [True] * 3)
    with pytest.raises(ValueError, match="not trained on forces but on relaxed structures, and knows only that"):
        check.derivatives()


@pytest.mark.parametrize("name", ["qm9-u0", "mp-formation-energy"])
def test_forces_are_refused_unless_they_were_learned(name):
    atoms = bulk("NaF", "rocksalt", a=4.6, cubic=True) if name in CRYSTALS else molecule("CH3CH2OH")
    atoms.calc = SchNetCalculator(name)
    energy = atoms.get_potential_energy()
    for calculate in (atoms.get_forces, atoms.get_stress) if name in CRYSTALS else (atoms.get_forces,):
        with pytest.raises(
            ValueError, match=r"refused: the model was not trained on forces .* energies alone.*untrained_forces"
        ):
            calculate()
    atoms.calc = SchNetCalculator(name, untrained_forces=True)
    assert atoms.get_forces().shape == (len(atoms), 3)
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-9)


@pytest.fixture
def dopamine():
    """A molecule with more heavy atoms than any of QM9, and its energy by GFN2-xTB in eV."""
    return ase.io.read(ROOT / "examples" / "dopamine.xyz"), -918.92001


def test_an_unseen_molecule_is_near_gfn2(dopamine):
    atoms, energy = dopamine
    atoms.calc = SchNetCalculator("organic-gfn2")
    error = abs(atoms.get_potential_energy() - energy)
    assert error < 2 * atoms.calc.results["energy_std"]
    assert error < 4 * kcal / mol


def test_forces_of_a_warm_unseen_molecule_are_near_those_of_gfn2(dopamine):
    """At 300 K, where the mean size of a component by GFN2-xTB is 0.64 eV/Å in these frames."""
    pytest.importorskip("tblite")
    atoms, _ = dopamine
    method = Method().of(atoms.numbers)
    frames = ThermalModel(atoms.numbers, atoms.positions).displaced([300.0] * 20, np.random.default_rng(0))
    atoms.calc, errors = SchNetCalculator("organic-gfn2"), []
    for positions in frames:
        atoms.positions = positions
        errors.append(atoms.get_forces() - method(positions)[1])
    assert np.abs(errors).mean() < 2 * kcal / mol


def test_the_spread_says_where_forces_are_not_known(dopamine):
    """Half a bond length is far from all that was learned."""
    atoms, _ = dopamine
    atoms.calc = SchNetCalculator("organic-gfn2")
    known = np.linalg.norm(atoms.calc.get_property("forces_std", atoms), axis=1).max()
    atoms.set_distance(6, 7, 0.5 * atoms.get_distance(6, 7))
    with pytest.warns(UserWarning, match="closer|disagree"):
        unknown = np.linalg.norm(atoms.calc.get_property("forces_std", atoms), axis=1).max()
    assert unknown > 5 * known


def test_metals_have_their_lattice_constants():
    """Those of the cells of lowest energy in the training data (PBE): 3.168 and 3.438 Å."""
    for name, element, length in (("mlearn-mo", "Mo", 3.168), ("mlearn-li", "Li", 3.438)):
        crystal = bulk(element, "bcc", a=length, cubic=True)
        crystal.calc = SchNetCalculator(name)
        BFGS(FrechetCellFilter(crystal), logfile=None).run(fmax=1e-3, steps=50)
        assert crystal.cell.lengths() == pytest.approx([length] * 3, abs=0.01)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in LABELLED_HERE])
def test_errors_are_those_of_the_card(name, capsys):
    """The whole test set again, in one command."""
    folder = MODELS[name][1]
    if folder is not None and not SHARED.exists():
        pytest.skip("needs published data files in ../shared/data")
    main(["test", name, *([f"--data_dir={SHARED / folder}"] if folder else [])])
    printed = re.findall(r"^ +(\w+) +MAE +([\d.]+) (\S+(?: K\))?)", capsys.readouterr().out, re.MULTILINE)
    card = read_header(name)["card"]["test"]
    assert {row[0] for row in printed} == set(card)
    for quantity, value, unit in printed:
        assert float(value) == pytest.approx(card[quantity]["mae"][unit], rel=5e-3)
