"""Rows of selected structures in concatenated ones, as loaders need them for every batch."""

from __future__ import annotations

import torch
from torch import Tensor

from pyg_schnet.ops.dispatch import Backend, kernels_for
from pyg_schnet.ops.sort_edges import check_keys


def rows_of(bounds: Tensor, index: Tensor, *, backend: Backend = "auto") -> tuple[Tensor, Tensor, Tensor]:
    """Rows of selected structures, one structure after the other.

    Args:
        bounds: Where the rows of each structure begin and end, shape ``[M + 1]``.
        index: Structures from 0 to M - 1, shape ``[B]``.
        backend: How it is computed, see :func:`pyg_schnet.ops.kernels_for`.

    Returns:
        The rows and the place in ``index`` that each belongs to, shape ``[N]``; where those of each place begin and
        end, shape ``[B + 1]``.

    Raises:
        IndexError: If a structure is out of range; checked on CPUs only.

    Example:
        >>> rows_of(torch.tensor([0, 2, 3, 5]), torch.tensor([2, 0]))
        (tensor([3, 4, 0, 1]), tensor([0, 0, 1, 1]), tensor([0, 2, 4]))
    """
    kernels = kernels_for(backend, bounds, index, needs="rows_of")
    if kernels is not None:
        check_keys(index, bounds.size(0) - 1, "index names structures")
        return kernels.rows_of(bounds, index)
    first = bounds.index_select(0, index)
    n_rows = bounds.index_select(0, index + 1) - first
    ptr = torch.cat([n_rows.new_zeros(1), n_rows.cumsum(0)])
    owner = torch.repeat_interleave(n_rows)
    rows = torch.arange(owner.size(0), device=index.device) + (first - ptr[:-1]).index_select(0, owner)
    return rows, owner, ptr
