"""Logs of a run: a table of numbers, and TensorBoard's; a disk that is full does not end the run."""

from __future__ import annotations

import csv
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from pyg_schnet.models.writing import write_whole
from pyg_schnet.train.files import LOGS


class TableWriter(ExperimentWriter):
    """Lightning's writer of tables, whose file has whole lines at every moment.

    Rows are appended in one piece; a new column, for which the whole file is written again, replaces it in a single
    step.
    """

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir=log_dir)
        Path(self.metrics_file_path).touch()  # a run that ends in its first steps has a table as well
        self._columns: list[str] = []

    def save(self) -> None:
        """Write the rows that are new."""
        if not self.metrics:
            return
        columns = sorted({*self._columns, *(name for row in self.metrics for name in row)})
        if columns != self._columns:
            old = []
            if os.path.isfile(self.metrics_file_path):
                with open(self.metrics_file_path, newline="", encoding="utf-8") as file:
                    old = list(csv.DictReader(file))
            write_whole(self.metrics_file_path, _rows([*old, *self.metrics], columns, header=True))
        else:
            _append(self.metrics_file_path, _rows(self.metrics, columns, header=False).encode())
        self._columns, self.metrics = columns, []


class _GoingOn:
    """Logger that says once what it could not write, and does not end the run."""

    _is_said = False

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        """Note numbers."""
        self._try(super().log_metrics, *args, **kwargs)  # type: ignore[misc]

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Note options."""
        self._try(super().log_hyperparams, *args, **kwargs)  # type: ignore[misc]

    def save(self) -> None:
        """Write what is new."""
        self._try(super().save)  # type: ignore[misc]

    def finalize(self, status: str) -> None:
        """Write the rest."""
        self._try(super().finalize, status)  # type: ignore[misc]

    def _try(self, method: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        try:
            method(*args, **kwargs)
        except OSError as error:
            if not self._is_said:
                self._is_said = True
                print(f"Log not written: {error}; training goes on", flush=True)


class TableLogger(_GoingOn, CSVLogger):
    """Lightning's logger of tables with the writer :class:`TableWriter`."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """What writes the table."""
        if self._experiment is None:
            os.makedirs(self.root_dir, exist_ok=True)
            self._experiment = TableWriter(log_dir=self.log_dir)
        return self._experiment


class BoardLogger(_GoingOn, TensorBoardLogger):
    """Lightning's logger for TensorBoard."""


def run_loggers(folder: str | os.PathLike[str]) -> list[TableLogger | BoardLogger]:
    """A table and TensorBoard's log in ``logs`` of a folder, each start with a version of its own.

    Args:
        folder: Folder of the run.
    """
    table = TableLogger(os.fspath(folder), name=LOGS)
    return [table, BoardLogger(os.fspath(folder), name=LOGS, version=table.version)]


def _rows(rows: list[dict[str, Any]], columns: list[str], *, header: bool) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=columns)
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _append(path: str, rows: bytes) -> None:
    """Append whole lines; what a full disk took of them only in part is taken back."""
    with open(path, "ab", buffering=0) as file:
        size = file.tell()
        try:
            if file.write(rows) != len(rows):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        except OSError:
            os.truncate(path, size)
            raise
