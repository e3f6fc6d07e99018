"""What is learned and how: loss, metrics, optimiser and schedule for one property, as a LightningModule."""

from __future__ import annotations

import copy
import inspect
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Timer
from torch import Tensor, nn
from torch_geometric.data import Batch
from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection

from pyg_schnet.data import Property, target_mask, target_values
from pyg_schnet.models import AtomisticModel
from pyg_schnet.models.references import take_references
from pyg_schnet.nn import MAX_Z, fit_atom_references, sum_references
from pyg_schnet.optim import FusedAdamW, total_norm
from pyg_schnet.train.references import Pooling, fold_statistics, pooling_of
from pyg_schnet.train.report import in_report_units
from pyg_schnet.train.schedule import cosine_factor, warm_restart_factor

_LOSSES = {"mse": F.mse_loss, "mae": F.l1_loss, "huber": F.huber_loss}
Pair = tuple[Tensor, Tensor]  # predicted, true

SHOWN_EVERY = 10
"""Steps from one drawing of the progress bar to the next."""
_OPTIONAL_INPUTS = ("cell", "pbc", "batch_size")


class PropertyTask(LightningModule):
    r"""Learn one property of structures.

    The network learns the difference from references of the elements, in units of its spread:

    .. math:: y_b = \sum_{i \in b} a_{Z_i} + \sigma\, \mathrm{network}(b)

    with a fitted by least squares to the training structures and σ the standard deviation of what they leave, per
    atom for extensive properties. References are added in float64, so the float32 network loses nothing at total
    energies of thousands of eV. Loss and metrics are in the unit of the property.

    Args:
        network: Any module with the call ``network(z, pos, batch)`` that returns ``[B]`` or ``[B, 1]``: models of this
            package, PyTorch Geometric's SchNet, or others. What else it takes by name of ``cell``, ``pbc`` and
            ``batch_size`` is passed too.
        loss: ``"mse"`` (squared, the chapter's), ``"mae"`` (absolute) or ``"huber"`` (squared below ``huber_delta``).
        huber_delta: Where the Huber loss turns from squared to absolute, in the unit of the property.
        lr: Largest learning rate of Adam.
        weight_decay: Decoupled weight decay (AdamW); 0 is Adam.
        schedule: ``"cosine"`` falls to zero at the end of the training budget, be it epochs, steps or time;
            ``"warm_restarts"`` is the chapter's, in epochs; ``"constant"`` does not change.
        warmup: Part of the training budget in which the cosine schedule rises to ``lr``, 0 to 1.
        restart_period: Length of the first cycle of the warm restarts, in epochs.
        restart_multiplier: By how much each cycle is longer than the one before.
        restart_decay: By how much the largest rate of each cycle is lower than that of the one before.
        pooling: How the network pools atoms: ``"sum"``, ``"mean"``, ``"max"`` (references are the same for all
            elements, the mean of the training structures), ``"none"`` (no references), or ``"auto"`` to read it from
            the network.

    Raises:
        ValueError: If an option is out of range.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        loss: Literal["mse", "mae", "huber"] = "mse",
        huber_delta: float = 0.01,
        lr: float = 5e-3,
        weight_decay: float = 0.0,
        schedule: Literal["cosine", "warm_restarts", "constant"] = "cosine",
        warmup: float = 0.02,
        restart_period: float = 50.0,
        restart_multiplier: float = 1.5,
        restart_decay: float = 1.0,
        pooling: Literal["auto", "sum", "mean", "max", "none"] = "auto",
    ) -> None:
        super().__init__()
        if loss not in _LOSSES:
            raise ValueError(f"loss must be one of {', '.join(_LOSSES)}, got {loss!r}")
        if not 0.0 <= warmup < 1.0:
            raise ValueError(f"warmup must be a part of the training, at least 0 and below 1, got {warmup!r}")
        if lr <= 0:
            raise ValueError(f"lr must be positive, got {lr!r}")
        self.network = network
        self.loss = loss
        self.huber_delta = huber_delta
        self.lr = lr
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.warmup = warmup
        self.restart_period = restart_period
        self.restart_multiplier = restart_multiplier
        self.restart_decay = restart_decay
        self.pooling: Pooling = pooling_of(network) if pooling == "auto" else pooling
        self.property: Property | None = None
        self.register_buffer("atomref", torch.zeros(MAX_Z + 1, 1))
        self.register_buffer("scale", torch.ones(()))
        self._extra_inputs = [
            name for name in _OPTIONAL_INPUTS if name in inspect.signature(network.forward).parameters
        ]
        self.errors: dict[str, MetricCollection] = {}  # of the evaluation that is going on

    @classmethod
    def from_model(cls, model: AtomisticModel, target: Property) -> PropertyTask:
        """Task that evaluates a trained model; its references are taken out, to be added in float64.

        Args:
            model: Model, as loaded from a file; changed in place.
            target: The property it was trained on.
        """
        atomref = take_references(model)
        task = cls(model)
        task.property = target
        if atomref is not None:
            task.atomref = atomref
        return task

    def setup(self, stage: str) -> None:
        """Learn the property and, before the first fit, its statistics from the data module."""
        if self.property is None:
            self.property = self.trainer.datamodule.property
        if stage == "fit" and self.trainer.ckpt_path is None:
            self.fit_statistics(*self.trainer.datamodule.training_targets())

    def fit_statistics(self, counts: Tensor, target: Tensor) -> None:
        """Fit references and scale to the training structures.

        Args:
            counts: Atoms of each element in each structure, shape ``[B, MAX_Z + 1]``.
            target: Property of each structure, shape ``[B]``, in its unit.
        """
        if self.pooling == "none":
            residual = target
        else:
            weights = counts if self.pooling == "sum" else counts / counts.sum(1, keepdim=True).clamp(min=1.0)
            if self.pooling == "max":  # the largest of atoms that are all raised by the same is raised by it
                atomref = target.mean().expand(counts.size(1), 1).clone()
                atomref[0] = 0.0  # padding
            else:
                atomref = fit_atom_references(weights, target)
            self.atomref.copy_(atomref)
            residual = target - (weights @ atomref).squeeze(-1)
        if self.pooling == "sum":
            residual = residual / counts.sum(1).clamp(min=1.0)
        spread = residual.std(correction=0)
        self.scale.copy_(spread if spread > 0 else torch.ones_like(spread))

    def forward(self, batch: Batch) -> Tensor:
        """Difference of the property from the references, shape ``[B]``, in the unit of the property."""
        return self.difference(batch.z, *self.inputs(batch))

    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Positions in the precision of the network, structure of each atom, and what else the network takes.

        Raises:
            ValueError: If a structure is periodic and the network takes no cell.
        """
        if "pbc" not in self._extra_inputs and batch.get("pbc") is not None and bool(batch.pbc.any()):
            raise ValueError(
                f"a {type(self.network).__name__} takes no cell and would see periodic structures as clusters; "
                "use a model of pyg_schnet, or structures without periodic boundaries"
            )
        dtype = next(self.network.parameters()).dtype
        given = {"cell": batch.get("cell"), "pbc": batch.get("pbc"), "batch_size": batch.num_graphs}
        extra = {name: given[name] for name in self._extra_inputs if given[name] is not None}
        if "cell" in extra:
            extra["cell"] = extra["cell"].to(dtype)
        return batch.pos.to(dtype), batch.batch, extra

    def difference(self, z: Tensor, pos: Tensor, batch: Tensor, extra: dict[str, Any]) -> Tensor:
        """Scaled output of the network, shape ``[B]``, in the unit of the property."""
        return self.scale * self.network(z, pos, batch, **extra).reshape(-1)

    def references(self, batch: Batch) -> Tensor:
        """References of the structures in float64, shape ``[B]``, in the unit of the property."""
        if self.pooling == "none":
            return torch.zeros(batch.num_graphs, dtype=torch.float64, device=batch.z.device)
        mean = self.pooling != "sum"
        return sum_references(self.atomref, batch.z, batch.batch, batch.num_graphs, mean=mean).squeeze(-1)

    def quantities(self) -> dict[str, str]:
        """What is compared with the data, and its unit; the first one names the run's result."""
        return {self.property.name: self.property.unit}

    def compare(self, batch: Batch) -> dict[str, Pair]:
        """Predicted and true values of each quantity, for what has a label; references are left out of both."""
        return {self.property.name: self.pair(self(batch), batch)}

    def pair(self, predicted: Tensor, batch: Batch) -> Pair:
        """Predicted and true difference of the property from its references, for the structures with a label."""
        target = target_values(batch, self.property).reshape(batch.num_graphs)
        target = (target.to(torch.float64) - self.references(batch)).to(predicted.dtype)
        mask = target_mask(batch, self.property)
        return (predicted, target) if mask is None else (predicted[mask], target[mask])

    def total_loss(self, pairs: dict[str, Pair]) -> Tensor:
        """Loss of a batch."""
        return self.loss_of(pairs[self.property.name])

    def loss_of(self, pair: Pair) -> Tensor:
        """Loss of one quantity; zero where a batch has no labels of it."""
        options = {"delta": self.huber_delta} if self.loss == "huber" else {}
        if pair[0].numel() == 0:
            return pair[0].sum()
        return _LOSSES[self.loss](*pair, **options)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        loss = self.loss_of_batch(batch)
        if self._is_shown():
            self.log("train/loss", loss, prog_bar=True, batch_size=batch.num_graphs)
        return loss

    def loss_of_batch(self, batch: Batch) -> Tensor:
        """What is made small in training."""
        return self.total_loss(self.compare(batch))

    def _is_shown(self) -> bool:
        """Whether the progress bar or a logger is going to show this step; noting a value takes a while."""
        every = getattr(self._trainer, "log_every_n_steps", None)
        if every is None:  # not in a fit
            return True
        number = self._trainer.global_step + 1
        drawn = self._trainer.progress_bar_callback is not None and number % SHOWN_EVERY == 1
        return drawn or (every > 0 and number % every == 0)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one batch to the validation errors."""
        self._add_errors("val", batch)

    def on_validation_epoch_end(self) -> None:
        """Log the validation errors."""
        self._log_errors("val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one batch to the test errors."""
        self._add_errors("test", batch)

    def on_test_epoch_end(self) -> None:
        """Log the test errors."""
        self._log_errors("test")

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Property of each structure, references included, in float64, shape ``[B]``."""
        return self.references(batch) + self(batch).to(torch.float64)

    def _add_errors(self, stage: str, batch: Batch) -> None:
        pairs = self.compare(batch)
        self.log(f"{stage}/loss", self.total_loss(pairs), batch_size=batch.num_graphs)
        for name, (predicted, target) in pairs.items():
            if name not in self.errors:
                self.errors[name] = _metrics().to(predicted.device)
            if predicted.numel() > 0:
                self.errors[name].update(predicted.detach(), target)

    def _log_errors(self, stage: str) -> None:
        for name, unit in self.quantities().items():
            if name not in self.errors:
                continue
            errors = self.errors.pop(name)  # those of inference mode cannot be added to outside of it
            for measure, value in errors.compute().items():
                self.log(f"{stage}/{name}_{measure}", value)
                for target, number in in_report_units(float(value), unit).items():
                    shown = stage == "val" and measure == "mae"
                    self.log(f"{stage}/{name}_{measure} [{target}]", number, prog_bar=shown)

    def export(self) -> AtomisticModel:
        """The trained network as a model of its own, references and scale folded in.

        Raises:
            TypeError: If the network is not a model of this package; use the Lightning checkpoint then.
        """
        if not isinstance(self.network, AtomisticModel):
            raise TypeError(
                f"only models of pyg_schnet can be exported, got {type(self.network).__name__}; "
                "its weights are in the checkpoint"
            )
        model = copy.deepcopy(self.network).eval()
        fold_statistics(model, self.scale, self.atomref)
        model.card.update(target=self.property.name, unit=self.property.unit)
        return model

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip gradients as Lightning does; on CPUs, where looking is cheap, only those that are too large."""
        by_norm = gradient_clip_val is not None and gradient_clip_algorithm in (None, "norm")
        if by_norm and self.device.type == "cpu":
            gradients = [weight.grad for group in optimizer.param_groups for weight in group["params"]]
            if total_norm([grad for grad in gradients if grad is not None]) <= gradient_clip_val:
                return
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def configure_optimizers(self) -> dict[str, Any]:
        """Adam (AdamW with weight decay) and the schedule, set anew before every step."""
        fused = all(parameter.device.type in ("cpu", "cuda") for parameter in self.parameters())
        adam = FusedAdamW if fused else torch.optim.AdamW
        optimizer = adam(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self._lr_factor())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _lr_factor(self) -> float:
        if self.schedule == "constant":
            return 1.0
        if self.schedule == "cosine":
            return max(cosine_factor(self.progress(), self.warmup), 1e-4)
        epoch = self.trainer.global_step / max(self.trainer.num_training_batches, 1)
        return warm_restart_factor(epoch, self.restart_period, self.restart_multiplier, self.restart_decay)

    def progress(self) -> float:
        """Part of the training budget that has passed, 0 to 1: of epochs, steps or time, whichever ends first.

        Raises:
            ValueError: If the trainer has no such limit, so that a schedule that ends cannot be laid out.
        """
        trainer, parts = self.trainer, []
        if trainer.max_epochs is not None and trainer.max_epochs > 0:
            parts.append(trainer.global_step / (trainer.max_epochs * max(trainer.num_training_batches, 1)))
        if trainer.max_steps > 0:
            parts.append(trainer.global_step / trainer.max_steps)
        for callback in trainer.callbacks:
            if isinstance(callback, Timer) and callback.time_remaining() is not None:
                elapsed = callback.time_elapsed()
                parts.append(elapsed / (elapsed + max(callback.time_remaining(), 1e-9)))
        if not parts:
            raise ValueError("schedule='cosine' needs an end: set max_epochs, max_steps or max_time of the trainer")
        return max(parts)


def _metrics() -> MetricCollection:
    return MetricCollection({"mae": MeanAbsoluteError(), "rmse": MeanSquaredError(squared=False)})
