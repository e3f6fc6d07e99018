"""Labels, what is left out, relaxations and walks."""

import itertools
import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import (
    CalculationFailed,
    Calculator,
    CalculatorSetupError,
    InputError,
    PropertyNotImplementedError,
    ReadError,
    SCFError,
    all_changes,
)
from ase.calculators.emt import EMT
from ase.units import Bohr, Hartree, kB

from pyg_schnet.data.reference import Method, Sampling
from pyg_schnet.data.reference.frames import Molecule, Surroundings, frames_of
from pyg_schnet.data.reference.labelling import FailedError, Tally, checked
from pyg_schnet.data.reference.langevin import walk
from pyg_schnet.data.reference.relaxation import Visited, relaxed


class Failing(Calculator):
    """EMT that raises something beyond some distance of the first two atoms, or is wild there."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, limit=1e9, wild=False, error=SCFError):
        super().__init__()
        self.limit, self.wild, self.error = limit, wild, error

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        plain = Atoms(atoms.numbers, atoms.positions, calculator=EMT())
        self.results = {"energy": plain.get_potential_energy(), "forces": plain.get_forces()}
        if atoms.get_distance(0, 1) > self.limit:
            if not self.wild:
                raise self.error("no")
            self.results["energy"] = np.nan


def made(atoms, kinds, calculator="ase.calculators.emt.EMT", options=None, **more):
    tally = Tally()
    more = {"max_energy": 50.0, "max_force": 500.0, **more}
    frames = frames_of(
        Molecule("m", atoms.numbers, atoms.positions),
        Surroundings(Sampling(kinds=kinds, **more)),
        Method(calculator, options),
        tally,
    )
    return frames, tally


def test_labels_are_those_of_the_calculator():
    frames, tally = made(molecule("CH3CH2OH"), {"given": 1, "modes": 4, "bonds": 3, "torsions": 3, "langevin": 2})
    expected = ["given"] + ["modes"] * 5 + ["langevin"] * 2 + ["bonds"] * 3 + ["torsions"] * 3
    assert [frame.kind for frame in frames] == expected
    assert not tally.left_out
    for frame in frames:
        atoms = Atoms(frame.numbers, frame.positions, calculator=EMT())
        assert frame.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
        np.testing.assert_allclose(frame.forces, atoms.get_forces(), atol=1e-9)
        assert frame.molecule == frames[0].molecule
    assert tally.calls == len(frames) + 2 * 4  # steps of the walk that are not kept


def test_frames_depend_on_no_other_kind_and_on_the_name_alone():
    atoms = molecule("CH3CH2OH")
    alone = made(atoms, {"torsions": 3})[0]
    together = [frame for frame in made(atoms, {"modes": 5, "torsions": 3, "bonds": 2})[0] if frame.kind == "torsions"]
    assert len(alone) == len(together) > 0
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.positions, other.positions)
    assert not np.array_equal(made(atoms, {"torsions": 3}, seed=1)[0][0].positions, alone[0].positions)


def test_numbers_between_whole_ones_are_means():
    sizes = []
    for name in range(200):
        frames = frames_of(
            Molecule(str(name), np.array([8, 1, 1]), molecule("H2O").positions),
            Surroundings(Sampling(kinds={"given": 0.25}, max_energy=50.0, max_force=500.0)),
            Method("ase.calculators.emt.EMT"),
            Tally(),
        )
        sizes.append(len(frames))
    assert set(sizes) == {0, 1}
    assert np.mean(sizes) == pytest.approx(0.25, abs=0.1)


def test_what_fails_is_left_out_and_counted():
    water = molecule("H2O")
    longest = 1.02 * water.get_distance(0, 1)
    path = f"{__name__}.Failing"
    frames, tally = made(water, {"modes": 20}, path, {"limit": longest})
    assert 0 < tally.left_out["the calculator failed"] < 20
    assert len(frames) == tally.kept["modes"] == 20 - tally.left_out["the calculator failed"]
    assert all(np.linalg.norm(one.positions[1] - one.positions[0]) <= longest for one in frames)
    frames, tally = made(water, {"modes": 20}, path, {"limit": longest, "wild": True})
    assert tally.left_out["energy or forces are not finite"] == 20 - len(frames) > 0
    frames, tally = made(water, {"modes": 20}, path, {"limit": 0.1})  # the given geometry, too
    assert not frames
    assert tally.as_dict() == {"calls": 1, "kept": {}, "left_out": {"the calculator failed": 1}}


def test_a_calculator_that_cannot_work_is_no_failed_calculation():
    water, path = molecule("H2O"), f"{__name__}.Failing"
    for error in (SCFError, CalculationFailed, ReadError):
        assert made(water, {"modes": 2}, path, {"limit": 0.1, "error": error})[1].left_out["the calculator failed"] == 1
    for error in (NotImplementedError, PropertyNotImplementedError, CalculatorSetupError, InputError):
        with pytest.raises(ValueError, match="Failing cannot calculate H2O: no; leave it out, or choose another"):
            made(water, {"modes": 2}, path, {"limit": 0.1, "error": error})
    for error in (RuntimeError, KeyError, ImportError):
        with pytest.raises(error, match="no"):
            made(water, {"modes": 2}, path, {"limit": 0.1, "error": error})
    with pytest.raises(ValueError, match="EMT cannot calculate CHF3: No EMT-potential for F"):
        made(molecule("HCF3"), {"given": 1})


class Interface:
    """As tblite's, with harmonic springs between the atoms; electrons that do not converge beyond some distance."""

    class TBLiteRuntimeError(RuntimeError):
        pass

    class Calculator:
        def __init__(self, method, numbers, positions, charge, uhf):
            if max(numbers) > 86:
                raise Interface.TBLiteRuntimeError("No support for elements with Z >86.")
            self.options = {}

        def set(self, name, value):
            self.options[name] = value
            if name == "limit" and isinstance(value, str):
                raise NotImplementedError("no text")

        def update(self, positions):
            self.positions = positions

        def singlepoint(self, before):
            if np.linalg.norm(self.positions[1] - self.positions[0]) * Bohr > self.options["limit"]:
                raise Interface.TBLiteRuntimeError("SCF not converged in 250 cycles")
            return {"energy": np.square(self.positions).sum(), "gradient": 2.0 * self.positions}


def test_gfn2_that_cannot_work_is_no_failed_calculation(monkeypatch):
    for name in ("tblite", "tblite.interface", "tblite.exceptions"):
        monkeypatch.setitem(sys.modules, name, Interface)
    water = molecule("H2O")
    longest = 1.02 * water.get_distance(0, 1)
    frames, tally = made(water, {"modes": 20}, "GFN2-xTB", {"limit": longest}, max_energy=1e4)
    assert len(frames) == 20 - tally.left_out["the electrons have not converged"]
    assert 0 < len(frames) < 20
    with pytest.raises(ValueError, match=r"GFN2-xTB cannot calculate Og2: No support for elements with Z >86\.; leave"):
        made(Atoms("Og2", [[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), {"given": 1}, "GFN2-xTB", {"limit": 2.0})
    with pytest.raises(NotImplementedError, match="no text"):
        made(water, {"given": 1}, "GFN2-xTB", {"limit": "2"})
    tally = made(Atoms("H2", np.zeros((2, 3))), {"given": 1}, "GFN2-xTB", {"limit": 2.0})[1]
    assert tally.left_out == {"atoms are at one place": 1}


def test_limits():
    atoms = molecule("CH3CH2OH")
    lowest = made(atoms, {"given": 1})[0][0].energy
    everything = made(atoms, {"bonds": 40})[0]
    above = np.array([(frame.energy - lowest) / len(atoms) for frame in everything])
    largest = np.array([np.linalg.norm(frame.forces, axis=1).max() for frame in everything])
    energy, force = (round(float(np.median(one)), 3) for one in (above, largest))
    frames, tally = made(atoms, {"bonds": 40}, max_energy=energy)
    assert len(frames) == (above <= energy).sum()
    reason = f"the energy is more than {energy:g} eV/atom above that of the molecule"
    assert tally.left_out[reason] == len(everything) - len(frames) > 0
    frames, tally = made(atoms, {"bonds": 40}, max_force=force)
    assert len(frames) == (largest <= force).sum()
    assert tally.left_out[f"a force is above {force:g} eV/Å"] == len(everything) - len(frames) > 0
    with pytest.raises(FailedError, match="not finite"):
        checked(0.0, np.array([[np.inf, 0.0, 0.0]]), 10.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": {"mode": 1}}, "kinds are given, .*, got mode"),
        ({"kinds": {"modes": 0}}, "one of them above 0"),
        ({"kinds": {"modes": -1}}, "one of them above 0"),
        ({"kinds": {"dimers": 0.5}}, "dimers must be a whole number, of each pair of elements, got 0.5"),
        ({"temperature": (500.0, 300.0)}, "lowest and the highest"),
        ({"every": 0}, "every must be positive"),
        ({"max_force": -1.0}, "max_force must be positive"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**options)


def test_methods_that_are_not_there(monkeypatch):
    with pytest.raises(ValueError, match=r"method must be GFN2-xTB, .* or the path of a calculator"):
        Method("PM7")
    with pytest.raises(ValueError, match=r"there is no calculator ase\.calculators\.emt\.Other"):
        Method("ase.calculators.emt.Other")
    with pytest.raises(ValueError, match="charge=1 is of the methods of tblite"):
        Method("ase.calculators.emt.EMT", charge=1)
    monkeypatch.setitem(sys.modules, "tblite.interface", None)
    with pytest.raises(ImportError, match=r"pip install 'pyg_schnet\[reference\]'"):
        Method()


def wells(positions):
    """Energy and forces of atoms, each in a well of its own."""
    return float(1.5 * np.square(positions).sum()), -3.0 * positions


def test_walks_sample_the_ensemble():
    numbers, temperature = np.full(400, 6), 500.0
    random = np.random.default_rng(0)
    start = Visited(np.zeros((400, 3)), 0.0, np.zeros((400, 3)))
    steps = walk(wells, numbers, start, temperature, random, every=10, timestep=1.0, friction=0.1)
    frames = list(itertools.islice(steps, 60))[20:]
    energies = [frame.energy for frame in frames]
    assert np.mean(energies) == pytest.approx(1.5 * 400 * kB * temperature, rel=0.03)
    for frame in frames[:3]:
        assert (frame.energy, frame.forces.tolist()) == (wells(frame.positions)[0], wells(frame.positions)[1].tolist())


def test_atoms_of_a_walk_may_have_temperatures_of_their_own():
    temperature = np.repeat([300.0, 900.0], 200)[:, None]
    start = Visited(np.zeros((400, 3)), 0.0, np.zeros((400, 3)))
    random = np.random.default_rng(0)
    steps = walk(wells, np.full(400, 6), start, temperature, random, every=10, timestep=1.0, friction=0.1)
    squares = np.mean([np.square(frame.positions) for frame in itertools.islice(steps, 20, 60)], axis=0)
    expected = kB * np.array([300.0, 900.0]) / 3.0  # equipartition, with the constant 3 eV/Å² of each coordinate
    np.testing.assert_allclose(squares.reshape(2, -1).mean(1), expected, rtol=0.05)


def test_walks_without_friction_keep_the_energy():
    numbers = np.full(50, 6)
    start = Visited(np.full((50, 3), 0.05), *wells(np.full((50, 3), 0.05)))
    steps = walk(wells, numbers, start, 300.0, np.random.default_rng(0), every=1, timestep=0.5, friction=1e-9)
    potential = np.array([frame.energy for frame in itertools.islice(steps, 400)])
    total = start.energy + 1.5 * 50 * kB * 300.0  # nearly; velocities are random
    assert potential.min() < 0.3 * total
    assert potential.max() == pytest.approx(total, rel=0.35)


def test_relaxations_find_the_minimum():
    atoms = molecule("CH3CH2OH")
    evaluate = Method("ase.calculators.emt.EMT").of(atoms.numbers)
    way, converged = relaxed(evaluate, atoms.positions, 10.0 * np.eye(27), fmax=0.01, steps=300)
    assert converged
    assert np.linalg.norm(way[-1].forces, axis=1).max() < 0.01
    assert way[-1].energy < way[0].energy
    assert not relaxed(evaluate, atoms.positions, 10.0 * np.eye(27), steps=1)[1]


def test_gfn2_is_that_of_tblite_for_ase():
    pytest.importorskip("tblite")
    from tblite.ase import TBLite

    atoms = molecule("CH3CH2OH")
    evaluate = Method().of(atoms.numbers)
    for seed in range(3):
        atoms.rattle(0.05, seed=seed)
        energy, forces = evaluate(atoms.positions)
        atoms.calc = TBLite(method="GFN2-xTB", verbosity=0, accuracy=0.01)
        assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-5)
        np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-4)
    assert Method().of(np.array([8, 1, 1]))(molecule("H2O").positions)[0] == pytest.approx(-5.0704 * Hartree, abs=0.01)
    radical = molecule("OH")  # an odd number of electrons
    assert np.isfinite(Method().of(radical.numbers)(radical.positions)[0])
    with pytest.raises(ValueError, match="GFN2-xTB cannot calculate U2: No support"):
        Method().of(np.array([92, 92]))(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 2.0]]))
    with pytest.raises(FailedError, match="the electrons have not converged"):
        Method(options={"max-iter": 1}).of(np.array([8, 1, 1]))(molecule("H2O").positions)
    with pytest.raises(FailedError, match="atoms are at one place"):
        Method().of(np.array([8, 1, 1]))(np.zeros((3, 3)))
    cation = Method(charge=1).of(np.array([8, 1, 1, 1]))(molecule("NH3").positions)
    assert np.isfinite(cation[0])
