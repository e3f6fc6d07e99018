"""Files that are whole at every moment, whatever interrupts their writing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

PARTIAL = ".partial"
"""How the names of files end while they are being written."""


@contextlib.contextmanager
def written(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file beside its place, and move it there when it is complete and on the disk.

    The old file stays as it is until the new one takes its place in a single step, also where the process is killed,
    the disk is full or the power fails. Being in the same folder, the file never crosses from one file system to
    another. A link stays a link: the file it leads to is replaced.

    Args:
        path: File to write; its folder has to be there.

    Yields:
        Path to write to. Nothing is left of it if the block raises.

    Raises:
        OSError: If the file cannot be written; the message names it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with written(Path(folder) / "a.txt") as partial:
        ...         _ = partial.write_text("whole")
        ...     print(os.listdir(folder))
        ['a.txt']
    """
    target = Path(os.path.realpath(path))
    partial = target.with_name(f".{target.name}.{os.getpid()}{PARTIAL}")
    try:
        yield partial
        _to_disk(partial)
        os.replace(partial, target)
        _to_disk(target.parent)
    except OSError as error:
        if error.errno is None:
            raise
        raise type(error)(error.errno, error.strerror, os.fspath(path)) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def write_whole(path: str | os.PathLike[str], content: bytes | memoryview | str) -> None:
    """Write bytes, or text in UTF-8, by :func:`written`.

    Args:
        path: File to write.
        content: What it is going to hold.

    Raises:
        OSError: If the file cannot be written; the one before is still there.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_whole(Path(folder) / "a.txt", "whole")
        ...     (Path(folder) / "a.txt").read_text()
        'whole'
    """
    with written(path) as partial, open(partial, "wb") as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


def remove_partial(folder: str | os.PathLike[str]) -> None:
    """Remove what processes that were killed have left of files they were writing.

    Args:
        folder: Where to look; only one process may write there.
    """
    for path in Path(folder).glob(f".*{PARTIAL}"):
        with contextlib.suppress(OSError):
            path.unlink()


def _to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk, where the system can say so."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError:
        if not is_folder:  # not all file systems know how to do it for folders
            raise
    finally:
        os.close(handle)
