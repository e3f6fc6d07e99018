"""The norm of many tensors, such as of all gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from pyg_schnet.backends.numba.lib.buffers import array
from pyg_schnet.backends.numba.lib.compiler import REASSOCIATED, njit


@njit(**REASSOCIATED)
def _sum_of_squares(values) -> float:
    total = 0.0
    for i in range(values.shape[0]):
        total += np.float64(values[i]) * np.float64(values[i])
    return total


def norm(tensors: Sequence[Tensor]) -> float:
    """Root of the sum of all squares, in float64."""
    return math.sqrt(sum(_sum_of_squares(array(tensor).reshape(-1)) for tensor in tensors))
