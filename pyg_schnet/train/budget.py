"""How much of a training has passed, in optimiser steps and in time."""

from __future__ import annotations

import math
from typing import Any, cast

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

from pyg_schnet.train.ranks import of_first


def steps_per_epoch(trainer: Trainer) -> float:
    """Steps of the optimiser in an epoch, each of the batches over which gradients are accumulated.

    Args:
        trainer: Trainer of the run; before its first epoch the number is not known and infinite.
    """
    batches = trainer.num_training_batches
    if batches == math.inf:
        return math.inf
    return max(math.ceil(batches / trainer.accumulate_grad_batches), 1)


def progress_of(trainer: Trainer) -> float:
    """Part of the training budget that has passed, 0 to 1: of epochs, steps or time, whichever ends first.

    Args:
        trainer: Trainer of the run.

    Raises:
        ValueError: If the trainer has no such limit, so that a schedule that ends cannot be laid out.
    """
    parts = []
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        parts.append(trainer.global_step / (trainer.max_epochs * steps_per_epoch(trainer)))
    if trainer.max_steps > 0:
        parts.append(trainer.global_step / trainer.max_steps)
    for callback in cast(Any, trainer).callbacks:
        left = callback.time_remaining() if isinstance(callback, Timer) else None
        if left is not None:
            elapsed = callback.time_elapsed()
            parts.append(elapsed / (elapsed + max(left, 1e-9)))
    if not parts:
        raise ValueError("schedule='cosine' needs an end: set max_epochs, max_steps or max_time of the trainer")
    # clocks differ from process to process, which have to take the same steps
    return of_first(trainer, max(parts))
