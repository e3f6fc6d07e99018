"""A module with its optimiser and the schedule of its learning rate."""

from __future__ import annotations

from typing import Any, Literal

import torch

from pyg_schnet.train.budget import progress_of, steps_per_epoch
from pyg_schnet.train.muon import Muon
from pyg_schnet.train.schedule import cosine_factor, warm_restart_factor
from pyg_schnet.train.shared import SharedModule

Schedule = Literal["cosine", "warm_restarts", "constant"]


class ScheduledModule(SharedModule):
    """A module that is trained by Muon, or by AdamW, at a rate that follows a schedule."""

    _scheduler: torch.optim.lr_scheduler.LambdaLR | None = None

    def set_optimizer(self, optimizer: Literal["adam", "muon"], lr: float, weight_decay: float) -> None:
        """Say how weights are changed; see :class:`pyg_schnet.train.PropertyTask`.

        Args:
            optimizer: Which optimiser.
            lr: Largest learning rate.
            weight_decay: Decoupled weight decay.

        Raises:
            ValueError: If there is no such optimiser, or a number is out of range.
        """
        if optimizer not in ("adam", "muon"):
            raise ValueError(f"optimizer must be 'adam' or 'muon', got {optimizer!r}")
        if not lr > 0:
            raise ValueError(f"lr must be positive, got {lr!r}")
        if not weight_decay >= 0:
            raise ValueError(f"weight_decay must not be negative, got {weight_decay!r}")
        self.optimizer, self.lr, self.weight_decay = optimizer, lr, weight_decay

    def set_schedule(self, schedule: Schedule, warmup: float, restarts: tuple[float, float, float]) -> None:
        """Say at which rate weights are changed; see :class:`pyg_schnet.train.PropertyTask`.

        Args:
            schedule: Which schedule.
            warmup: Part of the training in which the cosine schedule rises.
            restarts: Period, multiplier and decay of warm restarts.

        Raises:
            ValueError: If the warm-up is no part of the training.
        """
        if not 0.0 <= warmup < 1.0:
            raise ValueError(f"warmup must be a part of the training, at least 0 and below 1, got {warmup!r}")
        self.schedule, self.warmup = schedule, warmup
        self.restart_period, self.restart_multiplier, self.restart_decay = restarts

    def configure_optimizers(self) -> Any:
        """Muon or AdamW and the schedule, set again before every step."""
        optimizer: torch.optim.Optimizer
        if self.optimizer == "muon":
            optimizer = Muon(self, lr=self.lr, weight_decay=self.weight_decay)
        else:
            fused = all(parameter.device.type in ("cpu", "cuda") for parameter in self.parameters())
            optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=fused)
        self._scheduler = scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self._lr_factor())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another optimiser, whose state cannot be gone on with."""
        super().on_load_checkpoint(checkpoint)
        groups = [group for state in checkpoint.get("optimizer_states", []) for group in state["param_groups"]]
        before = "muon" if any("orthogonal" in group for group in groups) else "adam"
        is_own = type(self).configure_optimizers is not ScheduledModule.configure_optimizers
        if groups and before != self.optimizer and not is_own:
            raise ValueError(
                f"the checkpoint was trained by {before}, this run by {self.optimizer}; go on with "
                f"--model.optimizer {before}, or start another run by --start_from"
            )

    def on_train_start(self) -> None:
        """Go on with the rate and weight decay of the options at hand; a checkpoint brings those of its own start."""
        for config in self.trainer.lr_scheduler_configs:
            if config.scheduler is self._scheduler:
                config.scheduler.base_lrs = [self.lr] * len(config.scheduler.base_lrs)
                for group in config.scheduler.optimizer.param_groups:
                    group.update(initial_lr=self.lr, lr=self.lr * self._lr_factor(), weight_decay=self.weight_decay)

    def _lr_factor(self) -> float:
        if self.schedule == "constant":
            return 1.0
        if self.schedule == "cosine":
            return max(cosine_factor(self.progress(), self.warmup), 1e-4)
        epoch = self.trainer.global_step / steps_per_epoch(self.trainer)
        return warm_restart_factor(epoch, self.restart_period, self.restart_multiplier, self.restart_decay)

    def progress(self) -> float:
        """Part of the training budget that has passed, 0 to 1; see ``progress_of``."""
        return progress_of(self.trainer)
