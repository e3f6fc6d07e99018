"""Many small tensors in one call, found by where they lie in memory; a call for each takes longer than its sums.

Torch would also wake its own threads for so little.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, prange, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from pyg_schnet.backends.numba.lib.compiler import njit
from pyg_schnet.backends.numba.lib.parallel import OPTIONS, array, empties, evenly, run
from pyg_schnet.backends.numba.lib.transpose import transpose_tiles, whole_tiles

_PRODUCTS = 4  # for each number that is copied, in units of those of a convolution


@intrinsic
def _pointer(typing: Any, address: types.Integer) -> tuple[Any, Callable]:
    """What lies at an address."""

    def build(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(address), build


@njit(**OPTIONS)
def _stack(begin, end, places, stacked, turned) -> None:
    for k in range(len(stacked)):
        out, out_t = stacked[k], turned[k]
        n_rows, n_columns = out.shape[1:]
        for t in range(begin, end):
            matrix = carray(_pointer(places[k, t]), (n_rows, n_columns), out.dtype)
            out[t] = matrix
            if out_t.shape[0] > 0:
                transpose_tiles(0, whole_tiles(n_rows), matrix, out_t[t])


@njit(parallel=True, **OPTIONS)
def _stack_parallel(bounds, places, stacked, turned) -> None:
    for part in prange(bounds.shape[0] - 1):
        _stack(bounds[part], bounds[part + 1], places, stacked, turned)


class Stacks:
    """Tensors copied into one array for each kind, and their transposes into another, again and again.

    Where they lie is looked up once, and anew when one of them lies elsewhere.

    Args:
        kinds: Tensors of one shape for each kind, vectors or matrices of one type; as many of each kind.
        turned: Kinds, by their number, whose transposes are wanted.

    Raises:
        ValueError: When called, if the tensors of a kind have come to differ in shape or type.
    """

    def __init__(self, kinds: Iterable[Iterable[Tensor]], turned: Collection[int] = ()) -> None:
        self._kinds = [list(tensors) for tensors in kinds]
        self._tensors = [tensor for tensors in self._kinds for tensor in tensors]
        self._turned = turned
        self._places: list[int] = []
        self._addresses: np.ndarray | None = None
        self._shapes: list[torch.Size] = []

    def __call__(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """One array ``[T, ...]`` for each kind, and transposes of those that are turned."""
        places = [tensor.data_ptr() for tensor in self._tensors]
        if places != self._places:
            self._shapes = self._common_shapes()  # the memory of these tensors is read without further checks
            in_rows = all(tensor.is_contiguous() for tensor in self._tensors)
            self._places, self._addresses = places, self._in_order(places) if in_rows else None
        if self._addresses is not None:
            return self._copy(self._addresses)
        rows = [tensor.detach().contiguous() for tensor in self._tensors]
        return self._copy(self._in_order([tensor.data_ptr() for tensor in rows]))

    def _common_shapes(self) -> list[torch.Size]:
        for tensors in self._kinds:
            if len({tensor.shape for tensor in tensors}) > 1:
                raise ValueError(f"tensors must be of one shape; got {[list(tensor.shape) for tensor in tensors]}")
        if len({tensor.dtype for tensor in self._tensors}) > 1:
            raise ValueError(f"tensors must be of one type; got {sorted({str(one.dtype) for one in self._tensors})}")
        return [tensors[0].shape for tensors in self._kinds]

    def _in_order(self, places: Sequence[int]) -> np.ndarray:
        return np.array(places, np.int64).reshape(len(self._kinds), -1)

    def _copy(self, addresses: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        n, dtype, shapes = addresses.shape[1], array(self._tensors[0]).dtype, self._shapes
        matrices = [(n, *(shape if len(shape) == 2 else (1, *shape))) for shape in shapes]
        transposes = [(n * (k in self._turned), *shape[:0:-1]) for k, shape in enumerate(matrices)]
        arrays = empties([*matrices, *transposes], dtype)
        stacked, turned = arrays[: len(matrices)], arrays[len(matrices) :]
        work = _PRODUCTS * sum(values.size for values in stacked)
        run(_stack, _stack_parallel, evenly(n), work, addresses, tuple(stacked), tuple(turned))
        found = [values.reshape(n, *shape) for values, shape in zip(stacked, shapes, strict=True)]
        return found, [turned[k] for k in self._turned]


@njit(**OPTIONS)
def _squares(places, sizes, like) -> float:
    """Sum of the squares of all numbers of some tensors, of the type of ``like``."""
    total = 0.0
    for k in range(places.shape[0]):
        values = carray(_pointer(places[k]), (sizes[k],), like.dtype)
        for i in range(sizes[k]):
            total += np.float64(values[i]) * np.float64(values[i])
    return total


def norm(tensors: Sequence[Tensor]) -> float:
    """Root of the sum of all squares, of tensors of one type that fill their memory."""
    sizes = [tensor.numel() for tensor in tensors]
    places = [tensor.data_ptr() for tensor in tensors]
    like = torch.empty(0, dtype=tensors[0].dtype).numpy()
    return float(np.sqrt(_squares(np.array(places, np.int64), np.array(sizes, np.int64), like)))
