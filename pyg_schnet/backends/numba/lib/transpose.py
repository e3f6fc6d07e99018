"""Transposed copies, in tiles of one vector."""

from __future__ import annotations

import numpy as np
from numba import prange
from torch import Tensor

from pyg_schnet.backends.numba.lib.compiler import njit
from pyg_schnet.backends.numba.lib.parallel import OPTIONS, array, empty, evenly, run

_TILE = 16


@njit(**OPTIONS)
def whole_tiles(n_rows) -> int:
    """Number of tiles that some rows are in, the last of which may be cut short."""
    return (n_rows + _TILE - 1) // _TILE


@njit(**OPTIONS)
def transpose_tiles(begin, end, x, out) -> None:
    """Write the transpose of some tiles of rows."""
    n_rows, n_columns = x.shape
    for tile in range(begin, end):
        row = tile * _TILE
        if row + _TILE <= n_rows:
            for f in range(n_columns):
                for i in range(_TILE):
                    out[f, row + i] = x[row + i, f]
        else:
            for f in range(n_columns):
                for i in range(row, n_rows):
                    out[f, i] = x[i, f]


@njit(parallel=True, **OPTIONS)
def _transpose_parallel(bounds, x, out) -> None:
    for part in prange(bounds.shape[0] - 1):
        transpose_tiles(bounds[part], bounds[part + 1], x, out)


@njit(**OPTIONS)
def turn(matrices, out) -> None:
    """Write the transpose of each of several matrices."""
    for t in range(matrices.shape[0]):
        transpose_tiles(0, whole_tiles(matrices.shape[1]), matrices[t], out[t])


def transposes(matrices: np.ndarray) -> np.ndarray:
    """Transpose of each of several matrices."""
    n, n_rows, n_columns = matrices.shape
    out = empty((n, n_columns, n_rows), matrices.dtype)
    turn(matrices, out)
    return out


def transpose(x: Tensor) -> Tensor:
    """Transpose of a matrix, in memory of its own."""
    out = x.new_empty(x.size(1), x.size(0))
    n_tiles = -(-x.size(0) // _TILE)
    run(transpose_tiles, _transpose_parallel, evenly(n_tiles), x.numel(), array(x), array(out))
    return out
