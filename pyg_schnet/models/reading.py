"""Files that may hold anything: what cannot be read is refused in one sentence that names the file."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def check_file(path: str | os.PathLike[str]) -> Path:
    """The path of a regular file; pipes would wait for ever, devices never end.

    Args:
        path: File to read.

    Raises:
        FileNotFoundError: If there is none.
        OSError: If it is a folder, a pipe or a device, a link that leads nowhere, or no name of a file.

    Example:
        >>> check_file("nowhere.xyz")
        Traceback (most recent call last):
        FileNotFoundError: there is no file nowhere.xyz
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        more = f": it is a link to {os.readlink(path)}, which is not there" if path.is_symlink() else ""
        raise FileNotFoundError(f"there is no file {path}{more}") from None
    except OSError as error:
        raise OSError(f"{_short(str(path))} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a zero byte
        raise OSError(f"{str(path)!r} is not the name of a file: {error}") from error
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path} is a folder, expected a file")
    if not stat.S_ISREG(mode):
        raise OSError(f"{path} is {_KINDS.get(stat.S_IFMT(mode), 'no file')}, expected a regular file; copy it to one")
    return path


def read_text(path: str | os.PathLike[str], limit: int | None = None) -> str:
    """Text of a file in UTF-8.

    Args:
        path: File to read.
        limit: Largest size in bytes; ``None`` for any.

    Raises:
        OSError: As :func:`check_file`.
        ValueError: If it is no such text, or too large.
    """
    path = check_file(path)
    if limit is not None and (size := path.stat().st_size) > limit:
        raise ValueError(f"{path} has {size:,} bytes, expected at most {limit:,}; it is no such file")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not text in UTF-8: byte {error.start:,} is 0x{error.object[error.start]:02x}"
        ) from error


def parse_json(text: str, where: str) -> Any:
    """Value of a text in JSON, whose keys are unique.

    Args:
        text: The text.
        where: What it is, for the message.

    Raises:
        ValueError: If it is not JSON, nested too deeply, or names a key twice.

    Example:
        >>> parse_json('{"a": 1, "a": 2}', "a.json")
        Traceback (most recent call last):
        ValueError: a.json is not JSON: the key 'a' appears twice
    """
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}") from error
    except ValueError as error:
        reason = str(error).split(";")[0]  # of too many digits, what follows is on Python
        raise ValueError(f"{where} is not JSON: {reason}") from error
    except RecursionError as error:
        raise ValueError(f"{where} is not JSON that can be read: it is nested too deeply") from error


def read_json(path: str | os.PathLike[str]) -> Any:
    """Value of a file in JSON; raises as :func:`read_text` and :func:`parse_json`."""
    return parse_json(read_text(path), str(path))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} appears twice")
    return found


def read_arrays(path: str | os.PathLike[str], names: Sequence[str]) -> dict[str, Any]:
    """Arrays of a NumPy archive, ``.npz``; nothing in it is unpickled.

    Args:
        path: File to read.
        names: Those to read, where they are there.

    Returns:
        The arrays by name, and ``None`` for others that the file has.

    Raises:
        OSError: As :func:`check_file`.
        ValueError: If it is no whole archive.
    """
    path = check_file(path)
    try:
        with open(path, "rb") as file:  # NumPy leaves it open where the archive is broken
            content = np.load(file, allow_pickle=False)
            if not isinstance(content, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array")
            return {name: content[name] if name in names else None for name in content.files}
    except Exception as error:  # zip files and headers of arrays go wrong in many ways
        said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        if "allow_pickle" in said:
            said = "it has an array of Python objects, or is a pickle, which could execute code"
        raise ValueError(f"{path} is no whole NumPy archive (.npz): {_short(' '.join(said.split()))}") from error


def described(value: Any, length: int = 60) -> str:
    """A value in a message: as Python writes it, without control characters, and not too long.

    Example:
        >>> described({"a": "b" * 100}, 20)
        "{'a': 'bbbbbbbbbb..."
    """
    return _short(repr(value), length)


def _short(text: str, length: int = 200) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def printable(text: str) -> str:
    r"""A text without characters that steer a terminal; they are written as escapes.

    Example:
        >>> printable("\x1b[31mred\n")
        '\\x1b[31mred\\n'
    """
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)
