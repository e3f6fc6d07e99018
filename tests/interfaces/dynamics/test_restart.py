"""A run that is interrupted and resumed leaves the same files, byte for byte, as one that is not."""

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.constraints import FixAtoms

from pyg_schnet import SchNet
from pyg_schnet.interfaces import SchNetCalculator
from pyg_schnet.interfaces.dynamics import Files, Limits, Settings, run_dynamics

VERSION = tuple(map(int, ase.__version__.split(".")[:2]))
OLDEST = {"nose-hoover": (3, 25), "npt": (3, 25), "npt-anisotropic": (3, 26)}
LIMITS = Limits(max_temperature=1e6, max_force=1e4)
STEPS = 50


class KilledError(BaseException):
    """Ends a run without a chance to save, as SIGKILL does."""


def needs(ensemble):
    if OLDEST.get(ensemble, VERSION) > VERSION:
        pytest.skip(f"needs ASE {OLDEST[ensemble]}")


def structure(kind, dtype=torch.float64):
    """Structure with a calculator of its own, as a new process would have it."""
    torch.manual_seed(1)
    model = SchNet(16, 16, 2, 12, 3.6).eval()
    with torch.no_grad():
        model.readout.network.lin2.weight *= 3.0 if kind == "cage" else 30.0  # forces of some eV/Å
    if kind == "crystal":
        atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
        atoms.rattle(0.1, seed=0)
    else:
        atoms = molecule("C60" if kind == "cage" else "CH3CH2OH")  # with and without a neighbour list
    atoms.calc = SchNetCalculator(model, unit="eV", dtype=dtype)
    return atoms


def settings(ensemble, **more):
    # hot, so that the list is built again often
    return Settings(ensemble, timestep=2.0, temperature=2000.0, pressure=5.0, thermostat_time=50.0, barostat_time=200.0,
                    **{"log_interval": 3, "trajectory_interval": 4, "checkpoint_interval": 10, **more})  # fmt: skip


def contents(output):
    files = Files.beside(output)
    return files.trajectory.read_bytes(), files.log.read_bytes()


def interrupted(atoms, after):
    """A calculator that kills the run."""
    calculate, left = atoms.calc.calculate, [after]

    def counted(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            raise KilledError
        return calculate(*args, **kwargs)

    atoms.calc.calculate = counted
    return atoms


@pytest.mark.parametrize("ensemble", ["nve", "langevin", "nose-hoover", "npt", "npt-anisotropic"])
def test_periodic_runs_go_on_to_the_last_bit(ensemble, tmp_path):
    needs(ensemble)
    whole, parts = tmp_path / "whole.xyz", tmp_path / "parts.xyz"
    atoms = structure("crystal")
    assert run_dynamics(atoms, STEPS, whole, settings(ensemble), limits=LIMITS).step == STEPS
    assert atoms.calc.neighbors.n_rebuilds > 3
    for steps in (0, 23, STEPS):  # not a step at which anything is written
        again = structure("crystal")
        run_dynamics(again, steps, parts, settings(ensemble), limits=LIMITS, resume=steps > 0)
    assert contents(parts) == contents(whole)
    np.testing.assert_array_equal(again.get_positions(), atoms.get_positions())
    np.testing.assert_array_equal(again.get_velocities(), atoms.get_velocities())


@pytest.mark.parametrize(
    ("kind", "ensemble", "ending"),
    [
        ("crystal", "langevin", ".xyz"),
        ("crystal", "npt", ".traj"),
        ("cage", "nve", ".traj"),
        ("ethanol", "nose-hoover", ".xyz"),
        ("ethanol", "langevin", ".traj"),
    ],
)
def test_files_are_cut_back_to_the_checkpoint_after_a_kill(kind, ensemble, ending, tmp_path):
    needs(ensemble)
    whole, parts = tmp_path / f"whole{ending}", tmp_path / f"parts{ending}"
    assert run_dynamics(structure(kind), STEPS, whole, settings(ensemble), limits=LIMITS).problem is None
    resume = False
    for calls in (37, 17):  # twice, after checkpoints at other steps
        with pytest.raises(KilledError):
            run_dynamics(interrupted(structure(kind), calls), STEPS, parts, settings(ensemble), limits=LIMITS,
                         resume=resume)  # fmt: skip
        resume = True
    run_dynamics(structure(kind), STEPS, parts, settings(ensemble), limits=LIMITS, resume=True)
    assert contents(parts) == contents(whole)


def test_float32_goes_on_to_the_last_bit(tmp_path):
    for name, parts in (("whole", [STEPS]), ("parts", [21, STEPS])):
        for steps in parts:
            atoms = structure("crystal", torch.float32)
            run_dynamics(atoms, steps, tmp_path / f"{name}.traj", settings("langevin"), limits=LIMITS,
                         resume=steps == STEPS and len(parts) > 1)  # fmt: skip
    assert contents(tmp_path / "parts.traj") == contents(tmp_path / "whole.traj")


def test_fixed_atoms_stay_fixed_over_a_restart(tmp_path):
    def fixed():
        atoms = structure("ethanol")
        atoms.set_constraint(FixAtoms([0, 3]))
        return atoms

    begin = fixed().get_positions()
    run_dynamics(fixed(), STEPS, tmp_path / "whole.xyz", settings("langevin"), limits=LIMITS)
    run_dynamics(fixed(), 23, tmp_path / "parts.xyz", settings("langevin"), limits=LIMITS)
    atoms = fixed()
    run_dynamics(atoms, STEPS, tmp_path / "parts.xyz", settings("langevin"), limits=LIMITS, resume=True)
    assert contents(tmp_path / "parts.xyz") == contents(tmp_path / "whole.xyz")
    moved = np.linalg.norm(atoms.get_positions() - begin, axis=1)
    assert (moved[[0, 3]] == 0.0).all()
    assert moved[[1, 2, 4]].min() > 0.0
    assert ase.io.read(tmp_path / "parts.xyz", -1).constraints[0].index.tolist() == [0, 3]


def test_a_checkpoint_is_of_one_simulation(tmp_path):
    output = tmp_path / "md.xyz"
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint .*md\.checkpoint; begin without --resume"):
        run_dynamics(structure("ethanol"), 5, output, settings("nve"), limits=LIMITS, resume=True)
    run_dynamics(structure("ethanol"), 5, output, settings("nve"), limits=LIMITS, model="a")
    with pytest.raises(ValueError, match=r"there is a checkpoint .*md\.checkpoint of an earlier run; go on from it"):
        run_dynamics(structure("ethanol"), 5, output, settings("nve"), limits=LIMITS, model="a")
    other = settings("langevin", log_interval=2)
    with pytest.raises(ValueError, match="ensemble nve and not langevin, log_interval 3 and not 2, another model"):
        run_dynamics(structure("ethanol"), 9, output, other, limits=LIMITS, model="b", resume=True)
    with pytest.raises(ValueError, match="other atoms"):
        run_dynamics(structure("cage"), 9, output, settings("nve"), limits=LIMITS, model="a", resume=True)
    often = settings("nve", checkpoint_interval=1)  # which changes no result
    assert run_dynamics(structure("ethanol"), 9, output, often, limits=LIMITS, model="a", resume=True).step == 9


def test_files_that_were_shortened_are_refused(tmp_path):
    output = tmp_path / "md.xyz"
    run_dynamics(structure("ethanol"), 8, output, settings("nve"), limits=LIMITS)
    output.write_bytes(output.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"md\.xyz has .*, but had .* bytes at the checkpoint; put it back"):
        run_dynamics(structure("ethanol"), 9, output, settings("nve"), limits=LIMITS, resume=True)
    output.unlink()
    with pytest.raises(ValueError, match=r"md\.xyz is not there, but had"):
        run_dynamics(structure("ethanol"), 9, output, settings("nve"), limits=LIMITS, resume=True)
    Files.beside(output).checkpoint.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is no checkpoint of dynamics"):
        run_dynamics(structure("ethanol"), 9, output, settings("nve"), limits=LIMITS, resume=True)
