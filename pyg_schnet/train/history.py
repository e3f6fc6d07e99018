"""The tables that a run logs, over the epochs of all of its starts."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pyg_schnet.train.files import LOGS


@dataclass(frozen=True)
class Curve:
    """A logged quantity over the training.

    Attributes:
        epochs: Epochs that had passed, not whole numbers within one, shape ``[n]``.
        values: Its values, shape ``[n]``.
    """

    epochs: np.ndarray
    values: np.ndarray

    def by_epoch(self) -> Curve:
        """Means over each epoch, for quantities that are logged several times in it.

        Example:
            >>> Curve(np.array([0.5, 1.0, 1.5]), np.array([1.0, 3.0, 5.0])).by_epoch().values
            array([2., 5.])
        """
        number = np.ceil(self.epochs - 1e-9)
        numbers = np.unique(number)
        means = [values[number == one].mean() for values in (self.epochs, self.values) for one in numbers]
        return Curve(np.array(means[: len(numbers)]), np.array(means[len(numbers) :]))


def read_history(folder: Path) -> dict[str, Curve]:
    """Curves of a finished or running run by the names under which they are logged, such as ``"val/loss"``.

    A run that was resumed has a table for each start; where two of them have the same steps, the later one counts.

    Args:
        folder: Folder of the run.

    Returns:
        The curves; empty where the run has left no table.
    """
    tables = sorted((folder / LOGS).glob("version_*/metrics.csv"), key=_version)
    rows: list[dict[str, float]] = []
    for table in tables:
        found = _read(table)
        if found:
            first = min(row["step"] for row in found)
            rows = [row for row in rows if row["step"] < first] + found
    per_epoch = _steps_per_epoch(rows)
    names = dict.fromkeys(name for row in rows for name in row if name not in ("epoch", "step"))
    return {name: _curve([row for row in rows if name in row], name, per_epoch) for name in names}


def _version(table: Path) -> int:
    number = table.parent.name.removeprefix("version_")
    return int(number) if number.isdigit() else -1


def _read(table: Path) -> list[dict[str, float]]:
    """Numbers of each row that has a step; the last row of a running run may be incomplete."""
    with table.open(newline="", encoding="utf-8") as file:
        rows = [{name: _number(text) for name, text in row.items() if name} for row in csv.DictReader(file)]
    numbers = [{name: value for name, value in row.items() if value is not None} for row in rows]
    return [row for row in numbers if "step" in row and "epoch" in row]


def _number(text: str | list[str] | None) -> float | None:
    try:
        return float(text) if isinstance(text, str) and text else None
    except ValueError:
        return None


def _steps_per_epoch(rows: Iterable[dict[str, float]]) -> float:
    """Steps of an epoch, from the last row of each."""
    last: dict[float, float] = {}
    for row in rows:
        last[row["epoch"]] = max(last.get(row["epoch"], 0.0), row["step"])
    ratios = [(step + 1.0) / (epoch + 1.0) for epoch, step in last.items()]
    return max(ratios, default=1.0)


def _curve(rows: list[dict[str, float]], name: str, per_epoch: float) -> Curve:
    steps = np.array([row["step"] + 1.0 for row in rows])
    return Curve(steps / per_epoch, np.array([row[name] for row in rows]))
