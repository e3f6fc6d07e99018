"""Errors as one sentence: the one place that decides what a command says, and its exit code."""

from __future__ import annotations

import os
import re
import sys
from typing import NoReturn

LONGEST = 600
"""Characters after which a sentence is cut; ``--debug`` shows all of it."""


_NOISE = (
    r"Does not validate against any of the Union subtypes",
    r"Subtypes: \[.*?\](?=\s|$)",
    r"Errors:",
    r"(?s)Subclass types expect one of:.*?(?=Given value|\Z)",
    r"Problem with given class_path '[^']*':",
    r"- Expected a <class 'NoneType'>",
    r"Given value type: .*",
    r"Given value: .*",
)


class UsageError(ValueError):
    """Options that a command does not have or cannot read; its exit code is 2."""


def stop(command: str, error: BaseException, *, debug: bool) -> NoReturn:
    """End the process with one sentence on ``stderr``, and exit code 2 for options that are not understood, else 1.

    Args:
        command: Name of the command; empty for none.
        error: What was raised.
        debug: Whether to print the traceback first.

    Raises:
        SystemExit: Always; it has the sentence and the code.
    """
    if debug:
        import traceback

        traceback.print_exception(error)
    if isinstance(error, BrokenPipeError):  # as of `| head`, which has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    ending = SystemExit(f"pyg-schnet{' ' * bool(command)}{command}: {explained(error)}")
    ending.code = 2 if isinstance(error, UsageError) else 1
    print(ending, file=sys.stderr)
    raise ending from error


def explained(error: BaseException) -> str:
    r"""What went wrong, in one line without characters that steer a terminal.

    Args:
        error: What was raised.

    Example:
        >>> explained(PermissionError(13, "Permission denied", "a.xyz"))
        'a.xyz: permission denied'
        >>> explained(ValueError("a.xyz:\n  no \x1b structure"))
        'a.xyz: no \\x1b structure'
        >>> explained(KeyError("a"))
        "KeyError: 'a'; this was not expected, --debug shows where it comes from"
    """
    text = str(error)
    if isinstance(error, OSError) and error.strerror and error.errno is not None:
        text = error.strerror[:1].lower() + error.strerror[1:]
        text = text if error.filename is None else f"{os.fsdecode(error.filename)}: {text}"
    elif isinstance(error, (MemoryError, RecursionError)) or type(error).__name__ == "OutOfMemoryError":
        said = "nested too deeply" if isinstance(error, RecursionError) else "larger than the memory"
        text = f"the input is {said}" + (f" ({text})" if text else "")
    elif type(error).__name__ == "ArgumentError" and hasattr(error, "argument_name"):
        text = sentence_of(text)
    elif not isinstance(error, (ValueError, OSError, ImportError)) and not _is_misuse(error):
        text = f"{type(error).__name__}: {text}; this was not expected, --debug shows where it comes from"
    elif is_of_parser(text):
        text = sentence_of(text)
    return _short(" ".join(text.split()) or type(error).__name__)


def _is_misuse(error: BaseException) -> bool:
    """Whether Lightning says that its options do not fit; it has an exception of its own for that."""
    return type(error).__name__ == "MisconfigurationException"


def _short(text: str) -> str:
    text = "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 30]} ... (--debug shows the rest)"


def is_of_parser(text: str) -> bool:
    """Whether a text is one in which the parser lists what it has tried."""
    return "Does not validate against any of the Union subtypes" in text


def sentence_of(text: str) -> str:
    r"""The reason alone, without the types that were tried and all options that were given.

    Args:
        text: Message of jsonargparse, of any number of lines.

    Example:
        >>> tried = "Does not validate against any of the Union subtypes\nSubtypes: [<class 'T'>, <class 'NoneType'>]\n"
        >>> sentence_of(tried + "Errors:\n  - lr must be positive, got 0.0\n  - Expected a <class 'NoneType'>")
        'lr must be positive, got 0.0'
    """
    for noise in _NOISE:
        text = re.sub(noise, "", text)
    text = re.sub(r"<class '(?:[\w.]*\.)?(\w+)'>", r"\1", text)
    text = re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", text)
    keys = re.compile(r'Parser key "([\w.]+)":\s*(?:-\s+)?Parser key "([\w.]+)":')
    while (joined := keys.sub(r'Parser key "\1.\2":', text)) != text:
        text = joined
    text = text.replace("Expected a one of", "Expected one of")
    parts = [line.strip().removeprefix("- ") for line in text.splitlines()]
    text = "; ".join(part for part in parts if part.strip(" -"))
    text = re.sub(r'Parser key "([\w.]+)":', r"--\1:", text)
    return re.sub(r"(--[\w.]+:)[ ;-]*", r"\1 ", " ".join(text.split()))
