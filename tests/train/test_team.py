"""Processes of one run on one computer: how they are started, and that none is left over."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import ase.io
import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import load_file

from pyg_schnet.cli import main
from pyg_schnet.train import team as module
from pyg_schnet.train.processes import OwnProcesses, check_devices, environment_plugins
from pyg_schnet.train.ranks import Followed
from pyg_schnet.train.resuming import interruption
from pyg_schnet.train.team import Lost, team

from .test_runs import labelled, options

ROOT = Path(__file__).parents[2]
BROKEN = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1")


def sleeping():
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


@pytest.fixture
def two(monkeypatch):
    """A trainer of two processes, of which the second one sleeps."""
    other = sleeping()
    monkeypatch.setattr(module, "_start", lambda *_: [other])
    yield SimpleNamespace(world_size=2, strategy=SimpleNamespace(cluster_environment=OwnProcesses())), other
    other.kill()
    other.wait()


def test_the_first_process_says_which_other_one_is_gone(two):
    trainer, other = two
    other.kill()
    with pytest.raises(Lost) as lost, team(trainer, [], "run", print):
        raise BROKEN
    assert lost.value.reason == f"process 1 of 2 (number {other.pid}) has been killed by SIGKILL"
    assert interruption(lost.value, "none")[0] == 1


def test_other_errors_stay_what_they_are_and_no_process_is_left(two, monkeypatch):
    trainer, other = two
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    with pytest.raises(RuntimeError, match="mat1 and mat2"), team(trainer, [], "run", print):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert other.wait(timeout=20) == -signal.SIGKILL


def test_a_process_that_waits_for_ever_is_ended(two, monkeypatch):
    """As with devices whose messages have no end."""
    trainer, other = two
    monkeypatch.setattr(module, "GRACE", 0.1)
    said, ended = [], []
    monkeypatch.setattr(os, "_exit", ended.append)
    with team(trainer, [], "run", said.append):
        other.kill()
        until = time.monotonic() + 30
        while not ended and time.monotonic() < until:
            time.sleep(0.05)
    assert ended == [1]
    assert "killed by SIGKILL" in said[0]


def test_another_process_is_silent_while_the_first_one_is_there(two, monkeypatch):
    trainer, _ = two
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("PYG_SCHNET_FIRST_PROCESS", str(os.getppid()))
    with pytest.raises(Followed), team(trainer, [], "run", print):
        raise BROKEN
    monkeypatch.setenv("PYG_SCHNET_FIRST_PROCESS", "999999999")
    with pytest.raises(Lost) as lost, team(trainer, [], "run", print):
        raise BROKEN
    assert lost.value.reason == "the first process has been killed"


def test_one_process_has_no_team():
    with pytest.raises(RuntimeError, match="Connection"), team(SimpleNamespace(world_size=1), [], "run", print):
        raise BROKEN


def test_more_processes_than_cores_are_refused(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    made = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    check_devices(Trainer(devices=4, **made))
    with pytest.raises(ValueError, match=r"devices=5 asks for .* which has 4 cores; choose at most 4"):
        check_devices(Trainer(devices=5, **made))


def test_several_computers_need_a_launcher(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert isinstance(environment_plugins({"devices": 2})[0], OwnProcesses)
    with pytest.raises(ValueError, match=r"num_nodes=2 needs a launcher .* torchrun or srun"):
        environment_plugins({"devices": 2, "num_nodes": 2})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a file of 30 molecules."""
    monkeypatch.chdir(tmp_path)
    ase.io.write("a.xyz", [labelled(k, ("H2O", "CH4")[k % 2]) for k in range(30)], format="extxyz")


def start(run, *more, epochs=150):
    command = [sys.executable, "-W", "ignore", "-m", "pyg_schnet.cli", *options(run, *more, epochs=epochs)]
    given = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    shared = ["--trainer.devices=2", "--data.batch_size=4", "--early_stopping.patience=1000"]
    shared += ["--model.init_args.schedule=constant"]  # the cosine would depend on the clock, by max_time
    return subprocess.Popen([*command, *shared], env=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def other_of(process):
    """Number of the process that a process has started and that trains."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return next(int(one) for one in children if b"pyg_schnet.cli" in Path(f"/proc/{one}/cmdline").read_bytes())


def wait_for(path):
    until = time.monotonic() + 240
    while not Path(path).is_file() and time.monotonic() < until:
        time.sleep(0.05)
    assert Path(path).is_file()


def is_there(number):
    return Path(f"/proc/{number}").exists() and ") Z " not in Path(f"/proc/{number}/stat").read_text()


def killed(which):
    """How many epochs a run has in its checkpoint when the first or the other of its processes is killed."""
    process = start(which)
    wait_for(f"{which}/checkpoints/last.ckpt")
    other = other_of(process)
    os.kill(process.pid if which == "first" else other, signal.SIGKILL)
    said = process.communicate(timeout=120)[1]
    until = time.monotonic() + 30
    while is_there(other) and time.monotonic() < until:
        time.sleep(0.1)
    assert not is_there(other)
    assert process.returncode == (-signal.SIGKILL if which == "first" else 1)
    reason = "the first process has been killed" if which == "first" else "has been killed by SIGKILL"
    assert reason in said
    assert said.count("--resume=") == 1
    assert "Traceback" not in said
    return torch.load(f"{which}/checkpoints/last.ckpt", weights_only=True)["epoch"] + 1


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
@pytest.mark.usefixtures("folder")
def test_a_run_survives_a_process_that_is_killed():
    """The rest ends with a sentence, nothing is left over, and the run goes on as though nothing had been."""
    epochs = 2 + max(killed("first"), killed("other"))
    starts = [start(run, f"--resume={run}/checkpoints/last.ckpt", epochs=epochs) for run in ("first", "other")]
    starts.append(start("whole", epochs=epochs))
    said = [one.communicate(timeout=400)[1] for one in starts]
    assert [one.returncode for one in starts] == [0, 0, 0], said
    expected = load_file("whole/model.safetensors")
    for run in ("first", "other"):
        found = load_file(f"{run}/model.safetensors")
        assert found.keys() == expected.keys()
        assert all((found[name] == expected[name]).all() for name in found), run
        assert json.loads(Path(run, "result.json").read_text())["training"]["epochs"] == epochs


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
@pytest.mark.usefixtures("folder")
def test_a_signal_to_the_other_process_ends_the_run():
    process = start("run")
    wait_for("run/checkpoints/last.ckpt")
    os.kill(other_of(process), signal.SIGTERM)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert said.count("ended by SIGTERM; to go on:") == 1
    assert "Traceback" not in said


@pytest.mark.usefixtures("folder")
def test_99_processes_are_refused_at_once(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with pytest.raises(SystemExit, match=r"--trainer\.devices=99 asks for as many processes"):
        main(options("run", "--trainer.devices=99"))
    assert not Path("run").exists()
