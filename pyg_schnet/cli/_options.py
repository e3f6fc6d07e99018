"""Options of commands; every one is a parameter of a function or class, and explained there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jsonargparse

from pyg_schnet.cli._packages import import_for
from pyg_schnet.cli._sentences import is_of_parser, sentence_of


def run_function(command: str, function: Callable[..., None], args: list[str], needs: str | None = None) -> None:
    """Run a command that is a function of its options.

    Args:
        command: Name of the command.
        function: What it does.
        args: Arguments of the command line.
        needs: Module that the function imports when it is called.
    """
    with readable_errors(command):
        # not auto_cli, whose own --config would take the place of that of a function
        parser = jsonargparse.ArgumentParser(prog=f"pyg-schnet {command}", exit_on_error=False)
        parser.add_function_arguments(function, as_positional=True)
        options = parser.parse_args(args).as_dict()
        if needs is not None:
            import_for(command, needs, quickly=True)
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


def prepare_torch() -> None:
    """Set the precision of matrix products, and no more threads than there are cores."""
    import torch

    torch.set_float32_matmul_precision("high")
    if (cores := os.cpu_count()) is not None and torch.get_num_threads() > cores:
        torch.set_num_threads(cores)  # OMP_NUM_THREADS may be anything; more threads than cores wait for each other
