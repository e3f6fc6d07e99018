"""Two processes learn what one learns from the same batches."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyg_schnet.data.loader import collate_indices
from pyg_schnet.data.store import StructureStore
from pyg_schnet.train.batches import EpochShuffle, ResumedBatches
from pyg_schnet.train.parts import RankBatches, balanced_parts, evaluation_parts, loads_in_memory, loads_of_batch

from .ddp_steps import NUMBER, TASKS, dataset, fit

ROOT = Path(__file__).parents[2]
quiet = pytest.mark.filterwarnings("ignore:.*isinstance\\(treespec, LeafSpec\\).*", "ignore:.*many workers.*")


@given(st.lists(st.integers(0, 500), min_size=4, max_size=60), st.integers(1, 4))
@settings(max_examples=60)
def test_parts_have_each_structure_once_and_are_about_equal(loads, number):
    parts = balanced_parts(np.array(loads), number)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(loads)))
    assert all(len(part) for part in parts)
    sums = [sum(loads[k] for k in part) for part in parts]
    assert max(sums) <= max(max(loads), 4 / 3 * (sum(loads) / number + max(loads)))
    assert max(sums) - min(sums) <= max(loads)


def test_fewer_structures_than_processes_cannot_be_divided():
    with pytest.raises(ValueError, match="2 structures cannot be divided among 3 processes"):
        balanced_parts(np.ones(2), 3)


@given(st.integers(0, 50), st.integers(1, 9), st.integers(1, 5))
@settings(max_examples=100)
def test_an_evaluation_takes_each_structure_once_in_as_many_batches(size, batch_size, number):
    parts = evaluation_parts(size, batch_size, number)
    assert sorted(k for part in parts for batch in part for k in batch) == list(range(size))
    assert all(0 < len(batch) <= batch_size + 1 for part in parts for batch in part)
    if size >= number:
        assert len({len(part) for part in parts}) == 1


def test_parts_of_a_batch_are_of_the_batch_of_one_process():
    loads = loads_in_memory(dataset())
    assert loads.tolist() == loads_of_batch(collate_indices(dataset(), range(NUMBER))).tolist()
    whole = ResumedBatches(EpochShuffle(NUMBER, 4), 8, drop_last=True)
    parts = [RankBatches(ResumedBatches(EpochShuffle(NUMBER, 4), 8, drop_last=True), loads, 2, k) for k in range(2)]
    for one in parts:
        one.set_epoch(3)
        one.leave_out(3, 1)
        assert (len(one), one.num_left_out()) == (3, 1)
    whole.sampler.set_epoch(3)
    expected = list(whole)[1:]
    for batch, first, second in zip(expected, *parts, strict=True):
        assert sorted(batch) == sorted(first + second)
        assert abs(loads[first].sum() - loads[second].sum()) <= loads.max()


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What two processes have found, and their folder."""
    folder = tmp_path_factory.mktemp("pair")
    StructureStore.create(folder / "store", dataset()).close()
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    given = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    given |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-W", "ignore", "-m", "tests.train.ddp_steps", str(folder)]
    both = [
        subprocess.Popen(command, cwd=ROOT, env={**given, "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        said = [one.communicate(timeout=400)[1] for one in both]
    finally:
        for one in both:
            one.kill()
    assert [one.returncode for one in both] == [0, 0], said
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)], folder


def far(one, two):
    """Largest relative difference of weights."""
    return max(
        float((one[name] - two[name]).abs().max() / (1e-3 + two[name].abs().max()))
        for name in one
        if one[name].is_floating_point()
    )


@quiet
@pytest.mark.parametrize("kind", TASKS)
def test_two_processes_follow_one(kind, pair, tmp_path):
    """Weights after nine steps to 1e-9 in float64; the largest part of each batch is not twice the smallest."""
    (first, second), _ = pair
    first, second = first[kind], second[kind]
    one = fit(tmp_path, 1, 6, kind)
    assert first["steps"] == second["steps"] == one["steps"] == 9
    for whole, left, right in zip(one["energies"], first["energies"], second["energies"], strict=True):
        assert sorted(whole) == sorted(left + right)
    assert far(first["weights"], second["weights"]) == 0.0
    if kind == "own":  # whose parts of a batch count by their structures, not by their labels
        assert first["metrics"]["val/loss"] == second["metrics"]["val/loss"] > 0
        return
    assert far(first["weights"], one["weights"]) < 1e-9
    assert np.allclose(first["losses"], one["losses"], rtol=1e-6)
    assert first["metrics"].keys() == one["metrics"].keys()
    for name, value in one["metrics"].items():
        if name.startswith("val/"):
            assert first["metrics"][name] == second["metrics"][name] == pytest.approx(value, rel=1e-6)
    for name, value in one.get("test", {}).items():
        assert first["test"][name] == second["test"][name] == pytest.approx(value, rel=1e-6)


@quiet
def test_two_processes_follow_one_in_float32(pair, tmp_path):
    (first, second), _ = pair
    one = fit(tmp_path, 1, 6, "potential", torch.float32)
    assert far(first["single"]["weights"], second["single"]["weights"]) == 0.0
    assert far(first["single"]["weights"], one["weights"]) < 2e-2


@quiet
def test_a_signal_to_one_process_ends_both_and_both_go_on(pair, tmp_path):
    (first, second), folder = pair
    assert first["stopped"]["steps"] == second["stopped"]["steps"] == 4
    assert (first["stopped"]["ended"], second["stopped"]["ended"]) == (("Ended", "143"), ("Ended", "0"))
    for one in (first, second):
        whole, stopped, resumed = one["property"], one["stopped"], one["resumed"]
        assert far(resumed["weights"], whole["weights"]) == 0.0
        assert stopped["energies"] + resumed["energies"] == whole["energies"]
        assert stopped["draws"] + resumed["draws"] == whole["draws"]  # each has a generator of its own
        assert resumed["metrics"] == whole["metrics"]
    assert first["property"]["draws"] != second["property"]["draws"]
    alone = fit(tmp_path, 1, 6, resume=folder / "stopped" / "last.ckpt")  # one process goes on for two
    assert far(alone["weights"], first["property"]["weights"]) < 1e-9


def test_time_ends_both_after_the_same_step(pair):
    (first, second), _ = pair
    assert first["timed"]["steps"] == second["timed"]["steps"] > 0


def test_each_process_reads_what_it_learns_from(pair):
    (first, second), _ = pair
    learned = sum(map(len, second["store"]["energies"]))
    assert len(second["store"]["read"]) <= 1 + learned + 3  # one to see that they are structures, some for validation
    assert len(first["store"]["read"]) > NUMBER
    assert far(first["store"]["weights"], second["store"]["weights"]) == 0.0
    edges = np.array([first["store"]["edges"], second["store"]["edges"]])
    assert (edges.max(0) - edges.min(0) <= 5).all()  # atoms, of which a structure has five at most


def test_a_loss_that_is_no_number_in_one_process_ends_both(pair):
    (first, second), _ = pair
    assert first["diverging"]["ended"][0] == "ValueError"
    assert "training diverged: the norm of the gradients is nan in step 3" in first["diverging"]["ended"][1]
    assert second["diverging"]["ended"] == ("Followed", "1")
