"""What the benchmark of the calculator compares is the same potential, and it measures what it says."""

import sys
from pathlib import Path

import ase.io
import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def calculator(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    import calculator

    yield calculator
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_calculators_agree_and_disagreement_is_noticed(calculator):
    atoms = ase.io.read(calculator.ASPIRIN)
    ours, theirs = calculator.pair_of_calculators(torch.float64, 16)
    assert calculator.check(atoms, ours, theirs, 1e-5) < 1e-5
    costs = calculator.overhead(atoms.copy(), ours, 3)
    assert costs["beyond_potential"] == costs["forces"]["median"] - costs["potential"]["median"]
    times = calculator.dynamics(atoms, {"PyG": theirs, "ours": ours}, 2, 0.0)
    assert {name: len(values) for name, values in times.items()} == {"PyG": 2, "ours": 2}
    theirs.model.lin1.weight.mul_(1.1)
    theirs.reset()
    with pytest.raises(SystemExit, match="forces differ"):
        calculator.check(atoms, ours, theirs, 1e-5)
