"""Rows of selected structures in concatenated ones."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.backends.numba.lib.buffers import arrays_of
from pyg_schnet.backends.numba.lib.compiler import EXACT, njit


@njit(**EXACT)
def _rows(bounds, index, ptr) -> tuple[np.ndarray, np.ndarray]:
    for b in range(index.shape[0]):
        ptr[b + 1] = ptr[b] + bounds[index[b] + 1] - bounds[index[b]]
    rows, owner = np.empty(ptr[-1], np.int64), np.empty(ptr[-1], np.int64)
    for b in range(index.shape[0]):
        first = bounds[index[b]]
        for k in range(ptr[b], ptr[b + 1]):
            rows[k], owner[k] = first + k - ptr[b], b
    return rows, owner


def rows_of(bounds: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the structures ``index``, one after the other.

    Args:
        bounds: Where the rows of each structure begin and end, shape ``[M + 1]``.
        index: Structures, from 0 to M - 1, which is not checked; shape ``[B]``.

    Returns:
        The rows and the place in ``index`` that each belongs to, shape ``[N]``; where those of each place begin and
        end, shape ``[B + 1]``.
    """
    ptr = torch.zeros(index.size(0) + 1, dtype=torch.int64)
    rows, owner = _rows(*arrays_of(bounds, index, ptr))
    return torch.from_numpy(rows), torch.from_numpy(owner), ptr
