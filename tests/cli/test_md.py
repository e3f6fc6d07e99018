"""``pyg-schnet md`` and ``pyg-schnet relax`` as a shell runs them: files, exit codes, signals and restarts."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from safetensors import safe_open

from pyg_schnet import SchNet
from pyg_schnet.cli import main
from pyg_schnet.cli._help import MD, RELAX
from pyg_schnet.cli.md import run_md
from pyg_schnet.cli.relax import relax_file
from pyg_schnet.interfaces import SchNetCalculator
from pyg_schnet.models.domain import Coverage, Domain


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Ethanol, a crystal of argon, and models with forces of some eV/Å; the current folder."""
    for seed, name in enumerate(("a", "b")):
        torch.manual_seed(seed)
        model = SchNet(8, 8, 1, 8, 4.0)
        with torch.no_grad():
            model.readout.network.lin2.weight *= 3.0
        model.save(tmp_path / f"{name}.safetensors", target="energy", unit="eV")
    ase.io.write(tmp_path / "ethanol.xyz", molecule("CH3CH2OH"))
    ase.io.write(tmp_path / "argon.xyz", bulk("Ar", a=5.3, cubic=True))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def md(*more, structure="ethanol.xyz"):
    return ["md", structure, "--model=a.safetensors", *more]


def ended(arguments):
    """Exit code of a command."""
    try:
        main(arguments)
    except SystemExit as stop:
        return stop.code
    return 0


def start(arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "pyg_schnet.cli", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip


def test_dynamics_leave_trajectory_log_and_checkpoint(folder, capsys):
    assert ended(md("--picoseconds=0.02", "--log_interval=10", "--trajectory_interval=20", "--seed=3")) == 0
    said = capsys.readouterr()
    assert "C2H6O, langevin at 300 K; 40 steps of 0.5 fs" in said.out
    assert re.search(r"40 steps, 0.02 ps; [\d.,e+]+ steps/s, [\d.e+-]+ ns/day", said.out)
    assert said.err == ""  # no bar where there is no terminal
    frames = ase.io.read(folder / "md.xyz", ":")
    assert [frame.info["step"] for frame in frames] == [0, 20, 40]
    assert frames[-1].info["time_fs"] == 20.0
    assert frames[-1].get_forces().shape == (9, 3)
    with (folder / "md.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["0", "10", "20", "30", "40"]
    kinetic = 0.5 * (frames[-1].get_masses()[:, None] * frames[-1].get_velocities() ** 2).sum()
    assert float(rows[-1]["kinetic energy [eV/atom]"]) == pytest.approx(kinetic / 9, rel=1e-4)
    assert float(rows[-1]["potential energy [eV/atom]"]) == pytest.approx(frames[-1].get_potential_energy() / 9)
    with safe_open(folder / "md.checkpoint", framework="numpy") as file:
        note = json.loads(file.metadata()["pyg_schnet_dynamics"])
    assert note["step"] == 40


def test_runs_that_are_ended_or_killed_go_on_to_the_last_bit(folder):
    options = ["--steps=600", "--log_interval=7", "--trajectory_interval=11", "--timestep=1", "--temperature=600"]
    assert ended(md(*options, "--output=whole.traj")) == 0
    options += ["--output=parts.traj", "--checkpoint_interval=50"]
    process = start(md(*options))
    wait_for_frames(folder / "parts.traj")
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert re.search(r"pyg-schnet md: SIGTERM after step [\d,]+; go on with --resume", said)
    process = start(md(*options, "--resume"))
    wait_for_frames(folder / "parts.traj")
    process.kill()
    process.communicate(timeout=120)
    assert ended(md(*options, "--resume")) == 0
    for ending in (".traj", ".csv"):
        assert (folder / f"parts{ending}").read_bytes() == (folder / f"whole{ending}").read_bytes()
    assert not list(folder.glob(".*.partial"))
    assert ended(md(*options)) == 1  # the checkpoint of a finished run is not begun again by mistake
    assert ended(md("--steps=620", *options[1:], "--resume")) == 0  # but can be made longer
    assert ase.io.read(folder / "parts.traj").info["step"] == 616


def wait_for_frames(path):
    """Wait until a process has written some more than there is."""
    size, until = path.stat().st_size if path.exists() else 0, time.monotonic() + 100
    while time.monotonic() < until and (not path.exists() or path.stat().st_size < size + 4000):
        time.sleep(0.02)


def test_a_stop_has_a_message_an_exit_code_and_the_last_good_state(folder, capsys):
    assert ended(md("--steps=400", "--temperature=300", "--max_temperature=301", "--ensemble=nve")) == 3
    said = capsys.readouterr().err
    assert re.search(r"pyg-schnet md: stopped at step [\d,]+, .* ps: the temperature is \d+ K, above 301", said)
    assert "the last good state is in md-last-good.xyz" in said
    assert ase.io.read(folder / "md-last-good.xyz").has("momenta")


def test_an_ensemble_of_models_has_a_spread(folder):
    options = ["--steps=20", "--log_interval=10", "--ensemble=npt", "--dtype=float32", "--output=out/md.traj"]
    if tuple(map(int, ase.__version__.split(".")[:2])) < (3, 25):
        options[2] = "--ensemble=nve"
    assert ended(["md", "argon.xyz", "--model=[a.safetensors,b.safetensors]", *options]) == 0
    with (folder / "out" / "md.csv").open(encoding="utf-8") as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["largest force spread [eV/Å]"]) > 0.0
    assert np.isfinite(float(last["pressure [GPa]"]))
    assert float(last["volume [Å³]"]) == pytest.approx(5.3**3, rel=0.2)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "give the length of the simulation, by either --steps or --picoseconds"),
        (["--steps=5", "--picoseconds=1"], "by either --steps or --picoseconds"),
        (["--steps=5", "--output=md.csv"], "output must end in .xyz or .extxyz or .traj"),
        (["--steps=5", "--output=ethanol.xyz"], "is the same file as ethanol.xyz"),
        (["--steps=5", "--output=ethanol.traj", "--resume"], "there is no checkpoint ethanol.checkpoint"),
        (["--steps=5", "--threads=0"], "threads must be at least 1, got 0"),
        (["--steps=5", "--timestep=-1"], "timestep must be a positive number in fs"),
    ],
)
def test_what_does_not_fit_is_one_sentence(more, message, folder, capsys):
    assert ended(md(*more)) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("pyg-schnet md: ")
    assert message in said
    assert not list(folder.glob("md*"))


def test_forces_that_were_not_learned_are_refused(folder, capsys):
    model = SchNet.load(folder / "a.safetensors")
    ethanol = Coverage(9, (9, 9), ("C2H6O",), {"C": (2, 2), "H": (6, 6), "O": (1, 1)})
    pairs = dict.fromkeys([(1, 1), (1, 6), (1, 8), (6, 6), (6, 8)], 0.5)
    model.save(folder / "u.safetensors", target="energy", unit="eV", elements=["H", "C", "O"],
               trained_on=Domain("none", False, {"molecule": ethanol}, pairs).as_json())  # fmt: skip
    for command in (["md", "ethanol.xyz", "--steps=1"], ["relax", "ethanol.xyz"]):
        assert ended([*command, "--model=u.safetensors"]) == 1
        assert "--untrained_forces true" in capsys.readouterr().err
    assert ended(["md", "ethanol.xyz", "--steps=1", "--model=u.safetensors", "--untrained_forces=true"]) == 0


def test_all_structures_of_a_file_are_relaxed(folder, capsys):
    fixed = molecule("H2O")
    fixed.set_constraint(FixAtoms([0]))
    fixed.info["name"] = "w 17"
    ase.io.write(folder / "in.traj", [molecule("CH4"), fixed])
    begin = [molecule("CH4"), fixed.copy()]
    assert ended(["relax", "in.traj", "--model=a.safetensors", "--fmax=0.02", "--optimizer=bfgs"]) == 0
    assert "2 of 2 structures converged; written to relaxed.xyz" in capsys.readouterr().out
    frames = ase.io.read(folder / "relaxed.xyz", ":")
    for before, after in zip(begin, frames, strict=True):
        assert after.info["converged"]
        assert np.linalg.norm(after.get_forces(), axis=1).max() < 0.02
        assert np.abs(after.positions - before.positions).max() > 1e-4
    np.testing.assert_allclose(frames[1].positions[0], begin[1].positions[0], atol=1e-7)
    assert frames[1].info["name"] == "w 17"
    assert frames[1].constraints[0].index.tolist() == [0]


def test_relaxations_that_do_not_converge_have_an_exit_code(folder, capsys):
    assert ended(["relax", "ethanol.xyz", "--model=a.safetensors", "--steps=1", "--fmax=1e-6", "--output=r.traj"]) == 3
    assert "not converged" in capsys.readouterr().out
    assert ase.io.read(folder / "r.traj").info["converged"] is False


def test_many_structures_are_relaxed_together(folder, capsys):
    """Five in groups of two, as one by one: order, constraints and results are the same."""
    rng, images = np.random.default_rng(0), []
    for name in ("CH4", "H2O", "CH3CH2OH", "NH3", "H2O"):
        atoms = molecule(name)
        atoms.positions += 0.05 * rng.standard_normal((len(atoms), 3))
        images.append(atoms)
    images[1].set_constraint(FixAtoms([0]))
    images[3].info["name"] = "w 17"
    ase.io.write(folder / "in.traj", images)
    one = ended(["relax", "in.traj", "--model=a.safetensors", "--fmax=0.02", "--output=one.xyz", "--steps=30"])
    assert ended(["relax", "in.traj", "--model=a.safetensors", "--fmax=0.02", "--batch=2", "--steps=30"]) == one
    assert "of 5 structures converged; written to relaxed.xyz" in capsys.readouterr().out
    expected, found = (ase.io.read(folder / name, ":") for name in ("one.xyz", "relaxed.xyz"))
    assert len(found) == 5
    for before, after in zip(expected, found, strict=True):
        assert after.get_chemical_formula() == before.get_chemical_formula()
        assert {**after.info, "fmax": 0.0} == {**before.info, "fmax": 0.0}
        assert after.info["fmax"] == pytest.approx(before.info["fmax"], abs=1e-6)
        np.testing.assert_allclose(after.positions, before.positions, atol=1e-6)
        np.testing.assert_allclose(after.get_forces(), before.get_forces(), atol=1e-6)
    assert found[1].constraints[0].index.tolist() == [0]
    assert found[3].info["name"] == "w 17"


def test_crystals_relaxed_together_have_a_stress(folder):
    argon = ase.io.read(folder / "argon.xyz")
    ase.io.write(folder / "in.traj", [argon, molecule("CH4"), argon])
    assert ended(["relax", "in.traj", "--model=a.safetensors", "--batch=3", "--steps=2", "--fmax=1e-9"]) == 3
    crystal, methane, other = ase.io.read(folder / "relaxed.xyz", ":")
    argon.set_positions(crystal.positions)
    argon.calc = SchNetCalculator(folder / "a.safetensors")
    np.testing.assert_allclose(crystal.get_stress(), argon.get_stress(), atol=1e-8)
    np.testing.assert_allclose(crystal.get_stress(), other.get_stress(), atol=1e-12)
    assert "stress" not in methane.calc.results


def test_a_batch_names_the_structure_that_is_refused(folder, capsys):
    broken = molecule("H2O")
    broken.positions[1] = broken.positions[0]
    ase.io.write(folder / "in.traj", [molecule("CH4"), molecule("NH3"), broken])
    assert ended(["relax", "in.traj", "--model=a.safetensors", "--batch=3"]) == 1
    assert "structure 2" in capsys.readouterr().err
    for option in ("--cell", "--optimizer=bfgs"):
        assert ended(["relax", "in.traj", "--model=a.safetensors", "--batch=3", option]) == 1
        assert "leave out --cell and --optimizer, or --batch" in capsys.readouterr().err


def test_cells_relax(folder):
    assert ended(["relax", "argon.xyz", "--model=a.safetensors", "--cell", "--steps=5", "--fmax=1e-9"]) == 3
    after = ase.io.read(folder / "relaxed.xyz")
    assert abs(after.cell[0, 0] - 5.3) > 1e-5


@pytest.mark.parametrize(("text", "function"), [(MD, run_md), (RELAX, relax_file)])
def test_the_help_has_every_option_and_no_other(text, function):
    options = {name for name in function.__annotations__ if name not in ("return", "structure", "structures")}
    found = set(re.findall(r"--(\w+)", text.split("examples:")[0])) - {"OPTION"}
    assert found == options
    for name, value in (function.__kwdefaults__ or {}).items():
        if isinstance(value, float) and not isinstance(value, bool):
            assert re.search(rf"--{name}.*", text), name
