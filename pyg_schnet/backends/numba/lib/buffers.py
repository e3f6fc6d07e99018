"""Memory of kernels: tensors as arrays, and new arrays that are aligned to cache lines."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

_SMALL = 1 << 20  # bytes
_CPU = torch.device("cpu")
_TORCH_TYPES = {np.dtype(np.float32): torch.float32, np.dtype(np.float64): torch.float64}


def array(x: Tensor | None) -> np.ndarray | None:
    """The memory of a tensor, in rows."""
    if x is None:
        return None
    values = (x.detach() if x.requires_grad else x).numpy()
    return values if values.flags.c_contiguous else np.ascontiguousarray(values)


def arrays_of(*tensors: Tensor | None) -> list[np.ndarray | None]:
    """The memory of several tensors."""
    return [array(x) for x in tensors]


def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array of real numbers aligned to cache lines, like torch's.

    Numpy's arrays are not aligned, so most vectors cross two cache lines: convolutions took 1.6 times as long.
    """
    _keep_freed_memory()
    return torch.empty(shape, dtype=_TORCH_TYPES[dtype], device=_CPU).numpy()


@cache
def _keep_freed_memory() -> None:
    """Keep freed memory in the process.

    glibc gives freed memory back to the system above a limit that grows with the largest block freed so far, up to
    twice 32 MiB; until then every step takes its memory again, page by page. One free of a block that is never written
    to, and so takes no memory, sets it.
    """
    torch.empty(31 << 20, dtype=torch.uint8)


def empties(shapes: Iterable[tuple[int, ...]], dtype: np.dtype) -> list[np.ndarray]:
    """Several such arrays, the small ones of one memory: asking for it takes longer than filling them."""
    shapes, line, most, size = list(shapes), 64 // dtype.itemsize, _SMALL // dtype.itemsize, 0
    places = []
    for count in map(math.prod, shapes):
        places.append((size, size + count) if count <= most else None)
        size += -(-count // line) * line if count <= most else 0
    memory = empty((size,), dtype)
    return [
        memory[slice(*place)].reshape(shape) if place else empty(shape, dtype)
        for place, shape in zip(places, shapes, strict=True)
    ]


def zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An aligned array of zeros, written without waking threads of torch, which would keep cores busy for a while."""
    values = empty(shape, dtype)
    values.fill(0)
    return values


def stacked(tensors: Tensor | Sequence[Tensor]) -> np.ndarray:
    """Tensors of one shape in one array ``[T, ...]``; a copy, unless they are stacked already."""
    return array((tensors if isinstance(tensors, Tensor) else torch.stack(list(tensors))).detach())
