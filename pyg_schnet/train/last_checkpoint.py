"""The newest state of a run, to go on from after an interruption."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import nn


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


def check_checkpoint(path: str | Path, task: nn.Module) -> None:
    """Raise for a file that a run cannot go on from.

    Args:
        path: The file.
        task: What is learned, with its network.

    Raises:
        ValueError: If it is no whole checkpoint, or one of another task or network.
    """
    advice = "resume from RUN_DIR/checkpoints/last.ckpt, with --config=RUN_DIR/config.yaml"
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        found = {name: tuple(value.shape) for name, value in found.items()}
    except Exception as error:  # whatever a reader of foreign or damaged bytes runs into
        raise ValueError(f"{path} is no whole checkpoint of a run ({type(error).__name__}); {advice}") from error
    needed = {name: tuple(value.shape) for name, value in task.state_dict().items()}
    for name in [*needed, *found]:
        if needed.get(name) != found.get(name):
            raise ValueError(
                f"{path} is of another task or network: {name} is {found.get(name, 'not there')} instead of "
                f"{needed.get(name, 'none')}; {advice}"
            )
