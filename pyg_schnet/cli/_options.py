"""Options of commands; every one is a parameter of a function or class, and explained there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonargparse

from pyg_schnet.cli._formatter import HelpFormatter
from pyg_schnet.cli._help import EXAMPLES, summary_of
from pyg_schnet.cli._packages import import_for
from pyg_schnet.cli._prepare import prepare_torch
from pyg_schnet.cli._sentences import UsageError, is_of_parser, sentence_of


def parser_of(command: str, function: Callable[..., object], **options: Any) -> jsonargparse.ArgumentParser:
    """Parser of a command that is a function of its options; its help has the examples of the command.

    Args:
        command: Name of the command, of which :data:`pyg_schnet.cli._help.EXAMPLES` has examples.
        function: What it does.
        **options: Of jsonargparse's ``add_function_arguments``.
    """
    # not auto_cli, whose own --config would take the place of that of a function
    parser = jsonargparse.ArgumentParser(
        prog=f"pyg-schnet {command}",
        exit_on_error=False,
        formatter_class=HelpFormatter,
        description=summary_of(function),
        epilog=EXAMPLES[command],
    )
    parser.add_function_arguments(function, as_group=False, as_positional=True, **options)
    return parser


def run_function(command: str, function: Callable[..., None], args: list[str], needs: Sequence[str] = ()) -> None:
    """Run a command that is a function of its options.

    Args:
        command: Name of the command.
        function: What it does.
        args: Arguments of the command line.
        needs: Modules that the function imports when it is called.
    """
    with readable_errors(command, args):
        options = parser_of(command, function).parse_args(args).as_dict()
    for name in needs:
        import_for(command.split()[0], name, quickly=True)
    prepare_torch()
    function(**options)


def with_flags(args: list[str], flags: tuple[str, ...]) -> list[str]:
    """Arguments in which flags without a value get one.

    Example:
        >>> with_flags(["a.xyz", "--resume", "--steps", "5"], ("--resume",))
        ['a.xyz', '--resume=true', '--steps', '5']
        >>> with_flags(["--resume", "false"], ("--resume",))
        ['--resume', 'false']
    """
    return [
        f"{one}=true" if one in flags and args[k + 1 : k + 2] not in (["true"], ["false"]) else one
        for k, one in enumerate(args)
    ]


@contextmanager
def readable_errors(command: str, args: Sequence[str] = ()) -> Iterator[None]:
    """Make one sentence of what the parser of options says, and look at files of options before it does.

    Args:
        command: Name of the command.
        args: Its arguments.

    Raises:
        UsageError: If it does not understand them.
        ValueError: If a file of options cannot be read, or a class was given options out of range.
    """
    files = list(_configurations(command, args))
    try:
        for name in files:
            _check_configuration(name)
        yield
    except jsonargparse.ArgumentError as error:
        place = f" (in the command or in {', '.join(files)})" if files else ""
        said = f"{sentence_of(str(error))}{place}; pyg-schnet {command} --help explains the options"
        raise UsageError(said) from error
    except ValueError as error:  # of a class that was given options out of range
        if not is_of_parser(str(error)):
            raise
        raise ValueError(sentence_of(str(error))) from error


def _configurations(command: str, args: Sequence[str]) -> Iterator[str]:
    """Files of options among the arguments: those of ``--config``, and parts as ``--data options.yaml``."""
    for place, argument in enumerate(args):
        name, is_joined, value = argument.partition("=")
        value = value if is_joined else next(iter(args[place + 1 : place + 2]), "")
        if name == "--config" or (command == "train" and name[:2] == "--" and value.endswith((".yaml", ".yml"))):
            yield value


def _check_configuration(name: str) -> None:
    """Raise for a file that is no configuration, before the parser reads all that its aliases stand for."""
    of_shell = re.fullmatch(r"/dev/fd/\d+|/proc/self/fd/\d+", name)  # <(...), which can be read once
    if name.lstrip().startswith("{") or of_shell:  # "{": the options themselves
        return
    from pyg_schnet.train.configuration import read_configuration

    read_configuration(Path(name))


@contextmanager
def of_configuration(where: str) -> Iterator[None]:
    """Say which configuration it was that no data set can be made of.

    Args:
        where: What it is.

    Raises:
        ValueError: If the parser does not understand it.
    """
    try:
        yield
    except jsonargparse.ArgumentError as error:
        raise ValueError(f"{where}: {sentence_of(str(error))}") from error
