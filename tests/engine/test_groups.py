"""Batches that threads evaluate a few structures at a time give the numbers of all at once."""

import importlib
import threading
import time

import numba
import pytest
import torch

from pyg_schnet import radius_graph
from pyg_schnet.backends import tuning
from pyg_schnet.backends.numba.lib import parallel
from pyg_schnet.derivatives import energy_forces_stress
from pyg_schnet.engine.groups import pairs_of_largest

from .models import F64, make
from .test_large import crystal, with_edges

KERNELS = importlib.import_module("pyg_schnet.backends.numba.potential")
SIZES = (3, 1, 5, 0, 7, 2)  # one structure has no atoms


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def molecules(seed=0):
    generator = torch.Generator().manual_seed(seed)
    pos = torch.cat([1.2 * torch.randn(size, 3, generator=generator, dtype=F64) for size in SIZES])
    z = torch.randint(1, 9, (len(pos),), generator=generator)
    batch = torch.arange(len(SIZES)).repeat_interleave(torch.tensor(SIZES))
    return {"z": z, "pos": pos, "batch": batch, "batch_size": len(SIZES)}


SYSTEMS = {
    "molecules": (molecules(), False),
    "crystals": (with_edges(crystal(5)), True),
    "slabs": (with_edges(crystal(3, pbc=(True, True, False))), True),
}


def calls(monkeypatch):
    """Bounds of the groups of structures in each call of the kernels."""
    bounds, divide = [], KERNELS._groups

    def noted(*given):
        found = divide(*given)
        bounds.append([structure for structure, _ in found])
        return found

    monkeypatch.setattr(KERNELS, "_groups", noted)
    return bounds


@pytest.mark.parametrize(("given", "stress"), SYSTEMS.values(), ids=SYSTEMS)
@pytest.mark.parametrize("atoms", [1, 8, 17])
def test_groups_give_the_numbers_of_all_at_once(given, stress, atoms, threads, monkeypatch):
    model = make()
    expected = energy_forces_stress(model, **given, stress=stress)
    bounds = calls(monkeypatch)
    with tuning.changed(atoms_of_group=atoms, serial_work=0 if threads > 1 else tuning.current.serial_work):
        monkeypatch.setattr("pyg_schnet.engine.cache.is_small", lambda *_: True)  # though threads are used for them
        assert model.plan(**given, forces=True).program == "potential"
        found = energy_forces_stress(model, **given, stress=stress)
    ((first, *middle, last),) = bounds
    assert middle
    assert (first, last) == (0, given["batch_size"])
    for one, other in zip(found, expected, strict=True):
        if other is not None:
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_threads_take_groups(threads, monkeypatch):
    model, given, seen = make(), molecules(), set()
    evaluate = KERNELS._evaluate.kernel

    def noted(*arguments):
        seen.add(threading.current_thread())
        time.sleep(0.05)  # so that the other thread takes one, too
        return evaluate(*arguments)

    monkeypatch.setattr(KERNELS, "_evaluate", noted)
    with tuning.changed(serial_work=300, atoms_of_group=4):  # less than all pairs and filters, more than those of one
        energy_forces_stress(model, **given)
    several = min(threads, numba.config.NUMBA_NUM_THREADS)
    assert len(seen) == several
    assert (threading.main_thread() in seen) == (several == 1)


def test_an_element_without_embedding_is_found_in_any_group(threads):
    model, given = make(), molecules()
    given["z"][-1] = 10_000
    with tuning.changed(serial_work=300, atoms_of_group=4), pytest.raises(ValueError, match="10000"):
        energy_forces_stress(model, **given)


def test_many_small_structures_are_evaluated_in_groups(threads):
    """So many that all at once would be large are small by themselves; one of this size is not."""
    model, given = make(), molecules()
    with tuning.changed(serial_work=1_000):
        assert model.plan(**given, forces=True).program == "potential"
        whole = {**given, "batch": torch.zeros_like(given["batch"]), "batch_size": 1}
        assert model.plan(**whole, forces=True).program == "interactions"


def test_groups_are_of_about_equal_size():
    batch = molecules()["batch"]  # structures of 3, 1, 5, 0, 7 and 2 atoms
    with tuning.changed(atoms_of_group=9):
        assert KERNELS._groups(batch, len(SIZES), 1) == [(0, 0), (3, 9), (6, 18)]
    with tuning.changed(atoms_of_group=4):
        assert KERNELS._groups(batch, len(SIZES), 1) == [(0, 0), (1, 3), (3, 9), (5, 16), (6, 18)]
    assert KERNELS._groups(batch, len(SIZES), 1) == [(0, 0), (6, 18)]
    assert KERNELS._groups(batch, len(SIZES), 2) == [(0, 0), (3, 9), (6, 18)]
    assert KERNELS._groups(batch[:0], 0, 2) == [(0, 0), (0, 0)]
    with tuning.changed(atoms_of_group=4):
        assert KERNELS._groups(batch.flip(0), len(SIZES), 1) == [(0, 0), (6, 18)]  # not sorted: all at once


def skewed():
    """One structure of 60 atoms and 40 single atoms: on average they are small."""
    generator = torch.Generator().manual_seed(1)
    pos = 2.0 * torch.randn(100, 3, generator=generator, dtype=F64)
    batch = torch.cat([torch.arange(20), torch.full((60,), 20), torch.arange(21, 41)])
    return {"z": torch.ones(100, dtype=torch.int64), "pos": pos, "batch": batch, "batch_size": 41}


@pytest.mark.parametrize("is_searched", [True, False])
def test_the_largest_structure_decides(is_searched, threads, monkeypatch):
    model, given = make(), skewed()
    graph = {} if is_searched else {"edge_index": radius_graph(given["pos"], 4.0, given["batch"], batch_size=41)}
    expected = energy_forces_stress(model, **given, **graph)
    bounds = calls(monkeypatch)
    with tuning.changed(serial_work=2_000, recompute_atoms=100):
        assert model.plan(**given, **graph, forces=True).program == "large"
        found = energy_forces_stress(model, **given, **graph)
    assert bounds == []
    torch.testing.assert_close(found.forces, expected.forces, rtol=1e-10, atol=1e-10)
    with tuning.changed(serial_work=12 * 60 * 60, recompute_atoms=100):  # pairs and filters of the largest one
        assert model.plan(**given, **graph, forces=True).program == "potential"


def test_edges_are_counted_in_each_structure():
    batch, edges = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([[1, 0, 4, 2, 2], [0, 1, 2, 3, 4]])
    assert pairs_of_largest(batch, 2, edges) == 1
    assert pairs_of_largest(batch, 2, None) == 3
    assert pairs_of_largest(batch, None, None) == 3
    for one, size in ((None, 2), (batch, 1), (batch.flip(0), 2), (batch[:0], None), (batch - 7, None), (batch, 0)):
        assert pairs_of_largest(one, size, None) is None


def test_the_number_of_structures_need_not_be_given(threads, monkeypatch):
    model, given = make(), molecules()
    bounds = calls(monkeypatch)
    with tuning.changed(serial_work=1_000, atoms_of_group=4):
        model.energy_and_gradients(given["z"], given["pos"], given["batch"])
    assert len(bounds[0]) > 2  # as the plan says


def test_a_forked_process_has_one_thread(threads, monkeypatch):
    model, given = make(), molecules()
    torch.set_num_threads(2)
    monkeypatch.setattr(parallel, "_forked", True)
    with tuning.changed(serial_work=1_000):
        assert model.plan(**given, forces=True).program == "potential"
