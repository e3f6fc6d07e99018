"""How far simulations and reference data are: a line a minute, or a bar in a terminal."""

import sys
import time

import pytest

from pyg_schnet.cli._reference import _Shown
from pyg_schnet.data.reference import Done
from pyg_schnet.interfaces.dynamics.progress import Progress, StepProgress


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_line_of_a_simulation_a_minute(clock, capsys):
    shown = StepProgress(100, 5000, 0.5)
    for step in range(101, 301):
        clock[0] += 1.0
        shown(step)
    shown.close()
    assert capsys.readouterr().err.splitlines() == [
        f"step {step} of 5,000, {step / 2000:.4g} ps, 1 steps/s, 0.0432 ns/day" for step in (160, 220, 280)
    ]


def test_a_line_of_reference_data_a_minute(clock, capsys):
    shown = _Shown(2000)
    for shard in range(1, 5):
        clock[0] += 40.0
        shown(Done(shard, 40, 50 * shard, {"kept": {"modes": 800 * shard}}, 800 * shard, 40.0 * shard))
    shown.close()
    assert shown.shards == 4
    assert capsys.readouterr().err.splitlines() == [
        f"{done} of 2,000 molecules, {16 * done:,} labels, 72,000 an hour" for done in (100, 200)
    ]


def test_a_bar_in_a_terminal(clock, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    said = []
    shown = Progress("step", 10, first=2)
    for step in range(3, 9):
        clock[0] += 0.3
        shown(step, lambda step=step: (said.append(step) or f"beside {step}", "line"))
    assert said == [4, 6, 8]
    assert (shown._bar.n, shown._bar.postfix) == (8, "beside 8")
    shown.close()
    assert "line" not in capsys.readouterr().err


def test_nothing_is_shown(clock, capsys):
    shown = StepProgress(0, 10, 1.0, shown=False)
    clock[0] += 1e6
    shown(5)
    shown.close()
    assert capsys.readouterr().err == ""
