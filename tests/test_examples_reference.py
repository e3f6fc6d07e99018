"""The example that makes reference data keeps its promises; calculators of ASE stand in for quantum chemistry."""

import importlib
import re
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import CalculationFailed, Calculator, all_changes
from ase.calculators.emt import EMT
from ase.units import Hartree

from pyg_schnet.data import AtomsDataset

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def reference(monkeypatch):
    """The example as a module, which other processes can import too."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("06_reference_data")


class Springs(Calculator):
    """A spring between each two atoms, E = k/2 sum (d - d0)², by default as long as at the start."""

    implemented_properties = ("energy", "forces")

    def __init__(self, start, k=20.0):
        super().__init__()
        self.rest, self.k = start.get_all_distances(), k

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        vectors = self.atoms.positions[None] - self.atoms.positions[:, None]
        distances = np.linalg.norm(vectors, axis=2)
        stretch = distances - self.rest
        pull = self.k * stretch / np.where(distances > 0, distances, 1.0)
        self.results = {
            "energy": float(self.k * (stretch**2).sum() / 4),
            "forces": (pull[:, :, None] * vectors).sum(1),
        }


class Failing(Springs):
    """Does not converge when atoms are further from the start than ever."""

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if self.results["energy"] > 0.3:
            raise CalculationFailed("SCF not converged in 250 cycles")


class Broken(Springs):
    """Returns no number."""

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results["energy"] = float("nan")


@pytest.fixture
def start():
    atoms = molecule("H2O")
    atoms.info = {"method": "springs"}
    return atoms


@pytest.fixture
def walk(reference):
    return reference.Walk(temperatures=(200.0, 300.0, 400.0), every=3, equilibration=5, seed=4)


def springs(start, k=20.0):
    return lambda: Springs(start, k)


def energies_and_walkers(path):
    frames = ase.io.read(path, ":")
    return [atoms.get_potential_energy() for atoms in frames], [atoms.info["walker"] for atoms in frames]


def test_labels_are_the_calculators_to_the_last_digit(reference, start, walk, tmp_path):
    path = tmp_path / "new" / "frames.extxyz"
    yielded = list(reference.generate(path, 7, start, walk, springs(start)))
    frames = ase.io.read(path, ":")
    assert len(frames) == len(yielded) == 7
    for number, (atoms, same) in enumerate(zip(frames, yielded, strict=True)):
        again = Atoms(start.numbers, atoms.positions, calculator=Springs(start))
        assert atoms.get_potential_energy() == same.get_potential_energy() == again.get_potential_energy()
        np.testing.assert_array_equal(atoms.get_forces(), again.get_forces())
        np.testing.assert_array_equal(atoms.get_momenta(), same.get_momenta())
        assert atoms.info["method"] == "springs"
        assert (atoms.info["walker"], atoms.info["frame"]) == (number % 3, number // 3 + 1)
        assert atoms.info["temperature"] == walk.temperatures[number % 3]
        assert atoms.info["time"] == pytest.approx(3 * 0.5 * atoms.info["frame"])


def test_data_set_reads_energies_and_forces(reference, start, walk, tmp_path):
    path = tmp_path / "frames.extxyz"
    frames = list(reference.generate(path, 5, start, walk, springs(start)))
    dataset = AtomsDataset(path, dtype=torch.float64)
    assert len(dataset) == 5
    assert {name: dataset.properties[name].unit for name in dataset.properties} == {"energy": "eV", "forces": "eV/Å"}
    for data, atoms in zip(dataset, frames, strict=True):
        assert data.energy.item() == atoms.get_potential_energy()
        np.testing.assert_array_equal(data.forces.numpy(), atoms.get_forces())
        assert not data.pbc.any()


def test_each_walker_has_its_temperature(reference, tmp_path):
    ethanol = molecule("CH3CH2OH")
    walk = reference.Walk(temperatures=(200.0, 500.0), every=15, equilibration=300, friction=0.1, timestep=1.0, seed=1)
    frames = list(reference.generate(tmp_path / "frames.extxyz", 500, ethanol, walk, springs(ethanol, k=5.0)))
    for walker, wanted in enumerate(walk.temperatures):
        kinetic = np.array([atoms.get_temperature() for atoms in frames if atoms.info["walker"] == walker])
        # variance 2 T² / 3N of the canonical ensemble; 250 frames, which are nearly independent at this friction
        error = wanted * np.sqrt(2 / 27 / len(kinetic))
        assert kinetic.mean() == pytest.approx(wanted, abs=3 * error)
        assert kinetic.std() == pytest.approx(wanted * np.sqrt(2 / 27), rel=0.15)
        # springs that are not quite harmonic: half a kT for each of the 3 N - 6 vibrations, within some per cent
        potential = np.mean([atoms.get_potential_energy() for atoms in frames if atoms.info["walker"] == walker])
        assert potential == pytest.approx(21 / 2 * 8.617e-5 * wanted, rel=0.1)


def test_molecule_stays_where_it_is(reference, start, walk, tmp_path):
    frames = list(reference.generate(tmp_path / "frames.extxyz", 60, start, walk, springs(start)))
    assert max(np.linalg.norm(atoms.get_center_of_mass()) for atoms in frames) < 0.1


@pytest.mark.parametrize(
    "keep", ["nothing", "first line", "middle of a number", "all but the last byte", "whole frames"]
)
def test_interrupted_run_goes_on_to_the_same_file(reference, start, walk, tmp_path, keep):
    whole, path = tmp_path / "whole.extxyz", tmp_path / "cut.extxyz"
    list(reference.generate(whole, 11, start, walk, springs(start)))
    text = whole.read_bytes()
    begins = [begin for begin, _, _ in reference.scan(whole, 3)]
    size, complete = {
        "nothing": (0, 0),
        "first line": (begins[5] + 1, 5),
        "middle of a number": (begins[2] - 30, 1),  # fewer frames than walkers
        "all but the last byte": (len(text) - 1, 10),
        "whole frames": (begins[7], 7),
    }[keep]
    path.write_bytes(text[:size])
    found, _, cut = reference.repair(path, 3)
    assert found == complete
    assert path.stat().st_size == size - cut == (0 if complete == 0 else begins[complete])
    new = list(reference.generate(path, 11, start, walk, springs(start)))
    assert len(new) == 11 - complete
    assert path.read_bytes() == text


def test_longer_run_goes_on_and_repeats_no_frame(reference, start, walk, tmp_path):
    path = tmp_path / "frames.extxyz"
    for frames in (2, 8, 8, 13):  # fewer than walkers, more, none, and a number that walkers do not divide
        list(reference.generate(path, frames, start, walk, springs(start)))
        energies, walkers = energies_and_walkers(path)
        assert len(set(energies)) == len(energies) == frames
        assert walkers == [number % 3 for number in range(frames)]


def test_processes_do_not_change_the_frames(reference, tmp_path):
    ethanol = molecule("CH3CH2OH")
    walk = reference.Walk(temperatures=(200.0, 250.0, 300.0), every=2, equilibration=2)
    list(reference.generate(tmp_path / "one.extxyz", 7, ethanol, walk, EMT))
    list(reference.generate(tmp_path / "two.extxyz", 7, ethanol, walk, EMT, processes=2))
    assert (tmp_path / "one.extxyz").read_bytes() == (tmp_path / "two.extxyz").read_bytes()


def test_frames_with_other_bonds_are_counted_and_kept(reference, start, tmp_path):
    path = tmp_path / "frames.extxyz"
    walk = reference.Walk(temperatures=(2500.0, 2500.0), every=20, equilibration=200, seed=2)
    list(reference.generate(path, 40, start, walk, springs(start, k=2.0)))
    frames = ase.io.read(path, ":")
    assert len(frames) == 40
    for atoms in frames:  # covalent radii of 0.66 Å and 0.31 Å
        lengths = atoms.get_distances(0, [1, 2])
        assert atoms.info["broken_bonds"] == (lengths > 1.3 * 0.97).sum()
        assert atoms.info["formed_bonds"] == (atoms.get_distance(1, 2) < 1.3 * 0.62)
    changed = sum(atoms.info["broken_bonds"] + atoms.info["formed_bonds"] > 0 for atoms in frames)
    assert 0 < changed < 40
    assert reference.repair(path, 3) == (40, changed, 0)


@pytest.mark.parametrize(
    ("calculator", "message"),
    [
        (lambda start: Failing(start), r"walker 1, frame [1-9]\d*: the calculator fails, SCF not converged"),
        (lambda start: Springs(start, k=0.0), r"walker \d, frame \d+: the molecule has flown apart"),
        (lambda start: Broken(start), "walker 0, frame 0: energy or forces are not finite"),
    ],
)
def test_errors_name_the_frame(reference, start, tmp_path, calculator, message):
    walk = reference.Walk(temperatures=(10.0, 900.0), every=50, equilibration=10)
    path = tmp_path / "frames.extxyz"
    with pytest.raises(RuntimeError, match=message):
        list(reference.generate(path, 1000, start, walk, lambda: calculator(start)))
    assert reference.repair(path, 3)[2] == 0  # what was before is complete


def test_other_walks_are_refused(reference, start, walk, tmp_path):
    path = tmp_path / "frames.extxyz"
    list(reference.generate(path, 5, start, walk, springs(start)))
    fewer = reference.Walk(temperatures=(200.0, 300.0))
    with pytest.raises(ValueError, match=r"frame 3 of the file is of walker 0 at 200\.0 K, not 1 at 300\.0 K"):
        list(reference.generate(path, 9, start, fewer, springs(start)))
    with pytest.raises(ValueError, match="energy of the last frame is now"):
        list(reference.generate(path, 9, start, walk, springs(start, k=21.0)))
    with pytest.raises(ValueError, match="is of OH2, not of SH2"):
        list(reference.generate(path, 9, molecule("SH2"), walk, springs(start)))
    with pytest.raises(ValueError, match="no frame of 9 atoms at byte 0"):
        reference.repair(path, 9)
    assert len(ase.io.read(path, ":")) == 5


def test_relaxation(reference, start, capsys):
    squeezed = start.copy()
    squeezed.positions *= 1.1
    relaxed = reference.relax(squeezed, springs(start))
    np.testing.assert_allclose(relaxed.get_all_distances(), start.get_all_distances(), atol=2e-3)
    assert relaxed.info == start.info
    assert not capsys.readouterr().out
    reference.relax(squeezed, springs(start), steps=1)
    squeezed.positions *= 1.3
    reference.relax(squeezed, springs(start))
    assert re.search(r"not relaxed .*\n.*broke 0 bonds and formed 2", capsys.readouterr().out)
    with pytest.raises(RuntimeError, match="fails in the relaxation: SCF"):
        reference.relax(squeezed, lambda: Failing(start))


def test_molecules_come_from_files_and_names(reference, start, tmp_path):
    ase.io.write(tmp_path / "water.xyz", start)
    for source in ("H2O", str(tmp_path / "water.xyz")):
        atoms = reference.read_molecule(source)
        assert str(atoms.symbols) == "OH2"
        assert not atoms.info
    with pytest.raises(ValueError, match="unobtainium is neither a file nor a molecule"):
        reference.read_molecule("unobtainium")
    start.cell, start.pbc = [5, 5, 5], (True, True, False)
    ase.io.write(tmp_path / "periodic.xyz", start)
    with pytest.raises(ValueError, match="is periodic"):
        reference.read_molecule(tmp_path / "periodic.xyz")


@pytest.fixture
def command(reference, monkeypatch, capsys, tmp_path):
    """The command line, on water."""

    def call(*arguments):
        words = ["H2O", "--every=2", "--equilibration=3", f"--output={tmp_path / 'frames.extxyz'}", *arguments]
        monkeypatch.setattr(sys, "argv", ["06_reference_data.py", *words])
        reference.main()
        return capsys.readouterr().out

    return call


def test_command_line(reference, command, start, monkeypatch, tmp_path):
    path = tmp_path / "frames.extxyz"
    monkeypatch.setattr(reference, "xtb", lambda method, charge, multiplicity: Springs(start))
    printed = command("--frames=6", "--walkers=3")
    assert "6 frames" in printed
    assert "0 frames have other bonds" in printed
    path.write_bytes(path.read_bytes()[:-10])
    printed = command("--frames=10", "--walkers=3", "--resume")
    assert re.search(r"5 frames are in .*, \d+ bytes of a broken one cut off", printed)
    assert "10 frames" in printed
    assert "5 of them new" in printed
    frames = ase.io.read(path, ":")
    assert [atoms.info["temperature"] for atoms in frames] == 3 * [300.0, 400.0, 500.0] + [300.0]
    assert frames[0].info["method"] == "GFN2-xTB"
    assert (frames[0].info["charge"], frames[0].info["multiplicity"]) == (0, 1)
    with pytest.raises(SystemExit, match="stopped: frame 0 of the file is of walker"):
        command("--frames=20", "--walkers=12", "--temperature=50", "--resume")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--frames=0"], "--frames must be positive"),
        (["--walkers=1"], "two where there are two --walkers"),
        (["--temperature", "-5"], "positive number"),
        ([], "exists; --resume"),
    ],
)
def test_wrong_options(command, capsys, tmp_path, arguments, message):
    (tmp_path / "frames.extxyz").touch()
    with pytest.raises(SystemExit):
        command(*arguments)
    assert message in capsys.readouterr().err


def test_without_tblite(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "tblite.ase", None)
    with pytest.raises(SystemExit, match=r"pip install pyg_schnet\[reference\]"):
        command()


def test_gfn2(reference, start, command, tmp_path):
    """Energies and forces of tblite belong together, are of water, and do not depend on the steps before."""
    pytest.importorskip("tblite", reason="tblite is not installed")
    assert reference.xtb("GFN2-xTB", 0, 1).get_potential_energy(start) == pytest.approx(-5.0704 * Hartree, abs=0.01)
    command("--frames=4", "--walkers=2")
    for atoms in ase.io.read(tmp_path / "frames.extxyz", ":"):
        bare = Atoms(atoms.numbers, atoms.positions, calculator=reference.xtb("GFN2-xTB", 0, 1))
        assert bare.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
        np.testing.assert_allclose(bare.get_forces(), atoms.get_forces(), atol=1e-4)
    numerical = np.zeros((3, 3))
    for index in np.ndindex(3, 3):
        for sign in (1, -1):
            moved = bare.copy()
            moved.positions[index] += sign * 1e-3
            moved.calc = reference.xtb("GFN2-xTB", 0, 1)
            numerical[index] -= sign * moved.get_potential_energy() / 2e-3
    np.testing.assert_allclose(numerical, atoms.get_forces(), atol=2e-4)
    assert np.abs(numerical).max() > 0.05
