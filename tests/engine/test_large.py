"""The program for large structures gives the numbers of the others, in less memory, for any number of threads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pyg_schnet import radius_graph
from pyg_schnet.backends import tuning
from pyg_schnet.derivatives import energy_forces_stress
from pyg_schnet.engine.frozen import freeze
from pyg_schnet.engine.large import order_in_space
from pyg_schnet.potential import Potential

from .models import F64, POS, Z, by_layers, make

ALL = {"serial_work": 0, "recompute_atoms": 1}
CELL = torch.tensor([[[4.1, 0.0, 0.0], [1.3, 3.9, 0.0], [-0.7, 0.4, 5.2]]], dtype=F64)


def crystal(count=1, pbc=(True, True, True), seed=0):
    """Structures of two elements in a triclinic cell, some atoms outside of it."""
    generator = torch.Generator().manual_seed(seed)
    cell = CELL * torch.linspace(1.0, 1.1, count, dtype=F64).view(-1, 1, 1)
    grid = torch.cartesian_prod(*3 * [torch.arange(2)]).to(F64) / 2
    frac = grid + 0.1 * torch.rand(count, 8, 3, generator=generator, dtype=F64)
    frac[:, 3] += torch.tensor([2.0, 0.0, -1.0], dtype=F64) * torch.tensor(pbc)
    pos = torch.einsum("bnk,bkd->bnd", frac, cell).reshape(-1, 3)
    z = torch.tensor([11, 17, 11, 17, 17, 11, 17, 11]).repeat(count)
    return {
        "z": z,
        "pos": pos,
        "batch": torch.arange(count).repeat_interleave(8),
        "cell": cell,
        "pbc": torch.tensor(pbc).repeat(count, 1),
        "batch_size": count,
    }


def with_edges(given, cutoff=4.0):
    graph = {name: given[name] for name in ("batch", "cell", "pbc", "batch_size")}
    edge_index, edge_shift = radius_graph(given["pos"], cutoff, **graph)
    return {**given, "edge_index": edge_index, "edge_shift": edge_shift}


MOLECULE = {"z": Z, "pos": POS}
SYSTEMS = {
    "molecule": (MOLECULE, False),
    "crystal": (with_edges(crystal()), True),
    "edges are searched": (crystal(), True),
    "slab": (with_edges(crystal(pbc=(True, True, False))), False),
    "several cells": (with_edges(crystal(5)), True),
}


def program_of(model, given):
    """The program that a call with forces takes."""
    return model.plan(**given, forces=True).program


@pytest.mark.parametrize("options", [{}, {"readout": "mean"}, {"normalize": True}, {"shared_weights": True}], ids=str)
@pytest.mark.parametrize("name", SYSTEMS)
def test_results_are_those_of_the_layers(name, options):
    (given, stress), model = SYSTEMS[name], make(**options)
    with tuning.changed(**ALL):
        assert program_of(model, given) == "large"
        assert_equal_to_layers(model, given, stress)


@pytest.mark.parametrize("name", ["crystal", "edges are searched", "several cells"])
def test_repulsion_is_added(name):
    given, model = SYSTEMS[name][0], make(repulsion=True)
    without = energy_forces_stress(make(), **given).energy
    with tuning.changed(**ALL):
        assert program_of(model, given) == "large"
        assert_equal_to_layers(model, given, stress=True)
        assert (energy_forces_stress(model, **given).energy > without + 1e-3).all()


@pytest.mark.parametrize("name", ["crystal", "several cells", "slab"])
def test_edges_in_any_order(name):
    given, model = SYSTEMS[name][0], make()
    order = torch.randperm(given["edge_index"].size(1), generator=torch.Generator().manual_seed(0))
    shuffled = {**given, "edge_index": given["edge_index"][:, order], "edge_shift": given["edge_shift"][order]}
    directed = {**shuffled, "edge_index": shuffled["edge_index"][:, 1:], "edge_shift": shuffled["edge_shift"][1:]}
    odd = {**shuffled, "edge_index": shuffled["edge_index"][:, 2:], "edge_shift": shuffled["edge_shift"][2:]}
    with tuning.changed(**ALL):
        assert program_of(model, shuffled) == "large"
        assert_equal_to_layers(model, shuffled)
        for graph in (directed, odd):  # some edges have no opposite one
            assert program_of(model, graph) == "interactions"
            assert_equal_to_layers(model, graph)


def assert_equal_to_layers(model, given, stress=False):
    expected = energy_forces_stress(by_layers(model), **given, stress=stress)
    found = energy_forces_stress(model, **given, stress=stress)
    for value, right in zip(found, expected, strict=True):
        if right is not None:
            torch.testing.assert_close(value, right, rtol=1e-10, atol=1e-10)


def test_results_are_those_of_kept_activations():
    given, model = with_edges(crystal(3)), make()
    with tuning.changed(serial_work=0, recompute_atoms=10**9):
        assert program_of(model, given) == "interactions"
        expected = energy_forces_stress(model, **given, stress=True)
    with tuning.changed(**ALL):
        found = energy_forces_stress(model, **given, stress=True)
    for value, right in zip(found, expected, strict=True):
        torch.testing.assert_close(value, right, rtol=1e-10, atol=1e-12)


def test_single_precision():
    given, model = with_edges(crystal(2)), make()
    expected = energy_forces_stress(by_layers(model), **given, stress=True)
    short = {name: value.float() if name in ("pos", "cell") else value for name, value in given.items()}
    with tuning.changed(**ALL):
        found = energy_forces_stress(model.float(), **short, stress=True)
    for value, right in zip(found, expected, strict=True):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.to(F64), right, rtol=1e-5, atol=1e-5 * float(right.abs().max()))


def test_forces_are_differences_of_energies():
    given, model, step = crystal(), make(), 1e-4
    with tuning.changed(**ALL):
        forces = energy_forces_stress(model, **given).forces
        for atom, axis in ((0, 0), (3, 1), (6, 2)):
            energies = []
            for sign in (1, -1):
                moved = given["pos"].clone()
                moved[atom, axis] += sign * step
                energies.append(energy_forces_stress(model, **{**given, "pos": moved}).energy)
            slope = float(energies[0] - energies[1]) / (2 * step)
            assert float(forces[atom, axis]) == pytest.approx(-slope, rel=1e-5, abs=1e-6)


def test_the_number_of_threads_changes_no_bit():
    given, model = with_edges(crystal(30)), make()
    before, found = torch.get_num_threads(), []
    try:
        with tuning.changed(**ALL):
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                found.append(energy_forces_stress(model, **given, stress=True))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(map(torch.equal, other, found[0]))


def test_potentials_take_it_by_size():
    model, given = make(), with_edges(crystal(4))
    assert freeze(model).plan(**given, forces=True).program == "potential"
    potential = Potential(model, "eV")
    expected = potential(**given, stress=True)
    with tuning.changed(serial_work=0, recompute_atoms=32):
        assert potential.model.plan(**given, forces=True).program == "large"
        found = potential(**given, stress=True)
    with tuning.changed(serial_work=0, recompute_atoms=33):
        assert potential.model.plan(**given, forces=True).program == "interactions"
    for value, right in zip(found, expected, strict=True):
        torch.testing.assert_close(value, right, rtol=1e-10, atol=1e-10)


def test_other_calls_are_computed_as_before():
    given, model = with_edges(crystal()), make()
    with tuning.changed(**ALL):
        assert model.plan(**given).program == "interactions"
        assert model.plan(**given, forces=True, create_graph=True).program == "interactions"
        padded = {**given, "z": torch.cat([given["z"][:-1], torch.zeros(1, dtype=torch.int64)])}
        expected = energy_forces_stress(by_layers(model), **padded)
        torch.testing.assert_close(energy_forces_stress(model, **padded).forces, expected.forces, rtol=1e-9, atol=1e-9)
        with pytest.raises(ValueError, match="z must lie between 0"):
            energy_forces_stress(model, **{**given, "z": given["z"] + 99})
        with pytest.raises(ValueError, match="energy"):
            Potential(model, "eV")(**{**given, "pos": given["pos"] * torch.nan})


def test_order_in_space():
    generator = torch.Generator().manual_seed(0)
    pos = 40.0 * torch.rand(3000, 3, generator=generator) - 20.0
    batch = torch.arange(3).repeat_interleave(1000)
    order = order_in_space(pos, batch)
    assert torch.equal(order.sort().values, torch.arange(3000))
    assert torch.equal(batch[order], batch)
    steps = (pos[order][1:] - pos[order][:-1]).norm(dim=1)
    assert steps.median() < 0.25 * (pos[1:] - pos[:-1]).norm(dim=1).median()


PEAK = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from memory import reset_peak, resident
from systems import silicon_atoms
import torch
from pyg_schnet import SchNet, radius_graph
from pyg_schnet.backends import tuning
from pyg_schnet.potential import Potential
torch.manual_seed(0)
potential = Potential(SchNet(128, 128, 6, 50, 5.0), "eV", dtype=torch.float32)
def peak(count, **changes):
    atoms = silicon_atoms(count)
    z, pos = torch.from_numpy(atoms.numbers).long(), torch.from_numpy(atoms.positions).float()
    lattice = {"cell": torch.from_numpy(atoms.cell.array).float()[None], "pbc": torch.ones(1, 3, dtype=torch.bool)}
    edge_index, edge_shift = radius_graph(pos, 5.0, **lattice)
    with tuning.changed(**changes):
        reset_peak()
        before = resident("VmRSS")
        potential(z, pos, edge_index=edge_index, edge_shift=edge_shift, **lattice)
        return (resident("VmHWM") - before) * 1024 / len(z)
peak(3, recompute_atoms=1)
large = peak(13, recompute_atoms=1)
peak(3, recompute_atoms=10**9)
print(json.dumps([large, peak(13, recompute_atoms=10**9)]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from /proc")
def test_memory_of_an_atom():
    benchmarks = Path(__file__).parents[2] / "benchmarks"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PEAK, str(benchmarks)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    large, kept = json.loads(done.stdout.splitlines()[-1])  # KiB an atom
    assert large < 14 < kept
