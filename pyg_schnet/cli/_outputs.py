"""Files that commands write: looked at before the work begins, whole when it is done."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path


def check_output(
    output: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]] = (), endings: Sequence[str] = ()
) -> Path:
    """The path of a file that can be written, and is none of those that are read.

    Args:
        output: File to write; its folder is made when it is written.
        inputs: Files that the command reads.
        endings: How its name may end; empty for any ending.

    Raises:
        OSError: If there is a folder, a pipe or a device in its place, or a folder that cannot be written to.
        ValueError: If it has another ending, or is a file that is read, also by a link.

    Example:
        >>> check_output("nowhere/table.txt", endings=(".csv", ".npz"))
        Traceback (most recent call last):
        ValueError: output must end in .csv or .npz, got nowhere/table.txt
    """
    path = Path(output)
    if endings and (path.suffix not in endings or str(output).endswith(os.sep)):
        raise ValueError(f"output must end in {' or '.join(endings)}, got {str(output) or 'nothing'}")
    if not str(output) or not path.name or str(output).endswith(os.sep):
        raise IsADirectoryError(f"output must be the name of a file, got {str(output) or 'nothing'}")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = None  # also of a link to a file that is not there yet
    except NotADirectoryError as error:
        raise NotADirectoryError(f"{path} cannot be written: a part of its name is a file, not a folder") from error
    except ValueError as error:  # a zero byte
        raise ValueError(f"{str(path)!r} is not the name of a file: {error}") from error
    if mode is not None and stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path} is a folder; give the name of a file to write")
    if mode is not None and not stat.S_ISREG(mode):
        raise OSError(f"{path} is a pipe or a device; give the name of a file to write")
    for one in inputs:
        if mode is not None and os.path.exists(one) and os.path.samefile(path, one):
            raise ValueError(f"{path} is the same file as {one}, which is read; choose another output")
    folder = next(one for one in path.absolute().parents if one.exists())
    if not folder.is_dir():
        raise NotADirectoryError(f"{path} cannot be written: {folder} is a file, not a folder")
    if not os.access(folder, os.W_OK) or (mode is not None and not os.access(path, os.W_OK)):
        raise PermissionError(f"{path} cannot be written: permission denied")
    return path
