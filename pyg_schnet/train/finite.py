"""Stopping where numbers are no longer numbers, before anything of it is saved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from pyg_schnet.ops import total_norm
from pyg_schnet.train.ranks import Followed, added, are_several, rank_of


def not_finite(tensors: Mapping[str, Any]) -> str | None:
    """Name of the first floating-point tensor with a NaN or an infinity; ``None`` where there is none.

    Example:
        >>> import torch
        >>> not_finite({"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")])})
        'b'
    """
    for name, value in tensors.items():
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
            return name
    return None


def check_weights(checkpoint: Mapping[str, Any], path: str) -> None:
    """Raise for a checkpoint whose weights are not finite.

    Args:
        checkpoint: What was read.
        path: Its file, for the message.

    Raises:
        ValueError: If a weight, or one of their averages, is NaN or infinite.
    """
    for part in ("state_dict", "current_model_state"):
        if name := not_finite(checkpoint.get(part) or {}):
            raise ValueError(
                f"{path} is of a training that diverged: {name} is NaN or infinite; resume from an earlier checkpoint "
                "(best.ckpt beside it), or train again with a lower learning rate (--model.init_args.lr)"
            )


class FiniteModule(LightningModule):
    """A module whose training stops with one sentence where a loss, a gradient, an error or a weight is not finite.

    On CPUs losses and norms of gradients are looked at in every step, before the weights change; of several processes
    only the norm, which is that of all, so that they stop together. On other devices,
    where looking means to wait, losses add to a flag on the device that is read every ``log_every_n_steps`` steps.
    Weights are looked at before every save and after every load, so no checkpoint is replaced by one that is spoiled.
    """

    _flag: Tensor | None = None  # zero as long as losses are finite, on devices other than the CPU

    def on_before_backward(self, loss: Tensor) -> None:
        """Look at the loss, or note it.

        Raises:
            ValueError: If it is not finite.
        """
        if self._scales_losses():
            return
        if loss.device.type == "cpu":
            if not are_several(self._trainer) and not math.isfinite(value := loss.item()):
                raise self._diverged(f"the loss is {value}")
        elif self._flag is None:
            self._flag = loss.detach() * 0.0
        else:
            self._flag.add_(loss.detach(), alpha=0.0)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip gradients as Lightning does; on CPUs, where looking is cheap, only those that are too large.

        Raises:
            ValueError: On CPUs, if the norm of all gradients is not finite.
        """
        by_norm = gradient_clip_val is not None and gradient_clip_algorithm in (None, "norm")
        if (by_norm or are_several(self._trainer)) and self.device.type == "cpu":
            gradients = [weight.grad for group in optimizer.param_groups for weight in group["params"]]
            norm = float(total_norm([grad for grad in gradients if grad is not None]))
            if not math.isfinite(norm) and not self._scales_losses():
                raise self._diverged(f"the norm of the gradients is {norm}")
            if by_norm and norm <= cast(float, gradient_clip_val):
                return
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def check_errors(self, errors: Mapping[str, float]) -> None:
        """Look at errors or losses of a validation or test, by name.

        Raises:
            ValueError: If one is not finite.
        """
        for name, value in errors.items():
            if math.isfinite(value):
                continue
            if self.trainer.training or self.trainer.validating:
                raise self._diverged(f"{name} is {value}")
            raise ValueError(f"{name} is {value}: the model predicts NaN or infinity, or its weights are")

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Read the flag where losses are logged."""
        every = getattr(self.trainer, "log_every_n_steps", None)
        if self._flag is not None and every and self.trainer.global_step % every == 0:
            self._read_flag()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Look at everything that is going to be saved.

        Raises:
            ValueError: If a weight is not finite.
        """
        self._read_flag()
        for part in ("state_dict", "current_model_state"):
            if name := not_finite(checkpoint.get(part) or {}):
                raise self._diverged(f"{name} is NaN or infinite")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Look at the weights of a checkpoint.

        Raises:
            ValueError: If one is not finite.
        """
        check_weights(checkpoint, "the checkpoint")

    def _read_flag(self) -> None:
        if self._flag is not None and not math.isfinite(added(self._trainer, [self._flag.item()])[0]):
            raise self._diverged("a loss is NaN or infinite")

    def _scales_losses(self) -> bool:
        """Whether losses are scaled until gradients fit 16 bits, where steps that overflow are left out."""
        return self.trainer.precision == "16-mixed"

    def _diverged(self, reason: str) -> BaseException:
        trainer = self.trainer
        if rank_of(trainer) > 0:
            return Followed()
        rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
        highest = max([*rates, getattr(self, "lr", 0.0)])
        return ValueError(
            f"training diverged: {reason} in step {trainer.global_step + 1:,} of epoch {trainer.current_epoch:,}, at a "
            f"learning rate of {max(rates, default=highest):.3g}; choose a lower learning rate than {highest:g} "
            "(--model.init_args.lr) or clip gradients (--trainer.gradient_clip_val); checkpoints are those before it"
        )
