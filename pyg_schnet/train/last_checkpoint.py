"""The newest state of a run, to go on from after an interruption."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint


class LastCheckpoint(Checkpoint):
    """Keep one checkpoint of the newest state, ``last.ckpt``, beside the best one.

    Lightning's ``save_last`` copies the best checkpoint when there is a new one, which may be long ago.

    Args:
        dirpath: Folder; ``None`` takes ``checkpoints`` in the trainer's ``default_root_dir``.
        minutes: How often to save within an epoch, in minutes; the end of each epoch is saved anyway.
    """

    def __init__(self, dirpath: str | None = None, minutes: float = 10.0) -> None:
        super().__init__()
        self.dirpath = dirpath
        self.minutes = minutes
        self._saved_at = time.monotonic()

    def path(self, trainer: Trainer) -> Path:
        """File that is written."""
        folder = Path(trainer.default_root_dir) / "checkpoints" if self.dirpath is None else Path(self.dirpath)
        return folder / "last.ckpt"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._saved_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time."""
        if time.monotonic() - self._saved_at > 60.0 * self.minutes:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save; validation is over by then."""
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.path(trainer))
        self._saved_at = time.monotonic()
