"""A run that is stopped at any step goes on as though it had not been."""

from itertools import pairwise

import pytest
import torch

from pyg_schnet.train import LastCheckpoint
from pyg_schnet.train.best_checkpoint import ModelCheckpoint
from pyg_schnet.train.last_checkpoint import is_within_epoch

from .small_runs import fit, weights

pytestmark = pytest.mark.filterwarnings("ignore:.*isinstance\\(treespec, LeafSpec\\).*", "ignore:.*many workers.*",
    "ignore:Checkpoint directory .* exists and is not empty", "ignore:.*could not find the monitored key")  # fmt: skip


def assert_same(one, other):
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def read(path):
    return torch.load(path, weights_only=True)


OPTIONS = {
    "plain": {},
    "accumulated": {"accumulate_grad_batches": 2},
    "validated within epochs": {"val_check_interval": 2},
    "validated in every step": {"val_check_interval": 1},
    "a part of each epoch": {"limit_train_batches": 3},
    "ended by steps": {"max_epochs": -1, "max_steps": 10},
    "validated by steps": {"max_epochs": -1, "max_steps": 10, "check_val_every_n_epoch": None, "val_check_interval": 3},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_resumed_run_ends_with_the_same_weights(name, tmp_path):
    """Batches, random numbers, averages, rates and the best epoch are those of a run that was never stopped."""
    options = OPTIONS[name]
    task, trainer, steps, _ = fit(tmp_path / "whole", **options)
    total = trainer.global_step
    best = read(tmp_path / "whole" / "best.ckpt")
    folder, energies = tmp_path / "stopped", []
    stops = range(1, total) if name == "plain" else [step for step in (1, 3, 4, 6) if step < total]
    for before, step in pairwise([0, *stops, None]):
        again, other, part, stopped = fit(folder, folder / "last.ckpt" if before else None, stop_at=step, **options)
        assert stopped == (step is not None)
        energies += part.energies
        assert energies == steps.energies[: len(energies)], step
    assert energies == steps.energies
    assert other.global_step == total
    assert_same(weights(task), weights(again))
    found = read(folder / "best.ckpt")
    assert (found["epoch"], found["global_step"]) == (best["epoch"], best["global_step"])
    assert_same(best["state_dict"], found["state_dict"])


def test_a_run_ended_by_steps_goes_on_within_its_epoch(tmp_path):
    _, _, whole, _ = fit(tmp_path / "whole", max_epochs=-1, max_steps=10)
    _, _, first, _ = fit(tmp_path / "cut", max_epochs=-1, max_steps=6)
    assert is_within_epoch(read(tmp_path / "cut" / "last.ckpt"))
    _, trainer, second, _ = fit(tmp_path / "cut", tmp_path / "cut" / "last.ckpt", max_epochs=-1, max_steps=10)
    assert first.energies + second.energies == whole.energies
    assert trainer.global_step == 10


@pytest.mark.parametrize("at_end", [True, False])
def test_checkpoints_of_the_best_epochs_go_on_as_well(at_end, tmp_path):
    """Whether they are saved after a validation or after the epoch."""
    every = ModelCheckpoint(tmp_path, "{epoch}", "val/loss", save_top_k=-1, save_on_train_epoch_end=at_end)
    task, _, whole, _ = fit(tmp_path, best=every)
    for epoch in (0, 1):
        again, _, steps, _ = fit(tmp_path / "again", tmp_path / f"epoch={epoch}.ckpt")
        assert steps.energies == whole.energies[4 * (epoch + 1) :]
        assert_same(weights(task), weights(again))


def test_long_epochs_are_saved_by_time(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(LastCheckpoint, "_save", lambda self, trainer: saved.append(trainer.global_step))
    fit(tmp_path, minutes=0.0, max_epochs=1)
    assert saved == [1, 2, 3, 4]  # the last one at the end of the epoch
    saved.clear()
    fit(tmp_path, minutes=1000.0, max_epochs=2)
    assert saved == [4, 8]


def test_minutes_are_not_negative():
    with pytest.raises(ValueError, match="minutes between two checkpoints must not be negative, got -1"):
        LastCheckpoint(minutes=-1)
