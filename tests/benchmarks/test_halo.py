"""The model of LAMMPS' step on many ranks: its halo counted, its limits, its parts."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from pyg_schnet.interfaces.lammps import ExchangePlan

from ..interfaces.ranks import World

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def halo(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("halo")


@pytest.fixture
def costs(halo):
    return halo.Costs(fixed=1e-3, atom=1e-4, row=1e-6)


def test_rows_are_those_of_a_plan(halo):
    model = halo.Model(cutoff=4.0, skin=0.5)
    edge = 24.0
    n_atoms = round(edge**3 * model.density)
    positions = np.random.default_rng(0).uniform(0.0, edge, (n_atoms, 3))
    cube = (2 * positions // edge).astype(int)  # eight cubes
    domain = cube @ [4, 2, 1]

    def build(comm):
        own = np.flatnonzero(domain == comm.rank)
        middle = (cube[own[0]] + 0.5) * edge / 2
        away = positions - middle
        away -= edge * np.round(away / edge)
        near = (abs(away) < 0.25 * edge + model.cutoff + model.skin).all(1)
        return ExchangePlan(comm, own, np.setdiff1d(np.flatnonzero(near), own)).num_remote

    found = World(8).run(build)
    assert np.mean(found) == pytest.approx(halo.halo_rows(n_atoms / 8, model), rel=0.1)


def test_efficiency_falls_with_ranks_and_grows_with_atoms(halo, costs):
    values = [halo.efficiency(10**7, n, costs, halo.Model(), halo.NODES) for n in (1, 64, 1024, 10**5)]
    assert values == sorted(values, reverse=True)
    assert 0.99 < values[0] < 1.0
    assert values[-1] < 0.6
    assert halo.efficiency(10**9, 64, costs, halo.Model(), halo.NODES) > values[1]


def test_parts_of_a_step(halo, costs):
    model, network = halo.Model(blocks=3, filters=10, num_bytes=4), halo.Network(1e-6, 1e9, 4)
    parts = halo.step(8000, 8, costs, model, network, rows=100)
    assert parts == pytest.approx(
        {
            "fixed": 1e-3,
            "atoms": 0.1,
            "rows": 1e-4,
            "latency": 1e-6 * (5 * 7 + 6),  # 5 exchanges with 7 others, a sum over 8
            "bytes": 100 * (2 * 2 * 10 * 4 + 48) * 4 / 1e9,
        }
    )
    assert halo.ranks_around(10, model) > halo.ranks_around(10**6, model) == 26
