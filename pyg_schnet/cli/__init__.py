"""The command ``pyg-schnet`` with its commands, one module each, imported when it is run."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence

from pyg_schnet.cli._help import TRAIN
from pyg_schnet.cli._packages import EXTRAS, import_for
from pyg_schnet.cli._sentences import UsageError, stop
from pyg_schnet.pretrained import VERSION

COMMANDS = tuple(EXTRAS)
DEBUG = "--debug"
"""Option of all commands, before or after their names: show where an error comes from."""

_USAGE = """usage: pyg-schnet [-h] [--version] COMMAND ...

SchNet for molecules and materials.

commands:
  train           train a model; without options, SchNet on QM9 for five minutes
  test            error of a saved model on the test structures of its run
  predict         property of the structures in any file that ASE reads; forces and stress too
  md              molecular dynamics of a structure, with restarts
  relax           move atoms, and their cell, to where there are no forces
  merge           one model, the mean of those of several runs
  lammps          run an input file of LAMMPS with a model as its pair style, on any number of ranks
  audit           whether a model is a sound potential: invariances, neighbours, forces, ...
  analyze         look inside a model: probe, embedding, dimer, modes, spectrum, filters
  report          draw a run: curves, predictions beside labels, errors by element and size
  reference-data  training data: energies and forces of molecules by GFN2-xTB
  doctor          look at the installation: versions, devices, compiled kernels, speed

examples:
  pyg-schnet train
  pyg-schnet predict molecule.xyz --model qm9-u0
  pyg-schnet doctor

pyg-schnet COMMAND --help explains the options of each.
With --debug, errors show where they come from.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv: Arguments; ``None`` takes those of the process.

    Raises:
        SystemExit: If something goes wrong; with one sentence, and exit code 2 for options that are not understood,
            otherwise 1.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = DEBUG in argv
    argv = [one for one in argv if one != DEBUG]
    command, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    try:
        _run(command, rest)
        sys.stdout.flush()  # a full disk, or a pipe that is closed, is noticed here
    except Exception as error:
        stop(command if command in COMMANDS else "", error, debug=debug)


def _run(command: str, rest: list[str]) -> None:
    if command in ("-h", "--help"):
        print(_USAGE, end="")
        return
    if command == "--version":
        print(f"pyg_schnet {VERSION}")
        return
    if command not in COMMANDS:
        print(_USAGE, end="", file=sys.stderr)
        raise UsageError(f"unknown command {command!r}")
    if command == "train" and any(one in ("-h", "--help") for one in rest):
        print(TRAIN, end="")
        return
    module = import_for(command, f"pyg_schnet.cli.{command.replace('-', '_')}")
    _quiet()
    module.run(rest)


def _quiet() -> None:
    """Silence what libraries say about themselves; our own warnings and all errors stay."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended to run from within Python.*")
    warnings.filterwarnings("ignore", message="The number of training batches .* is smaller than the logging interval")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty.")  # when resuming
    warnings.filterwarnings("ignore", message="It is recommended to use .*sync_dist=True")  # errors are added before
    warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")


if __name__ == "__main__":
    main()
