"""The parser of commands that need no other package, and what parsers share."""

from __future__ import annotations

import argparse
from typing import NoReturn

from pyg_schnet.cli._sentences import UsageError


class Lines:
    """Mixin for argparse's formatters: texts of several lines stay as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)  # type: ignore[misc]  # a mixin


class _Formatter(Lines, argparse.HelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        shown = action.default is not None and action.default != argparse.SUPPRESS
        return f"{action.help} (default: %(default)s)" if shown else action.help


class Parser(argparse.ArgumentParser):
    """Parser of a command that needs no other package.

    Args:
        command: Name of the command.
        description: What it does.
    """

    def __init__(self, command: str, description: str) -> None:
        super().__init__(prog=f"pyg-schnet {command}", description=description, formatter_class=_Formatter)

    def error(self, message: str) -> NoReturn:
        """Raise what does not fit, as other commands do.

        Raises:
            UsageError: Always.
        """
        raise UsageError(f"{message}; {self.prog} --help explains the options")
