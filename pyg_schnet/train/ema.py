"""Exponential moving average of the weights, used wherever the model is evaluated."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class EMA(WeightAveraging):
    r"""Lightning's weight averaging with an exponential average, all weights updated in one fused call.

    Validation, checkpoints and the exported model use the average. The decay grows with the number of steps t, so that
    the random weights of the beginning are soon forgotten:

    .. math:: \delta_t = \min\bigl(\delta,\ (1 + t) / (10 + t)\bigr)

    Weights change little from one step to the next, so not every step is averaged; the decay makes up for it.

    Args:
        decay: Weight δ of the past in each step; 0.999 averages over about 1,000 steps.
        every: Steps from one update of the average to the next.

    Raises:
        ValueError: If ``decay`` is not between 0 and 1, or ``every`` below 1.
    """

    def __init__(self, decay: float = 0.999, every: int = 4) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay must be at least 0 and below 1, got {decay!r}")
        if every < 1:
            raise ValueError(f"every must be at least 1 step, got {every!r}")
        super().__init__(multi_avg_fn=self._average, use_buffers=False)
        self.decay = decay
        self.every = every
        self._weights: tuple[list[Tensor], list[Tensor]] = [], []
        self._buffers: tuple[list[Tensor], list[Tensor]] = [], []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the module, in the precision in which it is going to be trained."""
        trainer.precision_plugin.convert_module(pl_module)
        super().setup(trainer, pl_module, stage)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Whether to update the average after the step with this number, counted from zero."""
        return step_idx is not None and step_idx % self.every == 0

    def current_decay(self) -> float:
        """Weight of the past in the next update."""
        step = self._latest_update_step
        return min(self.decay, (1 + step) / (10 + step)) ** self.every

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look up what is averaged, and what is copied; walking through all modules takes longer than an update."""
        average = self._average_model.module
        self._weights = list(average.parameters()), list(pl_module.parameters())
        self._buffers = list(average.buffers()), list(pl_module.buffers())

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the average; the first time it is a copy, by Lightning."""
        if self._latest_update_step == 0:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        elif trainer.global_step > self._latest_update_step and self.should_update(trainer.global_step - 1):
            self._average(*self._weights)
            if self._buffers[0]:
                torch._foreach_copy_(*self._buffers)
            self._average_model.n_averaged += 1
            self._latest_update_step = trainer.global_step

    @torch.no_grad()
    def _average(self, averages: list[Tensor], weights: list[Tensor], n_averaged: Tensor | int = 0) -> None:
        torch._foreach_lerp_(averages, weights, 1.0 - self.current_decay())
