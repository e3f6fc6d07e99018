"""A filter network evaluated on a grid: spline coefficients as a function of its weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyg_schnet.nn.activation import shifted_softplus
from pyg_schnet.nn.filters import FilterNetwork
from pyg_schnet.ops import cpu_kernels, is_dense_cpu, linear, spline_coefficients
from pyg_schnet.ops._autograd import gradients_of
from pyg_schnet.ops.standard import is_standard


class Grid(NamedTuple):
    """What the network is evaluated at, for M consecutive samples.

    Attributes:
        expansion: Radial expansion of the distances, shape ``[M, num_gaussians]``.
        window: Cutoff window, shape ``[M, 1]``.
        vanishing: Whether the samples reach the cutoff, where value and slope are zero.
    """

    expansion: Tensor
    window: Tensor
    vanishing: bool


def tabulate(network: FilterNetwork, grid: Grid, known: Tensor | None = None) -> Tensor:
    r"""Spline coefficients of the filters of a network, differentiable any number of times.

    .. math:: \mathbf{C} = P \bigl( f \circ \mathrm{network}(\mathbf{e}) \bigr)

    with the prefilter P of :func:`pyg_schnet.ops.spline_coefficients` and the window f.

    Args:
        network: Filter network.
        grid: Samples.
        known: The coefficients, where they are known already and only their gradient by weights is wanted; for networks
            that :func:`is_written_out`.

    Returns:
        Coefficients, shape ``[M - 4, num_filters]``.
    """
    if is_written_out(network) and not grid.expansion.requires_grad:
        known = None if known is None else known.unsqueeze(0)
        weights = _weights_of(network)
        return _Tables.apply(grid, network.activate_filters, _stacks(weights), known, *weights)[0]
    return spline_coefficients(network.amplitude(grid.expansion) * grid.window, grid.vanishing)


def are_alike(networks: Sequence[FilterNetwork]) -> bool:
    """Whether several networks differ in their weights only, so that :class:`BatchedFilterNetworks` can take them."""
    kinds = {(one.activate_filters, one.lin1.weight.shape, one.lin2.weight.shape) for one in networks}
    dtypes = {weight.dtype for one in networks for weight in _weights_of(one)}
    return len(kinds) == len(dtypes) == 1 and all(map(is_written_out, networks))


class BatchedFilterNetworks:
    """Several networks that :func:`are_alike`, to be tabulated in one step again and again.

    Args:
        networks: The networks, whose weights are looked up once.
    """

    def __init__(self, networks: Sequence[FilterNetwork]) -> None:
        self._activate = networks[0].activate_filters
        self._weights = [weight for network in networks for weight in _weights_of(network)]
        self._stacks = _stacks(self._weights)

    def tabulate(self, grid: Grid) -> Tensor:
        """Coefficients at the same samples, shape ``[T, M - 4, num_filters]``."""
        return _Tables.apply(grid, self._activate, self._stacks, None, *self._weights)


def _weights_of(network: FilterNetwork) -> list[Tensor]:
    return [value for layer in (network.lin1, network.lin2) for value in (layer.weight, layer.bias)]


def _stacks(weights: Sequence[Tensor]) -> Any:
    return list(zip(*_by_network(weights), strict=True))


def is_written_out(network: FilterNetwork) -> bool:
    """Whether the formula of a network is the one written out below, for its expansion and window."""
    if type(network) is not FilterNetwork or not is_standard(network):
        return False
    return all(weight is not None and is_dense_cpu(weight) for weight in _weights_of(network))


class _Tables(torch.autograd.Function):
    """The tables in one step, with their gradient by weights by hand; thirty small operations are as many calls."""

    @staticmethod
    def forward(ctx: Any, grid: Grid, activate: bool, stacks: Any, known: Tensor | None, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(*weights)
        ctx.grid, ctx.activate, ctx.kept = grid, activate, None
        if known is not None:
            return known.view_as(known)
        kernels = cpu_kernels()
        networks = kernels.Networks.pack(*grid, activate, stacks)
        tables, sampled = kernels.filter_table(networks)
        ctx.kept = networks, sampled
        return tables

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grid, weights = ctx.grid, ctx.saved_tensors
        if torch.is_grad_enabled():
            each = zip(_by_network(weights), grad, strict=True)
            composed = partial(_composed, ctx.activate, grid)
            return None, None, None, None, *chain.from_iterable(gradients_of(composed, *one) for one in each)
        kernels = cpu_kernels()
        if ctx.kept is None:
            networks = kernels.Networks.pack(*grid, ctx.activate, _stacks(weights))
            ctx.kept = networks, kernels.filter_table(networks)[1]
        found = kernels.filter_table_backward(grad, *ctx.kept)
        each = zip(*[values.unbind() for values in found], strict=True)
        return None, None, None, None, *chain.from_iterable(each)


def _by_network(weights: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    return [weights[k : k + 4] for k in range(0, len(weights), 4)]


def _composed(activate: bool, grid: Grid, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """The table of one network by functions that autograd knows."""
    samples = linear(shifted_softplus(linear(grid.expansion, weight1, bias1)), weight2, bias2)
    samples = (shifted_softplus(samples) if activate else samples) * grid.window
    return spline_coefficients(samples, grid.vanishing)
