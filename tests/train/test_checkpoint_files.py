"""Checkpoints on disks that are full for a while: the one before stays, and what failed is written later."""

import errno
import os

import pytest
import torch

from pyg_schnet.train.checkpoint_files import CheckpointFiles


@pytest.fixture
def disk(monkeypatch):
    """A disk that is full as long as its list is not empty."""
    full, fsync = [], os.fsync

    def write(handle):
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", write)
    return full


def value(path):
    return torch.load(path, weights_only=True)["value"]


def test_a_failed_save_is_said_once_and_tried_again(tmp_path, disk, capsys):
    files, path = CheckpointFiles(), tmp_path / "checkpoints" / "last.ckpt"
    files.save_checkpoint({"value": 1}, path)
    disk.append("full")
    for number in (2, 3):
        files.save_checkpoint({"value": number}, path)
        assert value(path) == 1
        assert os.listdir(path.parent) == ["last.ckpt"]
    said = capsys.readouterr().out
    assert said.count("Checkpoint not saved: [Errno 28] No space left on device") == 1
    assert f"{path}'; the one before is kept, training goes on, and each save tries again" in said
    disk.clear()
    files.save_checkpoint({"value": 4}, path)
    assert value(path) == 4
    assert "Checkpoints are saved again" in capsys.readouterr().out


def test_newer_checkpoints_wait_for_older_ones(tmp_path, disk):
    """A ``last.ckpt`` that knows of a best one is never on the disk without it."""
    files = CheckpointFiles()
    disk.append("full")
    files.save_checkpoint({"value": "best"}, tmp_path / "best.ckpt")
    files.save_checkpoint({"value": "last"}, tmp_path / "last.ckpt")
    assert os.listdir(tmp_path) == []
    disk.clear()
    assert files.write_waiting() is None
    assert value(tmp_path / "best.ckpt") == "best"
    assert value(tmp_path / "last.ckpt") == "last"
    assert not files.waiting


def test_checkpoints_that_are_no_longer_wanted_are_not_written(tmp_path, disk):
    files = CheckpointFiles()
    disk.append("full")
    files.save_checkpoint({"value": 1}, tmp_path / "old.ckpt")
    files.remove_checkpoint(tmp_path / "old.ckpt")
    disk.clear()
    files.write_waiting()
    assert os.listdir(tmp_path) == []
