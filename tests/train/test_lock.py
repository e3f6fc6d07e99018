"""One run in a folder at a time, and nothing that stays locked."""

import subprocess
import sys
import time

import pytest

from pyg_schnet.train.lock import LOCK_FILE, locked

HOLD = """
import fcntl, os, sys, time
handle = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(handle, fcntl.LOCK_EX)
os.write(handle, b"process %d on here" % os.getpid())
print("locked", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that trains in the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / LOCK_FILE)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def enter(folder):
    with locked(folder):
        return True


def test_a_second_run_is_refused_until_the_first_is_gone(tmp_path, holder):
    with pytest.raises(ValueError, match=rf"is in use: process {holder.pid} on here trains there; wait for it, or"):
        enter(tmp_path)
    holder.kill()  # which leaves the file
    holder.wait()
    assert (tmp_path / LOCK_FILE).exists()
    for _ in range(50):
        try:
            assert enter(tmp_path)
            break
        except ValueError:  # the system lets go of it a moment later
            time.sleep(0.1)
    else:
        pytest.fail("a lock outlives its process")
    assert not (tmp_path / LOCK_FILE).exists()


def test_folders_that_stay_empty_are_not_left_behind(tmp_path):
    with locked(tmp_path / "runs" / "one"):
        assert (tmp_path / "runs" / "one" / LOCK_FILE).exists()
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "runs" / "one"):
        (tmp_path / "runs" / "one" / "a").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["runs", "one", "a"]


def test_without_locks_nothing_is_locked(tmp_path, monkeypatch):
    monkeypatch.setattr("pyg_schnet.train.lock.fcntl", None)
    with locked(tmp_path):
        assert enter(tmp_path)
