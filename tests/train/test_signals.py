"""Signals are noted in training and end the command elsewhere."""

import os
import signal

import pytest
import torch
from lightning.pytorch import Callback

from pyg_schnet.train.signals import NAMES, Ended, Signals

from .small_runs import fit

quiet = pytest.mark.filterwarnings("ignore:.*isinstance\\(treespec, LeafSpec\\).*", "ignore:.*many workers.*")


@pytest.fixture(autouse=True)
def as_in_a_terminal():
    """Background jobs and nohup ignore some signals, and so would the tests."""
    before = {name: signal.signal(getattr(signal, name), signal.SIG_DFL) for name in NAMES if name != "SIGINT"}
    before["SIGINT"] = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for name, handler in before.items():
        signal.signal(getattr(signal, name), handler)


def send(name):
    os.kill(os.getpid(), getattr(signal, name))


@pytest.mark.parametrize("name", NAMES)
def test_outside_of_training_a_signal_ends_the_command(name):
    before = signal.getsignal(getattr(signal, name))
    with pytest.raises(Ended) as ended, Signals():
        send(name)
    assert ended.value.code == 128 + getattr(signal, name)
    assert ended.value.name == name
    assert signal.getsignal(getattr(signal, name)) == before


@pytest.mark.parametrize("name", NAMES)
def test_in_training_a_signal_is_noted(name, capfd):
    with Signals() as signals:
        signals.wait_for_step()
        send(name)
        assert signals.received == getattr(signal, name)
        assert f"{name}: finishing the step" in capfd.readouterr().err
        if name != "SIGINT":
            send(name)  # schedulers repeat themselves
        with pytest.raises(Ended) as ended:
            signals.end_at_once()
    assert ended.value.code == 128 + getattr(signal, name)


def test_a_second_ctrl_c_ends_at_once():
    def twice():
        with Signals() as signals:
            signals.wait_for_step()
            send("SIGINT")
            send("SIGINT")

    with pytest.raises(Ended) as ended:
        twice()
    assert ended.value.code == 130


def test_signals_that_are_ignored_stay_so():
    """As SIGHUP under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            signals.wait_for_step()
            send("SIGHUP")
            assert signals.received is None
    finally:
        signal.signal(signal.SIGHUP, before)


@quiet
@pytest.mark.parametrize("step", [2, 4])  # within an epoch, and at the end of one
def test_the_step_is_finished_and_saved(step, tmp_path):
    *_, stopped = fit(tmp_path, stop_at=step)
    assert stopped
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == step


class Send(Callback):
    """Sends a real signal to the process in a step."""

    def __init__(self, name):
        self.name = name

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == 5:
            send(self.name)


@quiet
@pytest.mark.parametrize("name", NAMES)
def test_lightning_does_not_answer_in_our_place(name, tmp_path):
    """It ends a run on SIGTERM without a checkpoint, and on Ctrl-C with another exit code."""
    with Signals() as signals:
        *_, stopped = fit(tmp_path, signals=signals, more=[Send(name)])
    assert stopped
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 6
    assert signals.received == getattr(signal, name)
