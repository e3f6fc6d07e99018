"""How kernels are compiled, and by how many threads they are run.

The number of threads follows torch's. A process that was forked off runs the serial functions, since OpenMP does not
survive a fork.

Threads of other libraries must rest meanwhile. Those of OpenBLAS, which numpy's ``@`` wakes, go on looking for work for
some time, and where there are no cores left for them ours then wait for the next tick of the clock, in every kernel:
steps took twice as long. So nothing here is multiplied by numpy.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

OPTIONS = {"fastmath": {"reassoc", "contract", "nsz", "arcp"}, "error_model": "numpy", "cache": True}
"""Sums may be reordered and fused; nothing is assumed of NaN and infinity."""

PRODUCT_OPTIONS = {"fastmath": {"contract"}, "error_model": "numpy", "cache": True}
"""Sums keep their order, and fuse with products. For what several kernels are made of, such as those for one thread and
for more: where a function is compiled into must not change its numbers."""

EXACT_OPTIONS = {"error_model": "numpy", "cache": True}
"""Likewise where a sum of two products leaves open which of them is fused."""

SERIAL_WORK = 200_000
"""Products of edges and features below which threads cost more than they bring."""

# glibc gives freed memory back to the system above a limit that grows with the largest block freed so far, up to twice
# 32 MiB; until then every step takes its memory anew, page by page. One free of a block that nobody touched sets it.
torch.empty(31 << 20, dtype=torch.uint8)

_forked = False
_one_at_a_time = threading.Lock()  # one of numba's threading layers ends the process if two threads call it


def _mark_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_fork)


Cut = Callable[[int], np.ndarray]
"""Cuts rows into one range for each of some threads; gives the bounds, shape ``[threads + 1]``."""


def evenly(n_rows: int, unit: int = 1) -> Cut:
    """Ranges of as many rows each, in multiples of a unit."""
    n_units = -(-n_rows // unit)
    return lambda threads: np.array([min(t * n_units // threads * unit, n_rows) for t in range(threads + 1)])


def by_work(ptr: np.ndarray) -> Cut:
    """Ranges of as much work each.

    Args:
        ptr: Where the work of each row begins and ends, shape ``[rows + 1]``.
    """
    return within(ptr, 0, ptr.shape[0] - 1)


def within(ptr: np.ndarray, first: int, last: int) -> Cut:
    """Ranges of as much work each, of the rows from ``first`` to ``last``."""

    def cut(threads: int) -> np.ndarray:
        begin, end = int(ptr[first]), int(ptr[last])
        bounds = np.searchsorted(ptr, begin + np.arange(threads + 1) * (end - begin) // threads)
        bounds[0], bounds[-1] = first, last
        return bounds.clip(first, last)

    return cut


def run(serial: Callable, parallel: Callable, cut: Cut, work: int, *arguments: Any) -> None:
    """Call a kernel for all rows, by as many threads as torch has.

    Args:
        serial: Kernel for a range of rows.
        parallel: The same for several ranges at a time.
        cut: Of the rows.
        work: Number of products, from which to tell whether threads are worth it.
        *arguments: Arrays.
    """
    threads = num_threads(work)
    if threads == 1:
        serial(*cut(1), *arguments)
        return
    with several(threads):
        parallel(cut(threads), *arguments)


def is_large(work: int) -> bool:
    """Whether a number of products is worth threads."""
    return work >= SERIAL_WORK


def num_threads(work: int) -> int:
    """Threads for a number of products: as many as torch has, one in processes that were forked off."""
    if _forked or not is_large(work):
        return 1
    return min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)


@contextlib.contextmanager
def several(threads: int) -> Iterator[None]:
    """Have numba use some threads, for one caller at a time."""
    numba.set_num_threads(threads)
    with _one_at_a_time:
        yield


def array(x: Tensor | None) -> np.ndarray | None:
    """The memory of a tensor, in rows.

    Raises:
        ValueError: If the tensor stands for several, as gradients do that autograd takes all at once.
    """
    if x is None:
        return None
    if torch._C._functorch.is_legacy_batchedtensor(x):
        raise ValueError(
            "several gradients at once (is_grads_batched=True, vectorize=True) cannot go through compiled kernels; "
            "take one after the other, or all at once by torch.func.jacrev or torch.func.hessian"
        )
    values = (x.detach() if x.requires_grad else x).numpy()
    return values if values.flags.c_contiguous else np.ascontiguousarray(values)


def arrays_of(*tensors: Tensor | None) -> list[np.ndarray | None]:
    """The memory of several tensors."""
    return [array(x) for x in tensors]


_CPU = torch.device("cpu")
_SHARED = 1 << 20  # bytes
_TORCH_TYPES = {np.dtype(np.float32): torch.float32, np.dtype(np.float64): torch.float64}


def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array of real numbers that begins where a line of the cache does, as torch's do.

    Numpy's begin anywhere in a line, and most vectors then lie in two of them: convolutions took 1.6 times as long.
    """
    return torch.empty(shape, dtype=_TORCH_TYPES[dtype], device=_CPU).numpy()


def empties(shapes: Sequence[tuple[int, ...]], dtype: np.dtype) -> list[np.ndarray]:
    """Several such arrays; small ones share their memory, since asking for it takes longer than filling them."""
    line, most = 64 // dtype.itemsize, _SHARED // dtype.itemsize
    ends, sizes = [], [math.prod(shape) for shape in shapes]
    for size in sizes:
        ends.append((ends[-1] if ends else 0) + (-(-size // line) * line if size <= most else 0))
    memory = empty((ends[-1] if ends else 0,), dtype)
    found = []
    for begin, size, shape in zip([0, *ends], sizes, shapes, strict=False):
        found.append(memory[begin : begin + size].reshape(shape) if size <= most else empty(shape, dtype))
    return found


def zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Likewise, full of zeros."""
    values = empty(shape, dtype)
    values.fill(0)
    return values
