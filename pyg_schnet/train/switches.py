"""Options of Lightning's trainer: which of them a run can be given."""

from __future__ import annotations

from typing import Any, cast

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from pyg_schnet.train.datamodule import StructureDataModule


def check_switches(options: Any) -> None:
    """Raise for options of the trainer with which a run could not be finished, before it begins.

    Args:
        options: Section ``trainer`` of a configuration.

    Raises:
        ValueError: If there is such an option; the message says what to write instead.
    """
    if options.get("barebones"):
        raise ValueError("--trainer.barebones leaves out checkpoints and logs, which a run needs; leave it out")
    if options.get("enable_checkpointing") is False:
        raise ValueError(
            "a run keeps its best and its last weights in checkpoints; leave --trainer.enable_checkpointing out"
        )
    precision = str(options.get("precision") or "32-true")
    if precision in ("16", "16-true", "bf16-true", "transformer-engine", "transformer-engine-float16"):
        raise ValueError(
            f"weights and references of {precision} have two or three digits, too few for energies; choose "
            "--trainer.precision=bf16-mixed, 32-true or 64-true"
        )
    for name in ("limit_train_batches", "max_epochs", "max_steps"):
        if options.get(name) == 0:
            raise ValueError(f"--trainer.{name}=0 leaves nothing to learn; choose a larger number")
    for name in ("accumulate_grad_batches", "check_val_every_n_epoch"):
        value = options.get(name)
        if value is not None and value < 1:
            raise ValueError(f"--trainer.{name} must be at least 1, got {value}")
    clip = options.get("gradient_clip_val")
    if clip is not None and not clip >= 0:
        raise ValueError(f"--trainer.gradient_clip_val must not be negative, got {clip}; null clips nothing")


def check_strategy(trainer: Trainer) -> None:
    """Raise for ways of using several devices other than one process of all weights for each.

    Raises:
        ValueError: If the strategy is another one.
    """
    strategy = trainer.strategy
    ddp = type(strategy) is DDPStrategy and strategy._start_method == "popen"
    if not ddp and not isinstance(strategy, SingleDeviceStrategy):
        name = getattr(strategy, "strategy_name", type(strategy).__name__)
        if type(strategy) is DDPStrategy:
            name = f"ddp_{strategy._start_method}"
        raise ValueError(f"--trainer.strategy={name} cannot be used; choose ddp, one process for each device")


def has_validation(trainer: Trainer, data: StructureDataModule) -> bool:
    """Whether there is a validation whose loss tells the best epoch."""
    return len(data.val_set) > 0 and trainer.limit_val_batches != 0 and not cast(Any, trainer).fast_dev_run
