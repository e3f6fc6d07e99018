"""Logs of a run: whole lines at every moment, and a full disk that does not end it."""

import csv
import errno
import os

import pytest

from pyg_schnet.train import logs
from pyg_schnet.train.logs import BoardLogger, TableLogger, run_loggers


def rows(logger):
    with open(logger.experiment.metrics_file_path, newline="") as file:
        return list(csv.DictReader(file))


def test_rows_and_columns_are_added(tmp_path):
    logger = TableLogger(tmp_path, name="logs")
    for step, numbers in enumerate(({"b": 1.0}, {"b": 2.0}, {"a": 3.0, "b": 4.0}, {"b": 5.0})):
        logger.log_metrics(numbers, step)
        logger.save()
    assert [(row["a"], row["b"], row["step"]) for row in rows(logger)] == [
        ("", "1.0", "0"), ("", "2.0", "1"), ("3.0", "4.0", "2"), ("", "5.0", "3"),
    ]  # fmt: skip


def test_a_new_column_replaces_the_file_in_one_step(tmp_path, monkeypatch):
    logger = TableLogger(tmp_path, name="logs")
    logger.log_metrics({"a": 1.0}, 0)
    logger.save()
    logger.log_metrics({"a": 2.0, "b": 3.0}, 1)

    def killed(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            logger.save()
    assert [row["a"] for row in rows(logger)] == ["1.0"]
    logger.save()  # nothing of it is lost
    assert [row["b"] for row in rows(logger)] == ["", "3.0"]


def test_what_a_full_disk_took_in_part_is_taken_back(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"a\r\n1\r\n")
    limit = 8

    class Short:
        """A file that takes no more than a disk has room for."""

        def __init__(self, *args, **kwargs):
            self.file = open(*args, **kwargs)  # noqa: SIM115 - closed below

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def tell(self):
            return self.file.tell()

        def write(self, content):
            return self.file.write(content[: limit - self.tell()])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(logs, "open", Short, raising=False)
        with pytest.raises(OSError, match="No space left on device"):
            logs._append(str(path), b"2345\r\n")
    assert path.read_bytes() == b"a\r\n1\r\n"


def test_a_full_disk_is_said_once_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    logger = TableLogger(tmp_path, name="logs")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        for step in range(3):
            logger.log_metrics({"a": float(step)}, step)
            logger.save()
    assert capsys.readouterr().out.count("Log not written: [Errno 28] No space left on device") == 1
    logger.save()
    assert [row["a"] for row in rows(logger)] == ["0.0", "1.0", "2.0"]
    board = BoardLogger(tmp_path, name="logs")
    monkeypatch.setattr(type(board.experiment), "flush", full)
    board.finalize("success")


def test_each_start_has_a_version_of_its_own(tmp_path):
    for number in range(2):
        table, board = run_loggers(tmp_path)
        assert table.version == board.version == number
        table.log_metrics({"a": 1.0}, 0)
        table.save()
