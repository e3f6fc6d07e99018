"""A command on several ranks of MPI: where one of them fails, all of them end, and one of them says why."""

from __future__ import annotations

import atexit
import time
from collections.abc import Sequence
from typing import Any

import torch

from pyg_schnet.interfaces.lammps import run_file as run_input

_SILENCE = 2.0  # s in which the first rank can say what all ranks would


def run_file(path: str, model: str, elements: Sequence[str] | None, *, precision: str, **options: Any) -> None:
    """Run an input file of LAMMPS; see :func:`pyg_schnet.interfaces.lammps.run_file`.

    Args:
        path: Input file.
        model: Model file.
        elements: Chemical symbol of each atom type.
        precision: Name of the dtype.
        **options: Other options.
    """
    try:
        run_input(path, model, elements, dtype=getattr(torch, precision), **options)
    except Exception:
        _end_all_ranks()
        raise


def _end_all_ranks() -> None:
    """End the others as well when this process exits, since they may wait for it."""
    try:
        from mpi4py import MPI
    except (ImportError, OSError):
        return
    comm = MPI.COMM_WORLD
    if comm.size > 1:
        atexit.register(comm.Abort, 1)
        if comm.rank > 0:
            time.sleep(_SILENCE)
