"""The newest state of a run, to go on from after an interruption as though there had been none."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn

from pyg_schnet.train.checkpoint_files import CheckpointFiles, load_whole
from pyg_schnet.train.files import CHECKPOINTS
from pyg_schnet.train.finite import check_weights
from pyg_schnet.train.random_state import random_state, set_random_state
from pyg_schnet.train.signals import Signals


class LastCheckpoint(Checkpoint):
    """Keep one checkpoint of the newest state, ``last.ckpt``, beside the best one.

    Lightning's ``save_last`` copies the best checkpoint when there is a new one, which may be long ago. Here it is
    saved after every epoch, and within long ones; with :class:`pyg_schnet.train.StructureDataModule` a resumed run
    takes the same batches as one that was never interrupted, and the generators of random numbers go on, so the weights
    come out the same to the last bit. (The cosine schedule does not depend on the clock where epochs or steps end the
    run, but does where ``max_time`` does.)

    All checkpoints of the trainer are then written by ``pyg_schnet.train.checkpoint_files``,
    unless the trainer has a plugin of its own for that.

    Args:
        dirpath: Folder; ``None`` takes ``checkpoints`` in the trainer's ``default_root_dir``.
        minutes: How often to save within an epoch, in minutes; the end of each epoch is saved anyway.

    Raises:
        ValueError: If ``minutes`` is negative.
    """

    signals: Signals | None = None
    """Signals on which to save and stop; ``None`` looks at none."""

    def __init__(self, dirpath: str | None = None, minutes: float = 5.0) -> None:
        super().__init__()
        if not minutes >= 0:
            raise ValueError(f"minutes between two checkpoints must not be negative, got {minutes!r}")
        self.dirpath = dirpath
        self.minutes = minutes
        self._saved_at = time.monotonic()
        self._random: dict[str, Any] | None = None
        self._epoch_was_cut = False

    def path(self, trainer: Trainer) -> Path:
        """File that is written."""
        folder = Path(trainer.default_root_dir) / CHECKPOINTS if self.dirpath is None else Path(self.dirpath)
        return folder / "last.ckpt"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have files written in one step."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = CheckpointFiles()

    def state_dict(self) -> dict[str, Any]:
        """What checkpoints keep."""
        return {"random": random_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._random = state_dict.get("random")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, and go on with the random numbers of the run."""
        self._saved_at = time.monotonic()
        if self._random is not None and trainer.is_global_zero:
            set_random_state(self._random)
        self._random = None
        if self.signals is not None:
            self.signals.wait_for_step(trainer.world_size)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time, or if the run is told to end; at the end of an epoch this waits for the validation."""
        number = batch_idx + 1
        accumulates = number % trainer.accumulate_grad_batches != 0
        if not (accumulates or _is_at_end(trainer) or _is_followed_by_validation(trainer, number)):
            self._save_if_due(trainer, number)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same after a validation within an epoch."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and not _is_at_end(trainer):
            self._save_if_due(trainer, trainer.fit_loop.batch_idx + 1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save; validation is over by then."""
        self._epoch_was_cut = not _is_at_end(trainer)
        self._save(trainer)
        self._epoch_was_cut = False
        self._end_if_told(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing has to be finished any more."""
        if self.signals is not None:
            self.signals.end_at_once()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on within an epoch that time or steps have cut, rather than with the next one."""
        if self._epoch_was_cut:
            progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
            for count in (progress["total"], progress["current"]):
                count["processed"] -= 1

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Have the trainer finish the epoch that it saved at the end of, where steps end the run.

        Lightning goes on within an epoch then, whatever has been done of it, and would leave the next one out.
        """
        progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
        if trainer.max_steps != -1 and not is_within_epoch(checkpoint):
            for count in (progress["total"], progress["current"]):
                count["processed"] -= 1

    def _save_if_due(self, trainer: Trainer, number: int) -> None:
        told = self._is_told(trainer, number)
        is_due = time.monotonic() - self._saved_at > 60.0 * self.minutes
        if told or (trainer.strategy.broadcast(is_due) if trainer.world_size > 1 else is_due):
            self._save(trainer)
        if told and self.signals is not None:
            self.signals.end()

    def _is_told(self, trainer: Trainer, number: int) -> bool:
        """Whether a signal has come, to any process of the run; several of them agree now and then."""
        if self.signals is None:
            return False
        if trainer.world_size == 1:
            return self.signals.received is not None
        if number % max(getattr(trainer, "log_every_n_steps", 1), 1):
            return False
        return trainer.strategy.reduce_boolean_decision(self.signals.received is not None, all=False)

    def _end_if_told(self, trainer: Trainer) -> None:
        if self.signals is not None and self._is_told(trainer, 0):
            self.signals.end()

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.path(trainer))
        self._saved_at = time.monotonic()


def _is_at_end(trainer: Trainer) -> bool:
    """Whether the present batch is the last one of its epoch."""
    is_last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
    return is_last or trainer.fit_loop.batch_idx + 1 >= trainer.num_training_batches


def _is_followed_by_validation(trainer: Trainer, number: int) -> bool:
    """Whether a validation comes after the batch with this number in the epoch; resuming would leave it out."""
    every = trainer.val_check_batch
    if not trainer.enable_validation or not isinstance(every, int):
        return False
    if trainer.check_val_every_n_epoch is None:
        return (trainer.fit_loop.total_batch_idx + 1) % every == 0
    return (trainer.current_epoch + 1) % trainer.check_val_every_n_epoch == 0 and number % every == 0


def read_checkpoint(path: str | Path, task: nn.Module) -> dict[str, Any]:
    """Read a checkpoint that a run can go on from; nothing in it is executed.

    Args:
        path: The file.
        task: What is learned, with its network.

    Returns:
        What is in it.

    Raises:
        ValueError: If it is no whole checkpoint, one of another task or network, or its weights are not finite.
    """
    advice = "resume from RUN_DIR/checkpoints/last.ckpt, with --config=RUN_DIR/config.yaml"
    try:
        checkpoint = load_whole(path)
        found = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
        progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
        counts = (progress["ready"], progress["processed"], checkpoint["epoch"], checkpoint["global_step"])
        parts = {"callbacks": dict, "optimizer_states": list, "lr_schedulers": list}
        if any(type(count) is not int for count in counts):
            raise TypeError("counts of epochs and steps")
        if not all(isinstance(checkpoint[name], kind) and checkpoint[name] for name, kind in parts.items()):
            raise TypeError("state of the training")
    except Exception as error:  # whatever a reader of foreign or damaged bytes runs into
        raise ValueError(f"{path} is no whole checkpoint of a run ({type(error).__name__}); {advice}") from error
    needed = {name: tuple(value.shape) for name, value in task.state_dict().items()}
    for name in [*needed, *found]:
        if needed.get(name) != found.get(name):
            raise ValueError(
                f"{path} is of another task or network: {name} is {found.get(name, 'not there')} instead of "
                f"{needed.get(name, 'none')}; {advice}"
            )
    check_weights(checkpoint, str(path))
    return checkpoint


def is_within_epoch(checkpoint: dict[str, Any]) -> bool:
    """Whether a checkpoint is from within an epoch, of which some batches are still to come."""
    progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
    return progress["processed"] < progress["ready"]
