"""What the speed benchmark compares is the same function."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def speed(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    import speed

    yield speed
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize("name", ["train-cfconv", "energy-cfconv", "forces-aspirin-frozen", "train-forces-aspirin"])
def test_peers_agree_and_disagreement_is_noticed(speed, name):
    workload = speed.WORKLOADS[name]
    system = speed.Structures(None).aspirin(2, workload.cutoff)
    model = speed.pyg_model(workload.cutoff, 16)
    peers = [kind(model, system) for kind in workload.kinds or (speed.PyG, speed.Ours)]
    deviations = speed.check(workload.task, peers)
    assert list(deviations) == [peers[1].name]
    next(peers[0].model.parameters()).data.mul_(1.01)
    with pytest.raises(SystemExit):
        speed.check(workload.task, peers)


def test_a_peer_without_an_energy_cannot_be_made(speed):
    from peers import Peer

    class Converted(Peer):
        def convert(self, model):
            return model

    with pytest.raises(TypeError, match=r"abstract method.*energy"):
        Converted(None, None)
