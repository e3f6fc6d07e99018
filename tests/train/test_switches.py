from types import SimpleNamespace

import pytest
from lightning.pytorch import Trainer

from pyg_schnet.train.switches import check_strategy, check_switches, has_validation


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"barebones": True}, "barebones leaves out checkpoints"),
        ({"enable_checkpointing": False}, "leave --trainer.enable_checkpointing out"),
        ({"precision": "bf16-true"}, "too few for energies; choose --trainer.precision=bf16-mixed, 32-true or 64-true"),
        ({"precision": "16-true"}, "16-true have two or three digits"),
        ({"limit_train_batches": 0}, "limit_train_batches=0 leaves nothing to learn"),
        ({"limit_train_batches": 0.0}, "leaves nothing to learn"),
        ({"max_epochs": 0}, "max_epochs=0 leaves nothing to learn"),
        ({"max_steps": 0}, "max_steps=0 leaves nothing to learn"),
        ({"accumulate_grad_batches": 0}, "accumulate_grad_batches must be at least 1, got 0"),
        ({"check_val_every_n_epoch": 0}, "check_val_every_n_epoch must be at least 1, got 0"),
        ({"gradient_clip_val": -1.0}, "gradient_clip_val must not be negative, got -1.0; null clips nothing"),
    ],
)
def test_options_that_no_run_can_have(options, message):
    with pytest.raises(ValueError, match=message):
        check_switches(options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"barebones": False, "enable_checkpointing": True},
        {"precision": "bf16-mixed"},
        {"precision": 64},
        {"max_epochs": -1, "max_steps": -1, "check_val_every_n_epoch": None, "gradient_clip_val": None},
        {"gradient_clip_val": 0.0, "accumulate_grad_batches": 3},
    ],
)
def test_options_that_a_run_can_have(options):
    check_switches(options)


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork"])
def test_processes_that_cannot_be_shared_are_refused(strategy):
    trainer = Trainer(accelerator="cpu", devices=2, strategy=strategy, logger=False, enable_checkpointing=False)
    with pytest.raises(ValueError, match=f"strategy={strategy} cannot be used; choose ddp"):
        check_strategy(trainer)


@pytest.mark.parametrize("options", [{"devices": 1}, {"devices": 2, "strategy": "ddp"}])
def test_one_process_for_each_device(options):
    check_strategy(Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **options))


@pytest.mark.parametrize(
    ("size", "limit", "fast", "expected"), [(5, 1.0, 0, True), (0, 1.0, 0, False), (5, 0, 0, False), (5, 1, 1, False)]
)
def test_whether_there_is_a_validation(size, limit, fast, expected):
    trainer = SimpleNamespace(limit_val_batches=limit, fast_dev_run=fast)
    assert has_validation(trainer, SimpleNamespace(val_set=[None] * size)) == expected
