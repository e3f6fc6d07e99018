r"""Spline tables of filter networks of the same shape, as one operator.

.. math:: \mathbf{C}_t = P \bigl( f \circ \mathrm{ssp}(\mathrm{W}_{2, t}\, \mathrm{ssp}(\mathrm{W}_{1, t} \mathbf{e}
          + \mathbf{b}_{1, t}) + \mathbf{b}_{2, t}) \bigr)

with the expansion **e** and the window f at the samples of a grid, the same for all networks, and the prefilter P of
:func:`pyg_schnet.ops.spline_table`. Without ``activate``, the outer softplus is left out. The networks may be evaluated
at every second sample only; their outputs are then interpolated in between
(:func:`pyg_schnet.ops.bspline.refine`), before the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pyg_schnet.ops._autograd import gradients_of
from pyg_schnet.ops.bspline import OVERHANG, REFINED_EXTRA, refine, spline_table
from pyg_schnet.ops.dispatch import Backend, kernels_for, other_types
from pyg_schnet.ops.softplus import shifted_softplus

_PER_NETWORK = 4


class GridSamples(NamedTuple):
    """Inputs of filter networks at M consecutive samples of a grid.

    Attributes:
        expansion: Radial expansion of the distances, shape ``[M, num_gaussians]``; if ``refined``, of every second
            sample, ``[M // 2 + 9, num_gaussians]``, where the fifth row is that of the first sample.
        window: Cutoff window, shape ``[M, 1]``.
        vanishing: Whether the samples reach the cutoff, where value and slope are zero.
        refined: Whether outputs of the networks are interpolated between every second sample.
    """

    expansion: Tensor
    window: Tensor
    vanishing: bool
    refined: bool = False

    def rows(self, first: int = 0, count: int | None = None) -> GridSamples:
        """The samples that the table of ``count`` intervals from ``first`` on depends on.

        Raises:
            ValueError: If ``first`` is odd and the samples are ``refined``.
        """
        n_samples = self.window.size(0)
        end = n_samples if count is None else min(first + count + 1 + 2 * OVERHANG, n_samples)
        inputs = slice(first, end)
        if self.refined:
            if first % 2 == 1:
                raise ValueError(f"the first interval must be even, since every second sample is given; got {first}")
            inputs = slice(first // 2, first // 2 + (end - first) // 2 + REFINED_EXTRA)
        vanishing = self.vanishing and end == n_samples
        return GridSamples(self.expansion[inputs], self.window[first:end], vanishing, self.refined)


def filter_table(
    samples: GridSamples,
    weights: Sequence[Tensor],
    activate: bool = True,
    *,
    known: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Like :func:`pyg_schnet.ops.filter_table`, without checks, for samples and weights of a network."""
    refusal = other_types(*samples[:2], *weights)
    kernels = kernels_for(backend, *samples[:2], *weights, known, needs="filter_table", unless=refusal)
    if kernels is None or samples.expansion.requires_grad or samples.window.requires_grad:
        inner: Backend = "reference" if backend == "reference" else "auto"
        return torch.stack([compose(activate, samples, *network, inner) for network in _by_network(weights)])
    return FilterTableFunction.apply(kernels, samples, activate, known, *weights)


def compose(
    activate: bool, samples: GridSamples, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, backend: Backend = "auto"
) -> Tensor:
    """The table of one network in operations of torch, shape ``[M - 4, K]``."""
    filters = F.linear(shifted_softplus(F.linear(samples.expansion, w1, b1), backend=backend), w2, b2)
    filters = shifted_softplus(filters, backend=backend) if activate else filters
    return table_of(filters, samples)


def table_of(filters: Tensor, samples: GridSamples) -> Tensor:
    """Table of a network from its outputs ``[M, K]`` (or at every second sample) before the window."""
    filters = refine(filters, samples.window.size(0)) if samples.refined else filters
    return spline_table(filters * samples.window, samples.vanishing)


def _by_network(weights: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    return [(weights[k], weights[k + 1], weights[k + 2], weights[k + 3]) for k in range(0, len(weights), _PER_NETWORK)]


def _sample(kernels: ModuleType, samples: GridSamples, activate: bool, weights: Sequence[Tensor]) -> tuple[Tensor, Any]:
    """The tables, and the intermediate results for their gradient."""
    networks = kernels.Networks.pack(*samples, activate, list(zip(*_by_network(weights), strict=True)))
    tables, sampled = kernels.filter_table(networks)
    return tables, (networks, sampled)


class FilterTableFunction(torch.autograd.Function):
    """Tables, with one kernel for the gradient with respect to weights instead of thirty small operations."""

    @staticmethod
    def forward(
        ctx: Any, kernels: ModuleType, samples: GridSamples, activate: bool, known: Tensor | None, *weights: Tensor
    ) -> Tensor:
        """The tables, computed unless they are ``known``."""
        ctx.save_for_backward(*weights)
        ctx.arguments, ctx.kept = (kernels, samples, activate), None
        if known is not None:
            return known.view_as(known)
        tables, ctx.kept = _sample(kernels, samples, activate, weights)
        return tables

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients with respect to the weights."""
        kernels, samples, activate = ctx.arguments
        weights = ctx.saved_tensors
        if torch.is_grad_enabled() or kernels_for("auto", grad) is None:
            composed = partial(compose, activate, samples)
            each = zip(_by_network(weights), grad, strict=True)
            return None, None, None, None, *chain.from_iterable(gradients_of(composed, *one) for one in each)
        kept = _sample(kernels, samples, activate, weights)[1] if ctx.kept is None else ctx.kept
        found = kernels.filter_table_backward(grad, *kept)
        return None, None, None, None, *chain.from_iterable(zip(*[value.unbind() for value in found], strict=True))
