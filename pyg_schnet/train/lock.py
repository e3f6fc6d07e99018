"""One run in a folder at a time."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = "run.lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder for the time of a ``with`` block.

    The system holds the lock and lets go of it when the process ends, however it does, so a file that is left behind
    locks nothing. On file systems without locks nothing is locked.

    Args:
        folder: Made if it is not there, with those above it; removed at the end if nothing is in them.

    Raises:
        ValueError: If another process trains in it; the message says which.
    """
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_FILE
    handle = _taken(path)
    try:
        yield
    finally:
        if handle is not None:
            path.unlink(missing_ok=True)  # before it is released, so that no other run locks a file that is about to go
            os.close(handle)
        with contextlib.suppress(OSError):
            for one in made:
                one.rmdir()  # if it is empty


def _taken(path: Path) -> int | None:
    """Handle of the locked file; ``None`` where there are no locks."""
    while fcntl is not None:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 1000).decode(errors="replace").strip() or "another process"
            os.close(handle)
            raise ValueError(
                f"{path.parent} is in use: {holder} trains there; wait for it, or choose another --run_dir"
            ) from None
        except OSError:
            os.close(handle)
            path.unlink(missing_ok=True)
            return None
        if _is_still(handle, path):
            os.ftruncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}, since {time.ctime()},\n".encode())
            return handle
        os.close(handle)  # it was removed by a run that ended in between
    return None


def _is_still(handle: int, path: Path) -> bool:
    """Whether an open file is the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False
