"""The command ``pyg-schnet`` with its commands, one module each, imported when it is run."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence

from pyg_schnet.cli._help import TRAIN
from pyg_schnet.cli._packages import EXTRAS, import_for
from pyg_schnet.pretrained import VERSION

COMMANDS = tuple(EXTRAS)

_USAGE = """usage: pyg-schnet [-h] [--version] COMMAND ...

SchNet for molecules and materials.

commands:
  train     train a model; without options, SchNet on QM9 for five minutes
  test      error of a saved model on the test structures of its run
  predict   property of the structures in any file that ASE reads
  merge     one model, the mean of those of several runs
  analyze   look inside a model: probe, embedding, dimer, modes, spectrum, filters
  report    draw a run: curves, predictions beside labels, errors by element and size
  doctor    look at the installation: versions, devices, compiled kernels, speed

examples:
  pyg-schnet train
  pyg-schnet predict molecule.xyz --model qm9-u0
  pyg-schnet doctor

pyg-schnet COMMAND --help explains the options of each.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv: Arguments; ``None`` takes those of the process.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return
    if argv[0] == "--version":
        print(f"pyg_schnet {VERSION}")
        return
    command, rest = argv[0], argv[1:]
    if command not in COMMANDS:
        print(_USAGE, end="", file=sys.stderr)
        sys.exit(f"pyg-schnet: unknown command {command!r}")
    if command == "train" and any(one in ("-h", "--help") for one in rest):
        print(TRAIN, end="")
        return
    module = import_for(command, f"pyg_schnet.cli.{command}")
    _quiet()
    try:
        module.run(rest)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"pyg-schnet {command}: {error}")
    except Exception as error:
        if not _is_misuse(error):
            raise
        sys.exit(f"pyg-schnet {command}: {' '.join(str(error).split())}")


def _is_misuse(error: Exception) -> bool:
    """Whether Lightning says that its options do not fit; it has an exception of its own for that."""
    return type(error).__name__ == "MisconfigurationException"


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
