"""Stopping a run that no longer gets better, in a way that can be told and undone."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer, callbacks


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's, whose patience is that of the command at hand, and which says that it ended a run.

    Lightning's own takes the patience of the checkpoint when a run is resumed, so that a run that ended by it could not
    be given more.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint, with the patience given now; what ended the run before does not end it again."""
        going_on = {"stopped_epoch": 0, "stopping_reason": 0, "stopping_reason_message": None}
        super().load_state_dict({**state_dict, **going_on, "patience": self.patience})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look whether the run ends here.

        Raises:
            ValueError: If there is no such value to monitor.
        """
        try:
            super().on_validation_end(trainer, pl_module)
        except RuntimeError as error:
            raise ValueError(self._what_there_is(trainer)) from error

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look whether the run ends here, as :meth:`on_validation_end`."""
        try:
            super().on_train_epoch_end(trainer, pl_module)
        except RuntimeError as error:
            raise ValueError(self._what_there_is(trainer)) from error

    def _what_there_is(self, trainer: Trainer) -> str:
        known = ", ".join(name for name in trainer.callback_metrics if "[" not in name)
        return f"there is no {self.monitor!r} to stop early by; --early_stopping.monitor can be one of {known}"

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so where the run ended here and not by its time or epochs."""
        if not trainer.is_global_zero:
            return
        if self.wait_count >= self.patience:
            wanted = f" of {trainer.max_epochs:,}" if (trainer.max_epochs or 0) > 0 else ""
            print(
                f"Stopped early: {self.monitor} did not improve in {self.wait_count} validations, in epoch "
                f"{trainer.current_epoch + 1:,}{wanted}; for more, --resume with --early_stopping.patience"
            )
        elif self.stopping_reason_message:
            print(f"Stopped early: {self.stopping_reason_message.strip()}")
