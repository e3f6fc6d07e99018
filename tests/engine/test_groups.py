"""Batches that one thread evaluates a few structures at a time give the numbers of all at once."""

import numba
import pytest
import torch

from pyg_schnet import radius_graph
from pyg_schnet.backends import tuning
from pyg_schnet.backends.numba.lib import parallel
from pyg_schnet.derivatives import energy_forces_stress
from pyg_schnet.engine import groups
from pyg_schnet.engine.groups import _ends, pairs_of_largest

from .models import F64, make
from .test_large import crystal, with_edges

SIZES = (3, 1, 5, 0, 7, 2)  # one structure has no atoms


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
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
    """How many structures each call of the kernels has."""
    sizes, compute = [], groups.potential

    def counted(pos, z, batch, batch_size, *rest, **options):
        sizes.append(batch_size)
        return compute(pos, z, batch, batch_size, *rest, **options)

    monkeypatch.setattr(groups, "potential", counted)
    return sizes


@pytest.mark.parametrize(("given", "stress"), SYSTEMS.values(), ids=SYSTEMS)
@pytest.mark.parametrize("atoms", [1, 8, 17])
def test_groups_give_the_numbers_of_all_at_once(given, stress, atoms, one_thread, monkeypatch):
    model = make()
    expected = energy_forces_stress(model, **given, stress=stress)
    sizes = calls(monkeypatch)
    with tuning.changed(atoms_of_group=atoms):
        assert model.plan(**given, forces=True).program == "potential"
        found = energy_forces_stress(model, **given, stress=stress)
    assert len(sizes) > 1
    assert sum(sizes) == given["batch_size"]
    for one, other in zip(found, expected, strict=True):
        if other is not None:
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_many_small_structures_are_evaluated_in_one_call_each_group(one_thread):
    """So many that all at once would be large are small by themselves; one of this size is not."""
    model, given = make(), molecules()
    with tuning.changed(serial_work=1_000):
        assert model.plan(**given, forces=True).program == "potential"
        whole = {**given, "batch": torch.zeros_like(given["batch"]), "batch_size": 1}
        assert model.plan(**whole, forces=True).program == "interactions"
        torch.set_num_threads(2)
        several = numba.config.NUMBA_NUM_THREADS > 1
        assert model.plan(**given, forces=True).program == ("interactions" if several else "potential")


def test_groups_are_as_large_as_they_may_be():
    batch = molecules()["batch"]  # structures of 3, 1, 5, 0, 7 and 2 atoms
    with tuning.changed(atoms_of_group=9):
        assert _ends(batch, len(SIZES)) == [(0, 0), (4, 9), (6, 18)]
    with tuning.changed(atoms_of_group=4):
        assert _ends(batch, len(SIZES)) == [(0, 0), (2, 4), (3, 9), (5, 16), (6, 18)]
    assert _ends(batch, len(SIZES)) == [(0, 0), (6, 18)]
    with tuning.changed(atoms_of_group=4):
        assert _ends(batch.flip(0), len(SIZES)) == [(0, 0), (6, 18)]  # not sorted: all at once


def skewed():
    """One structure of 60 atoms and 40 single atoms: on average they are small."""
    generator = torch.Generator().manual_seed(1)
    pos = 2.0 * torch.randn(100, 3, generator=generator, dtype=F64)
    batch = torch.cat([torch.arange(20), torch.full((60,), 20), torch.arange(21, 41)])
    return {"z": torch.ones(100, dtype=torch.int64), "pos": pos, "batch": batch, "batch_size": 41}


@pytest.mark.parametrize("is_searched", [True, False])
def test_the_largest_structure_decides(is_searched, one_thread, monkeypatch):
    model, given = make(), skewed()
    graph = {} if is_searched else {"edge_index": radius_graph(given["pos"], 4.0, given["batch"], batch_size=41)}
    expected = energy_forces_stress(model, **given, **graph)
    sizes = calls(monkeypatch)
    with tuning.changed(serial_work=2_000, recompute_atoms=100):
        assert model.plan(**given, **graph, forces=True).program == "large"
        found = energy_forces_stress(model, **given, **graph)
    assert sizes == []
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


def test_the_number_of_structures_need_not_be_given(one_thread, monkeypatch):
    model, given = make(), molecules()
    sizes = calls(monkeypatch)
    with tuning.changed(serial_work=1_000, atoms_of_group=4):
        model.energy_and_gradients(given["z"], given["pos"], given["batch"])
    assert len(sizes) > 1  # as the plan says


def test_a_forked_process_has_one_thread(one_thread, monkeypatch):
    model, given = make(), molecules()
    torch.set_num_threads(2)
    monkeypatch.setattr(parallel, "_forked", True)
    with tuning.changed(serial_work=1_000):
        assert model.plan(**given, forces=True).program == "potential"
