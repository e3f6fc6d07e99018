"""A module that learns, and whose errors on validation and test structures are summed and logged."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch_geometric.data import Batch

from pyg_schnet.train.masks import Pair
from pyg_schnet.train.ranks import added, are_several
from pyg_schnet.train.report import in_report_units
from pyg_schnet.train.scheduled import ScheduledModule
from pyg_schnet.train.sums import ErrorSums

_OWN_LOSS = ""  # among the errors, of tasks whose loss is not the sum of their terms


class EvaluatedModule(ScheduledModule):
    """A module that compares quantities with data; tasks say which, and what is made small."""

    def __init__(self) -> None:
        super().__init__()
        self.errors = ErrorSums()  # of the evaluation that is going on

    def quantities(self) -> dict[str, str]:
        """What is compared with the data, and its unit."""
        raise NotImplementedError

    def terms(self) -> dict[str, float]:
        """Weight of each quantity in the loss."""
        raise NotImplementedError

    def compare(self, batch: Batch) -> dict[str, Pair]:
        """Predicted and true values of each quantity, for what has a label."""
        raise NotImplementedError

    def size_of(self, name: str) -> Tensor | None:
        """Unit of the loss of a quantity; ``None`` for its own."""
        raise NotImplementedError

    def loss_of(self, pair: Pair) -> Tensor:
        """Loss of one quantity."""
        raise NotImplementedError

    def shows_loss(self) -> bool:
        """Whether the progress bar has the validation loss rather than errors."""
        return False

    def in_its_size(self, name: str, pair: Pair) -> Pair:
        """A quantity in the unit of its loss."""
        size = self.size_of(name)
        return pair if size is None else cast(Pair, (pair[0] / size, pair[1] / size, *pair[2:]))

    def total_loss(self, pairs: dict[str, Pair]) -> Tensor:
        """Loss of a batch, the weighted sum of its terms."""
        names = self.terms()
        shares = self.shares_of([pairs[name] for name in names])
        terms = [
            (weight * share, self.loss_of(self.in_its_size(name, pairs[name])))
            for (name, weight), share in zip(names.items(), shares, strict=True)
        ]
        return cast(Tensor, sum(loss if weight == 1.0 else weight * loss for weight, loss in terms))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        self.begin_step(batch.num_graphs)
        loss = self.shared(self.loss_of_batch(batch))
        if self.is_shown():
            several = are_several(self._trainer)
            self.log("train/loss", loss, prog_bar=True, batch_size=batch.num_graphs, sync_dist=several)
            if self._scheduler is not None:
                self.log("train/lr", self._scheduler.optimizer.param_groups[0]["lr"], batch_size=batch.num_graphs)
        return loss

    def loss_of_batch(self, batch: Batch) -> Tensor:
        """What is made small in training."""
        return self.total_loss(self.compare(batch))

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

    def _add_errors(self, stage: str, batch: Batch) -> None:
        pairs = self.compare(batch)
        for name, pair in pairs.items():
            self.errors.add(name, *pair[:2], self.loss_of(self.in_its_size(name, pair)))
        if self.has_own_loss():
            labelled = torch.zeros(max(max(len(pair[0]) for pair in pairs.values()), 1))
            self.errors.add(_OWN_LOSS, labelled, labelled, self.total_loss(pairs).cpu())

    def has_own_loss(self) -> bool:
        """Whether a subclass has another loss than the weighted sum of terms."""
        return type(self).total_loss is not EvaluatedModule.total_loss

    def _log_errors(self, stage: str) -> None:
        quantities, terms = self.quantities(), self.terms()
        add = (lambda sums: added(self.trainer, sums)) if are_several(self._trainer) else None
        means = self.errors.means(dict.fromkeys([*quantities, *terms, _OWN_LOSS]), add)
        self.errors = ErrorSums()
        self.check_errors({f"{stage}/{name}_mae": mean.mae for name, mean in means.items() if name != _OWN_LOSS})
        same: dict[str, Any] = {"sync_dist": add is not None}  # all processes have the same number
        if _OWN_LOSS in means:
            self.log(f"{stage}/loss", means[_OWN_LOSS].loss, **same)
        elif any(name in means for name in terms):
            loss = sum(weight * means[name].loss for name, weight in terms.items() if name in means)
            self.log(f"{stage}/loss", loss, prog_bar=stage == "val" and self.shows_loss(), **same)
        for name, unit in quantities.items():
            for measure in ("mae", "rmse") if name in means else ():
                value = getattr(means[name], measure)
                self.log(f"{stage}/{name}_{measure}", value, **same)
                for target, number in in_report_units(value, unit).items():
                    shown = stage == "val" and measure == "mae" and not self.shows_loss()
                    self.log(f"{stage}/{name}_{measure} [{target}]", number, prog_bar=shown, **same)
