"""A filter network evaluated on a grid: spline coefficients as a function of its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyg_schnet.kernels import cpu_kernels, is_plain, linear, spline_coefficients
from pyg_schnet.nn.activation import ShiftedSoftplus, shifted_softplus
from pyg_schnet.nn.dense import Dense
from pyg_schnet.nn.filters import FilterNetwork
from pyg_schnet.nn.watch import is_hooked


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

    with the prefilter P of :func:`pyg_schnet.kernels.spline_coefficients` and the window f.

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
        return _Tables.apply(grid, network.activate_filters, known, *_weights_of(network))[0]
    return spline_coefficients(network.amplitude(grid.expansion) * grid.window, grid.vanishing)


def are_alike(networks: Sequence[FilterNetwork]) -> bool:
    """Whether several networks differ in their weights only, so that :func:`tabulate_alike` can take them at once."""
    kinds = {(one.activate_filters, one.lin1.weight.shape, one.lin2.weight.shape) for one in networks}
    dtypes = {weight.dtype for one in networks for weight in _weights_of(one)}
    return len(kinds) == len(dtypes) == 1 and all(map(is_written_out, networks))


def tabulate_alike(networks: Sequence[FilterNetwork], grid: Grid) -> Tensor:
    """Coefficients of several networks that :func:`are_alike`, at the same samples, ``[T, M - 4, num_filters]``."""
    weights = [weight for network in networks for weight in _weights_of(network)]
    return _Tables.apply(grid, networks[0].activate_filters, None, *weights)


def _weights_of(network: FilterNetwork) -> list[Tensor]:
    return [value for layer in (network.lin1, network.lin2) for value in (layer.weight, layer.bias)]


def is_written_out(network: FilterNetwork) -> bool:
    """Whether the formula of a network is the one written out below, with nothing exchanged or hooked to it."""
    layers = (network.lin1, network.lin2)
    return (
        type(network) is FilterNetwork
        and type(network.act) is ShiftedSoftplus
        and all(type(layer) is Dense for layer in layers)
        and not is_hooked(*layers)
        and is_plain(network.lin1.weight)
    )


class _Tables(torch.autograd.Function):
    """The tables in one step, with their gradient by weights by hand; thirty small operations are as many calls."""

    @staticmethod
    def forward(ctx: Any, grid: Grid, activate: bool, known: Tensor | None, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(*weights)
        ctx.grid, ctx.activate, ctx.kept = grid, activate, None
        if known is not None:
            return known.view_as(known)
        networks = _pack(grid, activate, weights)
        tables, sampled = cpu_kernels().tabulate(networks)
        ctx.kept = networks, sampled
        return tables

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grid, weights = ctx.grid, ctx.saved_tensors
        if torch.is_grad_enabled():
            each = zip(_by_network(weights), grad, strict=True)
            found = (by_weight for one in each for by_weight in _differentiable(ctx.activate, grid, *one))
            return None, None, None, *found
        kernels = cpu_kernels()
        if ctx.kept is None:
            networks = _pack(grid, ctx.activate, weights)
            ctx.kept = networks, kernels.tabulate(networks)[1]
        found = kernels.table_gradient(grad, *ctx.kept)
        each = zip(*(values.unbind() for values in found), strict=True)
        return None, None, None, *(value for one in each for value in one)


def _by_network(weights: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    return [weights[k : k + 4] for k in range(0, len(weights), 4)]


def _pack(grid: Grid, activate: bool, weights: Sequence[Tensor]) -> Any:
    return cpu_kernels().Networks.pack(*grid, activate, _by_network(weights))


def _differentiable(activate: bool, grid: Grid, weights: Sequence[Tensor], grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients by weights that can be differentiated again."""
    weight1, bias1, weight2, bias2 = weights
    samples = linear(shifted_softplus(linear(grid.expansion, weight1, bias1)), weight2, bias2)
    samples = (shifted_softplus(samples) if activate else samples) * grid.window
    chosen = [weight for weight in weights if weight.requires_grad]
    found = iter(torch.autograd.grad(spline_coefficients(samples, grid.vanishing), chosen, grad, create_graph=True))
    return tuple(next(found) if weight.requires_grad else None for weight in weights)
