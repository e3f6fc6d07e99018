"""The spline tables of all blocks at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from pyg_schnet.nn.conv import CFConv
from pyg_schnet.nn.spline import SplineFilter, grid_samples, weights_of
from pyg_schnet.nn.versioned_cache import VersionedCache
from pyg_schnet.ops.filter_table import GridSamples, filter_table


class FilterTables:
    """Tables of several convolutions in one tensor, ``[T, num_intervals + 3, K]``.

    Networks that differ in their weights only and are evaluated at the same samples are one call of
    :func:`~pyg_schnet.ops.filter_table.filter_table`, with cached samples. Parts of the convolutions are looked up
    once, so the networks must stay the same.

    Args:
        convs: The convolutions, with standard parts and splined filters.

    Attributes:
        splines: Their splined filters.
    """

    def __init__(self, convs: Sequence[CFConv]) -> None:
        self.splines: list[SplineFilter] = [cast(SplineFilter, conv.spline) for conv in convs]
        self._fixed = [conv.table for conv in convs]
        networks = [spline.network for spline in self.splines]
        self._weights = [weight for network in networks for weight in weights_of(network)]
        self._buffers = [buffer for network in networks for buffer in network.basis.buffers()]
        shapes = {(one.activate_filters, one.lin1.weight.shape, one.lin2.weight.shape) for one in networks}
        learned = any(list(network.basis.parameters()) for network in networks)
        self._alike = len(shapes) == 1 and not learned
        self._activate = networks[0].activate_filters
        self._grid = self.splines[0].num_grid_points, self.splines[0].refined
        self._samples = VersionedCache()

    def compute(self, first: int = 0, count: int | None = None) -> Tensor:
        """The tables for ``count`` intervals from ``first`` on, differentiable with respect to the weights."""
        samples = self._common_samples()
        if samples is None:
            return torch.stack([spline.table(first, count) for spline in self.splines])
        return filter_table(samples.rows(first, count), self._weights, self._activate)

    @torch.no_grad()
    def evaluate(self) -> Tensor:
        """The tables for evaluation, without gradients; fixed tables are used unchanged."""
        pairs = zip(self.splines, self._fixed, strict=True)
        return torch.stack([spline.compute_precisely() if table is None else table for spline, table in pairs])

    def with_gradient(self, known: Tensor) -> Tensor:
        """The result of :meth:`evaluate`, differentiable with respect to the weights."""
        if not any(weight.requires_grad for weight in self._weights):
            return known if self._alike else self.compute()
        samples = self._common_samples()
        return self.compute() if samples is None else filter_table(samples, self._weights, self._activate, known=known)

    def _common_samples(self) -> GridSamples | None:
        """The samples of all networks in their mode; ``None`` if they differ, or the networks do."""
        if not self._alike:
            return None
        weight = self._weights[0]
        kept = self._samples.get(self._buffers, (weight.dtype, weight.device), self._compare_samples)
        return None if kept is None else kept[0]

    def _compare_samples(self) -> tuple[GridSamples | None]:
        first, *others = (grid_samples(spline.network, *self._grid) for spline in self.splines)
        same = all(
            torch.equal(first.expansion, other.expansion)
            and torch.equal(first.window, other.window)
            and first.vanishing == other.vanishing
            for other in others
        )
        return (first if same else None,)
