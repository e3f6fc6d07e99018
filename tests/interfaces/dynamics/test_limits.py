"""Runs stop at states that are not physical, and relaxations end where there are no forces."""

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

from pyg_schnet import SchNet
from pyg_schnet.interfaces import SchNetCalculator
from pyg_schnet.interfaces.dynamics import Files, Limits, Settings, relax, run_dynamics
from pyg_schnet.interfaces.dynamics.limits import StateCheck
from pyg_schnet.interfaces.dynamics.relaxation import relaxed_frame
from pyg_schnet.models.domain import Coverage, Domain


class Check:
    """What calculators of this package have: the training data of their models."""

    def __init__(self, domain):
        self.domains = [domain]


def copper(domain=None, **more):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=0)
    atoms.calc = EMT()
    if domain is not None:
        atoms.calc.check = Check(domain)
    return atoms


def run(atoms, output, limits, steps=200, temperature=300.0, timestep=5.0):
    settings = Settings("nve", timestep=timestep, temperature=temperature, log_interval=5, trajectory_interval=5)
    return run_dynamics(atoms, steps, output, settings, limits=limits)


def good_of(output):
    return ase.io.read(Files.beside(output).last_good)


def test_large_forces_stop_a_run_and_the_last_good_state_is_kept(tmp_path):
    output = tmp_path / "md.xyz"
    bound = 1.2 * np.linalg.norm(copper().get_forces(), axis=1).max()
    found = run(copper(), output, Limits(max_force=bound), temperature=2000.0)
    assert 0 < found.step < 200
    assert f"step {found.step + 1:,}, {5 * (found.step + 1) / 1000:.6g} ps: the force on Cu" in found.problem
    assert found.problem.endswith(f"above {bound:g} (--max_force)")
    good = good_of(output)
    assert good.info["step"] == found.step
    good.calc = EMT()
    assert np.linalg.norm(good.get_forces(), axis=1).max() < bound
    frames = ase.io.read(output, ":")
    assert [frame.info["step"] for frame in frames] == list(range(0, found.step + 1, 5))
    again = copper()
    again.set_momenta(good.get_momenta())
    again.set_positions(good.get_positions())
    follow = run(again, tmp_path / "b.xyz", Limits(max_force=bound), steps=1)  # the next state is the bad one
    assert follow.problem is not None


def test_a_temperature_stops_a_run(tmp_path):
    limits = Limits(max_temperature=320.0)
    atoms = copper()
    atoms.rattle(0.1, seed=1)  # potential energy that becomes kinetic
    found = run(atoms, tmp_path / "md.xyz", limits)
    assert "K, above 320 (--max_temperature)" in found.problem
    assert StateCheck(Limits(), temperature=300.0).temperature(5001.0)
    assert StateCheck(Limits(), temperature=300.0).temperature(4999.0) is None
    assert StateCheck(Limits(), temperature=900.0).temperature(8999.0) is None


def test_atoms_closer_than_in_training_stop_a_run(tmp_path):
    known = 0.999 * copper().get_all_distances(mic=True)[np.triu_indices(4, 1)].min()
    domain = Domain("forces", False, {}, {(29, 29): known / 0.9})
    found = run(copper(domain), tmp_path / "md.xyz", Limits(min_distance=0.9), temperature=1500.0)
    assert f"pair closer than {known / 0.9:.2f} Å, and --min_distance is 0.9" in found.problem
    assert good_of(tmp_path / "md.xyz").get_all_distances(mic=True)[np.triu_indices(4, 1)].min() >= known - 1e-6
    assert run(copper(domain), tmp_path / "b.xyz", Limits(min_distance=0.0), steps=20).problem is None


def test_a_structure_to_begin_with_has_to_be_within_the_limits(tmp_path):
    domain = Domain("forces", False, {}, {(29, 29): 9.0})
    with pytest.raises(ValueError, match=r"the structure to begin with is not physical: Cu. and Cu. are .* Å apart"):
        run(copper(domain), tmp_path / "md.xyz", Limits())
    assert not list(tmp_path.iterdir())


def test_distances_of_crystals_and_molecules_are_those_of_brute_force():
    domain = Domain("forces", False, {}, {(1, 1): 1.7, (1, 6): 1.3, (6, 6): 1.2})
    check = StateCheck(Limits(min_distance=1.0), [domain])
    for atoms in (molecule("C6H6"), molecule("C6H6", vacuum=4.0, pbc=True)):
        assert "C" in check.distances(atoms)
        assert "are 1.09 Å apart" in check.distances(atoms)  # 0.84 of 1.3 Å; C-C are 1.16 of 1.2 Å
    assert StateCheck(Limits(min_distance=0.8), [domain]).distances(atoms) is None
    box = Atoms("H2", [[0.1, 0, 0], [4.9, 0, 0]], cell=[5.0, 5.0, 5.0], pbc=True)
    assert "H0 and H1 are 0.20 Å apart" in check.distances(box)  # by way of the boundary


def test_molecules_are_told_as_in_a_large_box():
    """Which pair is the worst is decided in one way, for the few atoms that are looked at in every step as well."""
    random, told = np.random.default_rng(0), []
    domain = Domain("forces", False, {}, {(1, 1): 0.7, (1, 6): 1.0, (6, 6): 1.4})
    check = StateCheck(Limits(min_distance=1.0), [domain])
    for _ in range(40):
        atoms = Atoms(random.choice([1, 6], 6), 2.5 * random.random((6, 3)))
        boxed = Atoms(atoms.numbers, atoms.positions, cell=3 * [20.0], pbc=True)
        told.append(check.distances(atoms))
        assert told[-1] == check.distances(boxed)
    assert 5 < told.count(None) < 35


def test_models_that_differ_stop_a_run(tmp_path):
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        models.append(SchNet(8, 8, 1, 8, 4.0).eval())
    atoms = molecule("CH3CH2OH")
    atoms.calc = SchNetCalculator(models, unit="eV")
    atoms.get_forces()
    spread = np.linalg.norm(atoms.calc.results["forces_std"], axis=1).max()
    found = run(atoms, tmp_path / "md.xyz", Limits(max_spread=1.001 * spread), timestep=1.0, temperature=1000.0)
    assert "the models differ by" in found.problem
    header, first = (tmp_path / "md.csv").read_text(encoding="utf-8").splitlines()[:2]
    values = dict(zip(header.split(","), first.split(","), strict=True))
    assert float(values["largest force spread [eV/Å]"]) == pytest.approx(spread)
    assert float(values["energy spread [eV/atom]"]) > 0.0
    assert values["pressure [GPa]"] == values["volume [Å³]"] == ""


def ensemble(atoms):
    """A structure with two models of random weights, and how far they differ on a force."""
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        models.append(SchNet(8, 8, 1, 8, 4.0).eval())
    atoms.calc = SchNetCalculator(models, unit="eV")
    return atoms, spread_of(atoms)


def spread_of(atoms):
    atoms.get_forces()
    return np.linalg.norm(atoms.calc.results["forces_std"], axis=1).max()


@pytest.mark.parametrize("bound", [1.001, 0.999])
def test_models_that_differ_are_flagged_in_a_run_that_goes_on(bound, tmp_path):
    atoms, spread = ensemble(molecule("CH3CH2OH"))
    limits = Limits(max_spread=bound * spread, spread_action="flag")
    settings = Settings("nve", timestep=1.0, temperature=1000.0, log_interval=1, trajectory_interval=1)
    found = run_dynamics(atoms, 30, tmp_path / "md.xyz", settings, limits=limits)
    assert found.problem is None
    frames = ase.io.read(tmp_path / "md.xyz", ":")
    marked = [bool(frame.info.get("beyond_max_spread")) for frame in frames]
    beyond = [np.linalg.norm(frame.calc.results["forces_std"], axis=1).max() > limits.max_spread for frame in frames]
    assert marked == beyond
    assert marked[0] is (bound < 1.0)
    assert found.flagged == sum(marked[1:]) > 0  # the state to begin with is no step
    assert frames[-1].calc.results["energy_std"] > 0.0
    with pytest.raises(ValueError, match="spread_action must be 'stop' or 'flag', got 'go'"):
        Limits(spread_action="go")


def test_flagged_steps_are_those_of_the_files(tmp_path):
    settings = Settings("nve", timestep=1.0, temperature=1000.0, seed=3)
    flag = Limits(max_spread=1e-9, spread_action="flag")  # which every state is beyond
    for steps in (4, 10):
        atoms, _ = ensemble(molecule("CH3CH2OH"))
        found = run_dynamics(atoms, steps, tmp_path / "md.xyz", settings, limits=flag, resume=steps == 10)
        assert (found.first, found.step, found.flagged) == ((0, 4, 4), (4, 10, 6))[steps == 10]
    hot = Limits(max_spread=1e-9, spread_action="flag", max_temperature=1050.0)
    atoms, _ = ensemble(molecule("CH3CH2OH"))
    atoms.rattle(0.1, seed=1)  # potential energy that becomes kinetic
    found = run_dynamics(atoms, 200, tmp_path / "hot.xyz", settings, limits=hot)
    assert "(--max_temperature)" in found.problem
    assert found.flagged == found.step < 200  # without the step that was not taken


@pytest.mark.parametrize("bound", [0.999, 1.001])
def test_relaxations_flag_where_models_differ_at_their_end(bound):
    atoms, _ = ensemble(molecule("CH3CH2OH"))
    relax(atoms, fmax=1e-9, steps=3)
    limit = bound * spread_of(atoms)
    for action in ("flag", "stop"):
        atoms, _ = ensemble(molecule("CH3CH2OH"))
        found = relax(atoms, fmax=1e-9, steps=3, limits=Limits(max_spread=limit, spread_action=action))
        is_beyond = bool(spread_of(atoms) > limit)
        if action == "flag":
            assert (found.steps, found.problem, is_beyond) == (3, None, bound < 1.0)
        assert found.beyond_max_spread is (is_beyond and action == "flag")
        assert relaxed_frame(atoms, found).info.get("beyond_max_spread", False) is found.beyond_max_spread


def test_elements_never_seen_are_refused_before_anything_is_written(tmp_path):
    model = SchNet(8, 8, 1, 8, 4.0).eval()
    water = Coverage(10, (3, 3), ("H2O",), {"H": (2, 2), "O": (1, 1)})
    model.card = {"elements": ["H", "O"], "trained_on": Domain("forces", False, {"molecule": water}, {}).as_json()}
    atoms = molecule("CH4")
    atoms.calc = SchNetCalculator(model, unit="eV")
    with pytest.raises(ValueError, match="C"):
        run(atoms, tmp_path / "md.xyz", Limits())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("optimizer", ["fire", "bfgs", "lbfgs", "bfgs-line-search"])
def test_relaxed_structures_have_no_forces(optimizer):
    atoms = copper()
    fixed = atoms.get_positions()[0]
    atoms.set_constraint(FixAtoms([0]))
    found = relax(atoms, fmax=0.01, optimizer=optimizer)
    assert found.converged
    assert found.fmax < 0.01
    assert found.steps > 0
    np.testing.assert_array_equal(atoms.get_positions()[0], fixed)
    assert np.linalg.norm(atoms.get_forces(), axis=1).max() == pytest.approx(found.fmax)


def test_a_relaxed_cell_has_the_pressure_that_was_asked_for():
    atoms = copper()
    assert relax(atoms, cell=True, fmax=0.003, pressure=3.0, optimizer="bfgs").converged
    np.testing.assert_allclose(atoms.get_stress()[:3] / units.GPa, -3.0, atol=0.1)


def test_relaxations_that_end_early_say_so():
    found = relax(copper(), fmax=1e-6, steps=2)
    assert (found.converged, found.steps, found.problem) == (False, 2, None)
    assert relax(copper(), fmax=1e-6, ended=lambda: True).steps == 0
    atoms = copper()
    before = atoms.get_positions()
    found = relax(atoms, limits=Limits(max_force=1e-3))
    assert "(--max_force)" in found.problem
    assert not found.converged
    np.testing.assert_array_equal(atoms.get_positions(), before)
    frame = relaxed_frame(atoms, found)
    assert frame.info["converged"] is False
    assert frame.info["problem"] == found.problem
    with pytest.raises(ValueError, match=r"a cell relaxes where it is periodic in three directions, got pbc="):
        relax(molecule("H2O"), cell=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ensemble": "nvt"}, "ensemble must be one of nve, langevin"),
        ({"timestep": 0.0}, "timestep must be a positive number in fs, got 0.0"),
        ({"temperature": 0.0}, "temperature must be a positive number in K"),
        ({"pressure": float("nan")}, "pressure must be a number in GPa"),
        ({"log_interval": 0}, "log_interval must be a number of steps, at least 1, got 0"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Settings(**options)


def test_ensembles_that_do_not_fit_the_structure_are_refused(tmp_path):
    fixed = copper()
    fixed.set_constraint(FixAtoms([0]))
    for ensemble, atoms, message in (
        ("nose-hoover", fixed, "counts all atoms as free, but the structure has fixed ones; take langevin"),
        ("npt", molecule("H2O"), "constant pressure needs a structure that is periodic in three directions"),
    ):
        with pytest.raises((ValueError, ImportError), match=f"{message}|of ASE"):
            run_dynamics(atoms, 1, tmp_path / "md.xyz", Settings(ensemble))
    assert not list(tmp_path.iterdir())
