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
from pyg_schnet.train.random_state import draw_otherwise, random_state, set_random_state
from pyg_schnet.train.ranks import are_several, gathered, largest, rank_of
from pyg_schnet.train.signals import Signals


class LastCheckpoint(Checkpoint):
    """Keep one checkpoint of the newest state, ``last.ckpt``, beside the best one.

    Lightning's ``save_last`` copies the best checkpoint when there is a new one, which may be long ago. Here it is
    saved after every epoch, and within long ones; with :class:`pyg_schnet.train.StructureDataModule` a resumed run
    takes the same batches as one that was never interrupted, and the generators of random numbers go on, so the weights
    come out the same to the last bit. (The cosine schedule does not depend on the clock where epochs or steps end the
    run, but does where ``max_time`` does.)

    Of several processes, the first writes the file; it has the generators of all, and all go on with their own if there
    are as many. In a new run each draws other numbers than the first, though they begin with one seed. A signal to
    any of them is told to all after the step, and they end together.

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
        self._random_of_all: list[dict[str, Any]] = []  # while a checkpoint of several processes is made
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
        own = random_state()
        return {"random": own, "random_of_all": self._random_of_all} if self._random_of_all else {"random": own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._random = state_dict.get("random")
        self._random_of_all = state_dict.get("random_of_all") or []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, and go on with the random numbers of the run."""
        self._saved_at = time.monotonic()
        self._go_on_drawing(rank_of(trainer), trainer.world_size)
        if self.signals is not None:
            self.signals.wait_for_step()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time, or if the run is told to end; at the end of an epoch this waits for the validation."""
        number = batch_idx + 1
        accumulates = number % trainer.accumulate_grad_batches != 0
        if not (accumulates or _is_at_end(trainer) or _is_followed_by_validation(trainer, number)):
            self._save_if_due(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same after a validation within an epoch."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and not _is_at_end(trainer):
            self._save_if_due(trainer)

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
        """Keep the generators of all processes; go on within an epoch that time or steps have cut."""
        if are_several(trainer):
            self._random_of_all = gathered(trainer, random_state())
            checkpoint["callbacks"][self.state_key].update(self.state_dict())
            self._random_of_all = []
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

    def _go_on_drawing(self, rank: int, world_size: int) -> None:
        """Draw what this process would have drawn, or, in a new run, other numbers than the first process."""
        if len(self._random_of_all) == world_size > 1:
            set_random_state(self._random_of_all[rank])
        elif self._random is not None and rank == 0:
            set_random_state(self._random)
        elif rank > 0:
            draw_otherwise(rank)
        self._random, self._random_of_all = None, []

    def _save_if_due(self, trainer: Trainer) -> None:
        is_due = time.monotonic() - self._saved_at > 60.0 * self.minutes
        told, is_due = self._agreed(trainer, is_due=is_due)
        if told or is_due:
            self._save(trainer)
        if told and self.signals is not None:
            self.signals.end(told, silent=rank_of(trainer) > 0)

    def _agreed(self, trainer: Trainer, *, is_due: bool = False) -> tuple[int, bool]:
        """Number of a signal that has come to any process of the run, zero for none; and whether to save."""
        received = (self.signals.received if self.signals is not None else None) or 0
        told, due = largest(trainer, [received, is_due])
        return int(told), bool(due)

    def _end_if_told(self, trainer: Trainer) -> None:
        told, _ = self._agreed(trainer)
        if told and self.signals is not None:
            self.signals.end(told, silent=rank_of(trainer) > 0)

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
