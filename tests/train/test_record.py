import subprocess
from types import SimpleNamespace

import pytest
import torch

import pyg_schnet
from pyg_schnet.train import record as module
from pyg_schnet.train.record import RunRecord, source_commit

TRAINER = SimpleNamespace(current_epoch=2, global_step=20)
TASK = SimpleNamespace(device=torch.device("cpu"))


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    time = SimpleNamespace(now=100.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: time.now)
    return time


def go_on(record, clock, seconds, batches):
    record.on_train_start(TRAINER, TASK)
    for _ in range(batches):
        record.on_train_batch_end(TRAINER, TASK, None, SimpleNamespace(num_graphs=7), 0)
    clock.now += seconds
    state = record.state_dict()
    record.on_train_end(TRAINER, TASK)
    return state


def test_counts_and_rate(clock):
    record = RunRecord()
    go_on(record, clock, seconds=4.0, batches=2)
    clock.now += 1000.0  # testing does not count
    summary = record.summary(TRAINER)
    assert (summary["epochs"], summary["steps"], summary["seconds"]) == (2, 20, 4.0)
    assert summary["structures_per_second"] == 3.5
    assert summary["starts"][0]["version"] == pyg_schnet.__version__
    assert summary["starts"][0]["threads"] == torch.get_num_threads()


def test_resumed_run_goes_on_counting(clock):
    state = go_on(RunRecord(), clock, seconds=4.0, batches=2)
    resumed = RunRecord()
    resumed.load_state_dict(state)
    go_on(resumed, clock, seconds=6.0, batches=3)
    summary = resumed.summary(TRAINER)
    assert summary["seconds"] == 10.0
    assert summary["structures_per_second"] == 3.5
    assert len(summary["starts"]) == 2


def test_commit_of_a_repository(tmp_path, monkeypatch):
    package = tmp_path / "pyg_schnet"
    package.mkdir()
    (package / "__init__.py").write_text("a = 1\n")
    monkeypatch.setattr(module, "__file__", str(package / "train" / "record.py"))
    assert source_commit() is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True)
    commit = source_commit()
    assert len(commit) >= 7
    assert not commit.endswith("+")
    (package / "__init__.py").write_text("a = 2\n")
    assert source_commit() == commit + "+"
