"""Number of threads of kernels, and division of rows among them.

The number of threads is torch's. A forked process runs the serial functions, since OpenMP does not survive a fork.

Threads of other libraries must be idle meanwhile. Those of OpenBLAS, which numpy's ``@`` starts, spin for some time and
occupy cores, so that every kernel waits for the scheduler: steps took twice as long. So numpy multiplies nothing here.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

import numba
import numpy as np
import torch

from pyg_schnet.backends import tuning
from pyg_schnet.backends.numba.lib.compiler import Routine

_forked = False
_one_at_a_time = threading.Lock()  # one of numba's threading layers ends the process if two threads call it


def _mark_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_fork)


Given, Found = TypeVar("Given"), TypeVar("Found")

Cut = Callable[[int], np.ndarray]
"""Divides rows into one range for each thread; returns the bounds, shape ``[threads + 1]``."""


def evenly(n_rows: int, unit: int = 1) -> Cut:
    """Ranges with equal numbers of rows, in multiples of a unit."""
    n_units = -(-n_rows // unit)
    return lambda threads: np.array([min(t * n_units // threads * unit, n_rows) for t in range(threads + 1)])


def equal_work(ptr: np.ndarray) -> Cut:
    """Ranges with equal work.

    Args:
        ptr: Where the work of each row begins and ends, shape ``[rows + 1]``.
    """

    def cut(threads: int) -> np.ndarray:
        begin, end = int(ptr[0]), int(ptr[-1])
        bounds = np.searchsorted(ptr, begin + np.arange(threads + 1) * (end - begin) // threads)
        bounds[0], bounds[-1] = 0, len(ptr) - 1
        return bounds

    return cut


def run(routine: Routine, cut: Cut, work: int, *arguments: Any) -> None:
    """Call a function of a range of rows for all rows, with the number of threads of torch.

    Args:
        routine: Function ``f(begin, end, ...)``.
        cut: Division of the rows.
        work: Total work, see :class:`pyg_schnet.backends.tuning.Tuning`.
        *arguments: Arrays.
    """
    threads = num_threads(work)
    if threads == 1:
        routine.kernel(*cut(1), *arguments)
        return
    with several(threads):
        routine.parallel(cut(threads), *arguments)


def run_together(evaluate: Callable[[Given], Found], parts: Sequence[Given], work: int) -> list[Found]:
    """Call a function of each part, several at a time, with the number of threads of torch.

    Args:
        evaluate: Calls a kernel that holds no lock of Python meanwhile.
        parts: What it is called with.
        work: Total work, see :class:`pyg_schnet.backends.tuning.Tuning`.
    """
    threads = num_threads(work) if len(parts) > 1 else 1
    return list((map if threads == 1 else _pool(threads).map)(evaluate, parts))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "pyg_schnet")


def is_large(work: int) -> bool:
    """Whether several threads are faster for this work."""
    return work >= tuning.current.serial_work


def recomputes(n_atoms: int) -> bool:
    """Whether activations of so many atoms are recomputed in the backward pass rather than kept."""
    return n_atoms >= tuning.current.recompute_atoms


def num_threads(work: int) -> int:
    """Number of threads for this work: that of torch, or one in forked processes."""
    if _forked or not is_large(work):
        return 1
    return min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)


@contextlib.contextmanager
def several(threads: int) -> Iterator[None]:
    """Set the number of threads of numba, for one caller at a time."""
    numba.set_num_threads(threads)
    with _one_at_a_time:
        yield
