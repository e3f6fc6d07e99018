"""The tables of all blocks at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyg_schnet.nn.spline import Span, SplineFilter
from pyg_schnet.nn.tabulate import BatchedFilterNetworks, Grid, are_alike
from pyg_schnet.nn.versioned_cache import VersionedCache


class Tables:
    """Coefficients of several splined filters in one tensor, for those who need them again and again.

    Networks that are alike and evaluated at the same samples are one step, and the samples are kept. What the filters
    consist of is looked up once; whoever keeps this sees to it that it stays the same
    (:class:`pyg_schnet.nn.watch.Watch`).

    Args:
        splines: The filters.
    """

    def __init__(self, splines: Sequence[SplineFilter]) -> None:
        self._splines = splines
        self._networks = [spline.network for spline in splines]
        bases = [network.basis for network in self._networks]
        self._buffers = [buffer for basis in bases for buffer in basis.buffers()]
        fixed = not any(list(basis.parameters()) for basis in bases)
        self._alike = BatchedFilterNetworks(self._networks) if fixed and are_alike(self._networks) else None
        self._samples = VersionedCache()

    def __call__(self, span: Span | None = None) -> Tensor:
        """Coefficients that act on some of the intervals, differentiable in the weights of the networks.

        Args:
            span: The intervals; ``None`` takes all of the grid that the filters have in their mode.

        Returns:
            Shape ``[T, count + 3, num_filters]``.
        """
        training = all(network.training for network in self._networks)
        samples = self._common_samples(span.num_grid_points) if training and span is not None else None
        if samples is None:
            return torch.stack([spline.coefficients(span) for spline in self._splines])
        return self._alike.tabulate(SplineFilter.rows(samples, span))

    def _common_samples(self, num_grid_points: int) -> Grid | None:
        """The samples of all filters; ``None`` where they differ, or networks do."""
        if self._alike is None:
            return None
        weight = self._networks[0].lin1.weight
        key = num_grid_points, weight.dtype, weight.device
        kept = self._samples.get(self._buffers, key, lambda: self._compare_samples(num_grid_points))
        return None if kept is None else kept[0]

    def _compare_samples(self, num_grid_points: int) -> tuple[Grid | None]:
        grid, *others = (spline.grid(spline.network, num_grid_points) for spline in self._splines)
        same = all(
            torch.equal(grid.expansion, other.expansion)
            and torch.equal(grid.window, other.window)
            and grid.vanishing == other.vanishing
            for other in others
        )
        return (grid if same else None,)
