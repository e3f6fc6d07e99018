"""Options of commands; every one is a parameter of a function or class, and explained there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jsonargparse

from pyg_schnet.cli._formatter import HelpFormatter
from pyg_schnet.cli._help import EXAMPLES, summary_of
from pyg_schnet.cli._packages import import_for
from pyg_schnet.cli._prepare import prepare_torch
from pyg_schnet.cli._sentences import is_of_parser, sentence_of


def run_function(
    command: str, function: Callable[..., None], args: list[str], needs: str | tuple[str, ...] | None = None
) -> None:
    """Run a command that is a function of its options.

    Args:
        command: Name of the command, of which :data:`pyg_schnet.cli._help.EXAMPLES` has examples.
        function: What it does.
        args: Arguments of the command line.
        needs: Modules that the function imports when it is called.
    """
    with readable_errors(command):
        # not auto_cli, whose own --config would take the place of that of a function
        parser = jsonargparse.ArgumentParser(
            prog=f"pyg-schnet {command}",
            exit_on_error=False,
            formatter_class=HelpFormatter,
            description=summary_of(function),
            epilog=EXAMPLES[command],
        )
        parser.add_function_arguments(function, as_group=False, as_positional=True)
        options = parser.parse_args(args).as_dict()
        for name in needs:
            import_for(command.split()[0], name, quickly=True)
        prepare_torch()
        function(**options)


@contextmanager
def readable_errors(command: str) -> Iterator[None]:
    """Make one sentence of what the parser of options says."""
    try:
        yield
    except jsonargparse.ArgumentError as error:
        raise ValueError(f"{sentence_of(str(error))}; pyg-schnet {command} --help explains the options") from error
    except ValueError as error:  # of a class that was given options out of range
        if not is_of_parser(str(error)):
            raise
        raise ValueError(sentence_of(str(error))) from error
