"""Errors and losses of an evaluation, from sums over all its labelled values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Means:
    """Means over the labelled values of one quantity.

    Attributes:
        mae: Mean absolute error, in the unit of the quantity.
        rmse: Root mean square error, in the same unit.
        loss: Mean loss.
    """

    mae: float
    rmse: float
    loss: float


class ErrorSums:
    """Sums over batches of unequal numbers of labels, so that means are those over all values together.

    Example:
        >>> sums = ErrorSums()
        >>> for error, loss in (([3.0, 4.0], 12.5), ([0.0], 0.0)):
        ...     sums.add("energy", torch.tensor(error), torch.zeros(len(error)), torch.tensor(loss))
        >>> means = sums.means(["energy", "forces"])
        >>> round(means["energy"].mae, 4), round(means["energy"].rmse, 4), round(means["energy"].loss, 4)
        (2.3333, 2.8868, 8.3333)
        >>> "forces" in means  # nothing has a label
        False
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, name: str, predicted: Tensor, true: Tensor, loss: Tensor) -> None:
        """Add the values of a batch; nothing waits for the device.

        Args:
            name: Quantity.
            predicted: Predictions for what has a label, any shape.
            true: Labels of the same shape.
            loss: Mean loss of these values.
        """
        if predicted.numel() == 0:
            return
        dtype = torch.float32 if predicted.device.type == "mps" else torch.float64  # Metal has no float64
        error = (predicted.detach() - true).to(dtype)
        count = error.new_tensor(error.numel())
        sums = torch.stack([count, error.abs().sum(), error.square().sum(), loss.detach().to(dtype) * error.numel()])
        self._sums[name] = sums + self._sums[name] if name in self._sums else sums

    def means(
        self, names: Iterable[str], reduce: Callable[[Sequence[float]], list[float]] | None = None
    ) -> dict[str, Means]:
        """Means of each quantity that has a label; every process has to ask for the same ones.

        Args:
            names: Quantities.
            reduce: Adds numbers over processes; ``None`` where there is one.
        """
        names, zero = list(names), torch.zeros(4, dtype=torch.float64)
        table = torch.stack([self._sums.get(name, zero).cpu().to(zero) for name in names])
        if reduce is not None:
            table = torch.tensor(reduce(table.flatten().tolist()), dtype=torch.float64).view_as(table)
        rows = table.tolist()
        return {
            name: Means(absolute / count, (square / count) ** 0.5, loss / count)
            for name, (count, absolute, square, loss) in zip(names, rows, strict=True)
            if count > 0
        }
