"""Features of atoms around a domain, as a differentiable function: forward to ghosts, backward to owners."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pyg_schnet.interfaces.lammps.exchange import ExchangePlan


def extend(x: Tensor, plan: ExchangePlan) -> Tensor:
    r"""Append the features of atoms of other ranks to those of the own atoms.

    With S the matrix that selects the rows of all ranks that a rank needs, the gradient of the sum over ranks is

    .. math:: \mathbf{x}' = \mathrm{S} \mathbf{x}, \qquad
              \frac{\partial E}{\partial \mathbf{x}} = \mathrm{S}^\mathsf{T} \frac{\partial E}{\partial \mathbf{x}'}

    so each owner adds up the gradients of its atoms on all ranks. Both directions are collective.

    Args:
        x: Features of the own atoms, contiguous or not, shape ``[num_own, F]``.
        plan: Which rows are exchanged.

    Returns:
        Features, shape ``[num_own + num_remote, F]``; ``x`` itself on a single rank.

    Example:
        >>> from types import SimpleNamespace
        >>> import numpy as np
        >>> plan = ExchangePlan(SimpleNamespace(size=1, rank=0), np.array([1, 2]), np.array([2]))
        >>> extend(torch.ones(2, 3), plan).shape
        torch.Size([2, 3])
    """
    return x if plan.comm.size == 1 else _Extend.apply(x, plan)


def collect(x: Tensor, plan: ExchangePlan) -> Tensor:
    """Add what other ranks have for own atoms to what this rank has; the transposed of :func:`extend`, collective.

    Args:
        x: Rows of own atoms and of those of other ranks, shape ``[num_own + num_remote, F]``.
        plan: Which rows are exchanged.

    Returns:
        Sums, shape ``[num_own, F]``.
    """
    own = x[: plan.num_own]
    if plan.comm.size == 1:
        return own
    returned = x.new_empty(len(plan.send_index), x.size(1))
    plan.backward(x[plan.num_own :].contiguous().numpy(), returned.numpy())
    return own.index_add(0, torch.from_numpy(plan.send_index), returned)


class _Extend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, plan: ExchangePlan) -> Tensor:
        ctx.plan = plan
        out = x.new_empty(plan.num_own + plan.num_remote, x.size(1))
        out[: plan.num_own] = x
        sent = x.index_select(0, torch.from_numpy(plan.send_index))
        plan.forward(sent.numpy(), out[plan.num_own :].numpy())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return collect(grad.contiguous(), ctx.plan), None
