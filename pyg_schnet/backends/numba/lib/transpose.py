"""Transposed copies, in square tiles of one vector."""

from __future__ import annotations

import numpy as np

from pyg_schnet.backends.numba.lib.buffers import empty
from pyg_schnet.backends.numba.lib.compiler import ORDERED, njit
from pyg_schnet.backends.numba.lib.parallel import evenly, run
from pyg_schnet.backends.numba.lib.simd import NARROW, lanes, narrow, transpose_square


@njit(**ORDERED)
def _transpose(begin, end, x, out) -> None:
    """Write the transpose of some tiles of the rows of all matrices; the last tile of each may be cut short."""
    (n_rows, n_columns), zero = x.shape[1:], narrow(x)
    tile = lanes(zero)
    n_tiles = (n_rows + tile - 1) // tile
    for number in range(begin, end):
        t, row = number // n_tiles, number % n_tiles * tile
        first = t * n_rows * n_columns
        full = n_columns - n_columns % tile if row + tile <= n_rows else 0
        for f in range(0, full, tile):
            transpose_square(zero, x, first + row * n_columns + f, n_columns, out, first + f * n_rows + row, n_rows)
        for f in range(full, n_columns):
            for i in range(row, min(row + tile, n_rows)):
                out[t, f, i] = x[t, i, f]


def transposes(matrices: np.ndarray) -> np.ndarray:
    """Transpose of each of several matrices."""
    n, n_rows, n_columns = matrices.shape
    out = empty((n, n_columns, n_rows), matrices.dtype)
    run(_transpose, evenly(n * -(-n_rows * matrices.itemsize // NARROW)), matrices.size, matrices, out)
    return out
