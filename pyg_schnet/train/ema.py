"""Exponential moving average of the weights, used wherever the model is evaluated."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMA(WeightAveraging):
    r"""Lightning's weight averaging with an exponential average, all weights updated at once.

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

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the module, in the precision in which it is going to be trained."""
        trainer.precision_plugin.convert_module(pl_module)
        super().setup(trainer, pl_module, stage)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Whether to update the average after the step with this number, counted from zero."""
        return step_idx is not None and step_idx % self.every == 0

    def current_decay(self) -> float:
        """Weight of the past in the next update."""
        step = self.state_dict()["latest_update_step"]
        return min(self.decay, (1 + step) / (10 + step)) ** self.every

    def _average(self, averages: list[Tensor], weights: list[Tensor], n_averaged: Tensor | int = 0) -> None:
        get_ema_multi_avg_fn(self.current_decay())(averages, weights, n_averaged)
