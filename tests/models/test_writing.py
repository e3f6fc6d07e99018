"""Files are whole at every moment: old or new, never in between, and nothing is left beside them."""

import errno
import os
import stat
from pathlib import Path

import pytest

from pyg_schnet import SchNet, load
from pyg_schnet.data import Split
from pyg_schnet.models.writing import PARTIAL, remove_partial, write_whole, written
from pyg_schnet.train.files import write_json


def small():
    return SchNet(8, 8, 1)


WRITERS = {
    "model.safetensors": lambda path: small().save(path),
    "split.json": Split([0, 1], [2], [3], 4).save,
    "split.npz": Split([0, 1], [2], [3], 4).save,
    "result.json": lambda path: write_json(path, {"mae": 1.0}),
    "config.yaml": lambda path: write_whole(path, "seed: 1\n"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_old_file_and_nothing_else(name, tmp_path, monkeypatch):
    path = tmp_path / name
    path.write_bytes(b"old")

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device: .*" + name):
        WRITERS[name](path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [name]
    monkeypatch.undo()
    WRITERS[name](path)
    assert path.read_bytes() not in (b"", b"old")
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", WRITERS)
def test_files_are_on_the_disk_before_they_take_their_place(name, tmp_path, monkeypatch):
    """Contents first, then the name, then the folder: what a power failure leaves is old or new."""
    done = []
    fsync, replace = os.fsync, os.replace

    def on_disk(handle):
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def moved(source, target):
        assert Path(source).parent == Path(target).parent == tmp_path  # one file system, whatever TMPDIR is
        done.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", on_disk)
    monkeypatch.setattr(os, "replace", moved)
    WRITERS[name](tmp_path / name)
    assert done == ["file", "replace", "folder"]


def test_an_interruption_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")

    def write():
        with written(path) as partial:
            partial.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_links_stay_links(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a").write_text("old")
    (tmp_path / "a").symlink_to(tmp_path / "there" / "a")
    write_whole(tmp_path / "a", "new")
    assert (tmp_path / "a").is_symlink()
    assert (tmp_path / "there" / "a").read_text() == "new"


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none/a"):
        write_whole(tmp_path / "none" / "a", "x")


def test_what_killed_processes_left_is_removed(tmp_path):
    (tmp_path / f".last.ckpt.12{PARTIAL}").touch()
    (tmp_path / "last.ckpt").touch()
    remove_partial(tmp_path)
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_a_saved_model_is_read_again(tmp_path):
    model = small()
    again = load(model.save(tmp_path / "new" / "m.safetensors"))
    assert (again.embedding.weight == model.embedding.weight).all()
