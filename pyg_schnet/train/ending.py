"""Why a run ended."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer

from pyg_schnet.train.budget import steps_per_epoch


def ending_of(trainer: Trainer) -> str | None:
    """Option that ended a run: ``"max_time"``, ``"max_steps"``, ``"max_epochs"``, ``"early_stopping"`` or ``None``."""
    if trainer.max_epochs is not None and 0 <= trainer.max_epochs <= trainer.current_epoch:
        return "max_epochs"
    if 0 <= trainer.max_steps <= trainer.global_step:
        return "max_steps"
    callbacks = cast(Any, trainer).callbacks
    for callback in callbacks:
        left = callback.time_remaining() if isinstance(callback, Timer) else None
        if left is not None and left <= 0:
            return "max_time"
    stops = [callback for callback in callbacks if isinstance(callback, EarlyStopping)]
    stopped = any(callback.stopped_epoch > 0 or callback.stopping_reason_message for callback in stops)  # epoch 0, too
    return "early_stopping" if stopped else None


def ending_sentence(trainer: Trainer) -> str | None:
    """Sentence on a run that time or steps ended; early stopping speaks for itself, and all epochs are no surprise."""
    ending = ending_of(trainer)
    if ending not in ("max_time", "max_steps"):
        return None
    limit = f"{trainer.max_steps:,}" if ending == "max_steps" else _duration(trainer)
    wanted = f" of {trainer.max_epochs:,}" if trainer.max_epochs is not None and trainer.max_epochs > 0 else ""
    epochs = min(trainer.current_epoch, int(trainer.global_step / steps_per_epoch(trainer)))
    return (
        f"Stopped by --trainer.{ending}={limit} after {epochs:,}{wanted} epochs "
        f"({trainer.global_step:,} steps); for more, --resume with a larger --trainer.{ending}"
    )


def _duration(trainer: Trainer) -> str:
    """Time limit as the option takes it, DD:HH:MM:SS."""
    timer: Any = next(callback for callback in cast(Any, trainer).callbacks if isinstance(callback, Timer))
    limit = timedelta(seconds=round(timer.time_elapsed() + timer.time_remaining()))
    hours, minutes = limit.seconds // 3600, limit.seconds // 60 % 60
    return f"{limit.days:02}:{hours:02}:{minutes:02}:{limit.seconds % 60:02}"
