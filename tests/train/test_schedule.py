import itertools
import math

import pytest
import torch
from ase import Atoms
from lightning.pytorch import Callback, Trainer

from pyg_schnet import SchNet
from pyg_schnet.data import AtomsDataset
from pyg_schnet.train import PropertyTask, StructureDataModule
from pyg_schnet.train.schedule import cosine_factor, warm_restart_factor


def test_cosine_rises_then_falls_to_zero():
    factors = [cosine_factor(p / 100, warmup=0.1) for p in range(101)]
    assert factors[0] == 0.0
    assert max(factors) == factors[10] == 1.0
    assert factors[100] == pytest.approx(0.0, abs=1e-12)
    assert all(a <= b for a, b in itertools.pairwise(factors[:11]))
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))


def test_cosine_outside_training_stays_at_its_ends():
    assert cosine_factor(-1.0) == 1.0
    assert cosine_factor(2.0) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("multiplier", [1, 2])
def test_warm_restarts_equal_torch(multiplier):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=7, T_mult=multiplier)
    for epoch in [0.0, 0.5, 3.0, 6.9, 7.0, 10.25, 20.0, 21.0, 40.0]:
        scheduler.step(epoch)
        assert warm_restart_factor(epoch, 7, multiplier) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)


def test_warm_restarts_decay_at_each_restart():
    assert warm_restart_factor(10.0, period=5, decay=0.5) == pytest.approx(0.25)
    assert warm_restart_factor(12.5, period=5, decay=0.5) == pytest.approx(0.25 * 0.5 * (1 + math.cos(math.pi / 2)))


@pytest.mark.parametrize(("period", "multiplier"), [(0, 1), (5, 0.5)])
def test_warm_restarts_that_never_end_are_refused(period, multiplier):
    with pytest.raises(ValueError, match="period must be positive and multiplier at least 1"):
        warm_restart_factor(1.0, period, multiplier)


class Rates(Callback):
    """Rates with which the steps of a run are taken."""

    def __init__(self):
        self.found = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.found.append(optimizer.param_groups[0]["lr"])


def rates_of(num_train, **options):
    """Rates of a run of batches of two structures with the largest rate 1; the trainer's options are given."""
    task_options = {name: options.pop(name) for name in list(options) if name in ("schedule", "restart_period")}
    dataset = AtomsDataset(
        [Atoms("H2", [[0, 0, 0], [0, 0, 0.7 + 0.01 * k]], info={"e": float(k % 3)}) for k in range(num_train + 1)],
        properties={"e": "eV"},
    )
    torch.manual_seed(0)
    rates = Rates()
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
                      enable_model_summary=False, callbacks=[rates], num_sanity_val_steps=0, **options)  # fmt: skip
    task = PropertyTask(SchNet(4, 4, 1, 4, 2.0), lr=1.0, warmup=0.0, **task_options)
    data = StructureDataModule(dataset, "e", num_train=num_train, num_val=1, num_test=0, batch_size=2)
    trainer.fit(task, datamodule=data)
    return rates.found


@pytest.mark.parametrize(
    ("num_train", "options", "steps"),
    [
        (8, {"max_epochs": 3}, 12),
        (8, {"max_epochs": 3, "accumulate_grad_batches": 2}, 6),
        (10, {"max_epochs": 2, "accumulate_grad_batches": 2}, 6),  # 5 batches are 2 + 2 + 1
        (12, {"max_epochs": 2, "accumulate_grad_batches": 4, "limit_train_batches": 4}, 2),
        (8, {"max_epochs": 100, "max_steps": 5, "accumulate_grad_batches": 2}, 5),
    ],
)
def test_cosine_counts_steps_and_not_batches(num_train, options, steps):
    expected = [0.5 * (1 + math.cos(math.pi * k / steps)) for k in range(steps)]
    assert rates_of(num_train, **options) == pytest.approx(expected, abs=1e-6)


def test_warm_restarts_count_epochs_of_accumulated_gradients():
    found = rates_of(8, schedule="warm_restarts", restart_period=2.0, max_epochs=3, accumulate_grad_batches=2)
    expected = [0.5 * (1 + math.cos(math.pi * epoch / 2)) for epoch in (0.0, 0.5, 1.0, 1.5, 0.0)]
    expected.append(0.5 * (1 + math.cos(math.pi * 0.5 / 3)))  # the second cycle is half as long again
    assert found == pytest.approx(expected, abs=1e-6)
