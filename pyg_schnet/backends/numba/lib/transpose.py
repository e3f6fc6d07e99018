"""Transposed copies, in tiles of one line of the cache."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.backends.numba.lib.buffers import array, empty
from pyg_schnet.backends.numba.lib.compiler import ORDERED, njit
from pyg_schnet.backends.numba.lib.parallel import evenly, run
from pyg_schnet.backends.tuning import compiled

_TILE = compiled.transposed_rows


@njit(**ORDERED)
def _transpose(begin, end, x, out) -> None:
    """Write the transpose of some tiles of the rows of all matrices; the last tile of each may be cut short."""
    n_rows, n_columns = x.shape[1:]
    n_tiles = (n_rows + _TILE - 1) // _TILE
    for number in range(begin, end):
        t, row = number // n_tiles, number % n_tiles * _TILE
        if row + _TILE <= n_rows:
            for f in range(n_columns):
                for i in range(_TILE):
                    out[t, f, row + i] = x[t, row + i, f]
        else:
            for f in range(n_columns):
                for i in range(row, n_rows):
                    out[t, f, i] = x[t, i, f]


def transposes(matrices: np.ndarray) -> np.ndarray:
    """Transpose of each of several matrices."""
    n, n_rows, n_columns = matrices.shape
    out = empty((n, n_columns, n_rows), matrices.dtype)
    run(_transpose, evenly(n * -(-n_rows // _TILE)), matrices.size, matrices, out)
    return out


def transpose(x: Tensor) -> Tensor:
    """Transpose of a matrix, in memory of its own."""
    return torch.from_numpy(transposes(array(x)[None])[0])
