"""Filters tabulated over the distance: the same network, evaluated on a grid instead of on every edge."""

from __future__ import annotations

import copy
import math
from collections.abc import Hashable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyg_schnet.nn.basis import GaussianBasis
from pyg_schnet.nn.cutoff import CosineCutoff, HardCutoff
from pyg_schnet.nn.filters import FilterNetwork
from pyg_schnet.nn.tabulate import Grid, is_written_out, tabulate
from pyg_schnet.nn.versioned_cache import VersionedCache
from pyg_schnet.ops import SplineGraph, check_sources, is_dense_cpu, spline_basis, spline_graph
from pyg_schnet.ops.bspline import OVERHANG, interpolate
from pyg_schnet.ops.dispatch import is_transformed
from pyg_schnet.ops.standard import options_of

TOLERANCE = 1e-5
"""Error of the forces that is aimed at in evaluation, relative to the largest force."""

TRAINING_TOLERANCE = 1e-4
"""The same in training, where batches scatter by far more than that."""

VALUE_TOLERANCE = 1e-5
"""Error of the values, relative to the largest one, that is aimed at in training where nothing is differentiated by
distances."""

_ERROR_AT_WIDTH = 0.06
"""Relative error of forces with one node for each width of the Gaussians, extrapolated by the third power; measured by
``benchmarks/spline_error.py`` over random and trained models, and rounded up."""

_VALUE_ERROR_AT_WIDTH = 0.01
"""Likewise that of energies, by the fourth power."""


class Span(NamedTuple):
    """Intervals of a grid that a table is needed for.

    Attributes:
        num_grid_points: Nodes of the whole grid.
        first: First interval.
        count: Number of intervals; ``None`` for all from the first one on.
    """

    num_grid_points: int
    first: int = 0
    count: int | None = None


class SplineEdges(NamedTuple):
    """Edges as splined filters see them; shared by all layers with the same grid.

    Attributes:
        weights: Weights of the four coefficients of each edge, differentiable in the distances, shape ``[E, 4]``.
        graph: The edges in the orders of the kernels; ``graph.interval`` count from the first interval of the span.
        cutoff: End of the grid in Å.
        span: What tables are needed for.
        n_neighbors: Number of neighbours of each target, shape ``[N_dst]``, where layers divide by it.
        half_list: Whether each edge stands for both directions.
    """

    weights: Tensor
    graph: SplineGraph
    cutoff: float
    span: Span
    n_neighbors: Tensor | None = None
    half_list: bool = False


def num_grid_points_for(resolution: float, cutoff: float, tolerance: float = TOLERANCE, *, forces: bool = True) -> int:
    r"""Number of nodes for a wanted error of the forces, or of the energies.

    .. math:: G = 1 + \frac{r_c}{\sigma} \sqrt[3]{\kappa_3 / \varepsilon}
        \qquad \text{or} \qquad G = 1 + \frac{r_c}{\sigma} \sqrt[4]{\kappa_4 / \varepsilon}

    EnergyGradients of a cubic spline err by the third power of the spacing over the finest detail σ, values by the fourth; the
    factors κ are measured.

    Args:
        resolution: Finest detail σ of the filters in Å, the width of the Gaussians.
        cutoff: End of the grid in Å.
        tolerance: Error ε, relative to the largest force or energy.
        forces: Whether that of forces is meant, and not that of energies.

    Raises:
        ValueError: If the tolerance is not positive.

    Example:
        >>> num_grid_points_for(5.0 / 49, cutoff=5.0, tolerance=1e-5) > num_grid_points_for(5.0 / 49, cutoff=5.0, tolerance=1e-3)
        True
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance must be a positive relative error of forces or energies, got {tolerance!r}")
    factor, power = (_ERROR_AT_WIDTH, 3) if forces else (_VALUE_ERROR_AT_WIDTH, 4)
    return max(8, 1 + math.ceil(cutoff / resolution * (factor / tolerance) ** (1 / power)))


@lru_cache
def _grid_sizes(resolution: float, cutoff: float, tolerance: float) -> tuple[int, int, int]:
    """Nodes in evaluation, in training, and in training where distances are not differentiated."""
    slopes, values = max(tolerance, TRAINING_TOLERANCE), max(tolerance, VALUE_TOLERANCE)
    training = num_grid_points_for(resolution, cutoff, slopes)
    in_values = num_grid_points_for(resolution, cutoff, values, forces=False)
    return num_grid_points_for(resolution, cutoff, tolerance), training, min(training, in_values)


def check_num_grid_points(num_grid_points: int | None) -> None:
    """Raise unless a grid can have so many nodes; ``None`` is for as many as are needed."""
    if num_grid_points is not None and num_grid_points < 8:
        raise ValueError(f"num_grid_points must be at least 8, got {num_grid_points!r}")


def can_be_splined(network: nn.Module, num_grid_points: int | None) -> bool:
    """Whether the filters of a network are known to be as smooth as a spline on a grid needs.

    Args:
        network: The network, a :class:`FilterNetwork` and no subclass of it. Bases and windows of other packages say by
            themselves, by an attribute ``resolution`` or ``vanishes``, that they may be evaluated on a grid; subclasses
            of those of this package inherit no such word.
        num_grid_points: Nodes of the grid, where they are given.
    """
    if type(network) is not FilterNetwork or "forward" in vars(network):
        return False
    basis, window = network.basis, network.window
    if type(window) not in (CosineCutoff, HardCutoff) and not (_says(window, "vanishes") and not _tensors(window)):
        return False
    if type(basis) is not GaussianBasis and not (_says(basis, "resolution") or num_grid_points is not None):
        return False
    return num_grid_points is not None or getattr(basis, "resolution", None) is not None


def _says(part: nn.Module, name: str) -> bool:
    """Whether a part has an attribute of its own, or of a class that is not one of those that are subclassed."""
    owner = next((cls for cls in type(part).__mro__ if name in vars(cls)), None)
    ours = (GaussianBasis.__module__, CosineCutoff.__module__)
    return name in vars(part) or (owner is not None and owner.__module__ not in ours)


def _tensors(part: nn.Module) -> list[Tensor]:
    return [*part.parameters(), *part.buffers()]


class SplineFilter:
    r"""A filter network tabulated on a uniform grid over ``[0, cutoff]`` and interpolated by a cubic B-spline.

    .. math:: \tilde W(d) = \sum_{m=0}^{3} h_m(t)\, \mathbf{C}_{k + m}, \qquad k + t = \frac{d}{\Delta}

    The network is evaluated at the G nodes and no longer on every edge; its weights receive gradients through the
    coefficients **C** (:func:`pyg_schnet.ops.spline_coefficients`). Two derivatives are continuous, and distances
    receive the exact derivative of the spline, so forces are the exact gradient of the energy. Where the window ends
    smoothly, value and slope at the cutoff are exactly zero. Values err by the fourth power of the spacing.

    The window is continued beyond both ends as its mirror image, which the cosine and the hard window are; a window
    with a kink there is less accurate near it. Windows of other packages say by an attribute ``vanishes`` that value
    and slope are zero at the cutoff.

    In evaluation mode the coefficients are kept until a weight changes, in whichever way.

    This is no module and holds no weights: it is another way to evaluate ``network``.

    In training mode the grid is coarser, since it is evaluated in every step, and coarser still where no gradient by
    distances is recorded, since values err by less than slopes.

    Args:
        network: Filter network, whose basis has a ``resolution`` unless ``num_grid_points`` is given.
        num_grid_points: Nodes G of all grids; ``None`` takes :func:`num_grid_points_for` the tolerances.
        tolerance: Error of forces that is aimed at in evaluation mode, relative to the largest one; in training mode
            it is at least 1e-4, and that of values at least 1e-5.

    Raises:
        ValueError: If the number of nodes is too small, or cannot be found because the basis has no ``resolution``; or
            if the network has a ``forward`` of its own.

    Example:
        >>> from pyg_schnet.nn import CosineCutoff
        >>> network = FilterNetwork(8, window=CosineCutoff(5.0))
        >>> dist = torch.linspace(0.5, 6.0, 50)
        >>> bool((SplineFilter(network)(dist) - network(dist)).abs().max() < 1e-5)
        True
    """

    def __init__(
        self, network: FilterNetwork, num_grid_points: int | None = None, tolerance: float = TOLERANCE
    ) -> None:
        check_num_grid_points(num_grid_points)
        if type(network).forward is not FilterNetwork.forward or "forward" in vars(network):
            raise ValueError(
                f"a {type(network).__name__} with a forward of its own gives other filters than a table would hold; "
                "take the exact filters"
            )
        self.network, self.given_grid_points, self.tolerance = network, num_grid_points, tolerance
        self._table, self._samples = VersionedCache(), VersionedCache()
        self._sizes()

    def _sizes(self) -> tuple[int, int, int]:
        """Nodes in evaluation, in training, and in training for values, of the network as it is now."""
        if self.given_grid_points is not None:
            return (int(self.given_grid_points),) * 3
        network = self.network
        resolution = getattr(network.basis, "resolution", None)
        if resolution is None:
            raise ValueError(
                f"the number of nodes for {network.basis} is not known, as it has no fixed resolution (Å); give "
                "num_grid_points, or take the exact filters"
            )
        return _grid_sizes(resolution, network.cutoff, self.tolerance)

    @property
    def num_grid_points(self) -> int:
        """Nodes G of the grid in the mode that the network is in, where distances are differentiated."""
        return self._sizes()[1 if self.network.training else 0]

    def num_grid_points_at(self, dist: Tensor) -> int:
        """Nodes of the grid for these distances: fewer in training if no gradient by them is recorded."""
        recorded = (dist.requires_grad and torch.is_grad_enabled()) or is_transformed()
        if self.network.training and not recorded:
            return self._sizes()[2]
        return self.num_grid_points

    @property
    def cutoff(self) -> float:
        """End of the grid in Å; filters are zero from there on."""
        return self.network.cutoff

    @property
    def spacing(self) -> float:
        """Distance between two nodes in Å."""
        return self.cutoff / (self.num_grid_points - 1)

    @property
    def key(self) -> tuple[Hashable, ...]:
        """What coefficients depend on beside weights and the number of nodes."""
        network = self.network
        return self._sizes()[0], network.activate_filters, options_of(network.window), options_of(network.basis)

    def forget(self) -> None:
        """Compute the coefficients anew when they are needed next."""
        looks = self._table.looks
        self._table, self._samples = VersionedCache(looks), VersionedCache(looks)

    def look(self, looks: bool) -> None:
        """Say whether changes of weights are looked for."""
        self._table.looks = self._samples.looks = looks

    def edges(
        self,
        edge_index: Tensor,
        edge_dist: Tensor,
        edge_ptr: Tensor | None,
        size: tuple[int, int],
        undirected: bool = False,
    ) -> SplineEdges:
        """Edges for the kernels, where gradients are recorded also in the orders that these need.

        Args:
            edge_index: ``(j, i)``, shape ``[2, E]``.
            edge_dist: Distances in Å, shape ``[E]``.
            edge_ptr: Begin and end of each target's edges where they are sorted, shape ``[N_dst + 1]``.
            size: ``(N_src, N_dst)``.
            undirected: Whether each edge stands for both directions; they are sorted by target then.
        """
        span = Span(self.num_grid_points_at(edge_dist))
        bins, weights = spline_basis(edge_dist, self.cutoff, span.num_grid_points - 1)
        if self.network.training and is_dense_cpu(edge_dist) and bins.numel() > 0:
            low, high = (int(end) for end in torch.aminmax(bins))
            bins, span = (
                bins - low,
                Span(span.num_grid_points, low, high - low + 1),
            )  # no atoms are closer than their bonds
        graph = spline_graph(bins, edge_index, size[1], edge_ptr)
        if undirected:
            return SplineEdges(weights, graph, self.cutoff, span, half_list=True)
        if torch.is_grad_enabled():
            graph = graph.with_sources(size[0])
            if self.network.training:
                graph = graph.with_intervals(span.num_grid_points - 1 if span.count is None else span.count)
        else:
            check_sources(edge_index[0], size[0])
        return SplineEdges(weights, graph, self.cutoff, span)

    def fits(self, edges: SplineEdges) -> bool:
        """Whether edges were prepared for this grid."""
        sizes = self._sizes()
        nodes = sizes[1:] if self.network.training else sizes[:1]
        return edges.span.num_grid_points in nodes and edges.cutoff == self.cutoff

    def coefficients(self, span: Span | None = None) -> Tensor:
        """Spline coefficients that act on some of the intervals, differentiable in the weights of the network.

        Args:
            span: The intervals, of a grid that the network has in its mode; ``None`` takes all of :attr:`num_grid_points`.

        Returns:
            Shape ``[count + 3, num_filters]``.
        """
        network = self.network
        span = Span(self.num_grid_points) if span is None else span
        if network.training:
            return self.compute(span)
        weights = _tensors(network)
        values = self._table.get(weights, self.key, self.compute_precisely)
        if values is None:
            return self.compute(span)
        if torch.is_grad_enabled() and any(weight.requires_grad for weight in weights):
            if not is_written_out(network) or list(network.basis.parameters()):
                return self.compute(span)
            values = tabulate(network, self._kept_grid(span.num_grid_points), values)
        return values if span.count is None else values[span.first : span.first + span.count + 3]

    def compute(self, span: Span) -> Tensor:
        """The coefficients that act on some of the intervals, computed now.

        Args:
            span: The intervals.

        Returns:
            Coefficients in the precision of the weights, shape ``[count + 3, num_filters]``.
        """
        return tabulate(self.network, self.rows(self._kept_grid(span.num_grid_points), span))

    def _kept_grid(self, num_grid_points: int) -> Grid:
        """All samples of a grid; kept where they do not depend on weights."""
        network, weight = self.network, self.network.lin1.weight
        grid = None
        if not list(network.basis.parameters()):
            key = (num_grid_points, *self.key, weight.dtype, weight.device)
            grid = self._samples.get(list(network.basis.buffers()), key, lambda: self.grid(network, num_grid_points))
        return self.grid(network, num_grid_points) if grid is None else grid

    def compute_precisely(self) -> Tensor:
        """The coefficients without gradients, computed in float64 where the device has it, and then rounded.

        Rounding errors of the network differ from node to node, and slopes divide them by the spacing.
        """
        weight = self.network.lin1.weight
        if weight.dtype == torch.float64 or weight.device.type == "mps":
            return self.compute(Span(self._sizes()[0]))
        wide = {id(value): value.detach().to(torch.float64) for value in _tensors(self.network)}
        network = copy.deepcopy(self.network, wide)  # no copy of a tensor is made, which may be a result of others
        return tabulate(network, self.grid(network, self._sizes()[0])).to(weight.dtype)

    def grid(self, network: FilterNetwork, num_grid_points: int) -> Grid:
        """All samples of a grid, in the precision of a network."""
        weight = network.lin1.weight
        wide = torch.float32 if weight.device.type == "mps" else torch.float64
        steps = torch.arange(-OVERHANG, num_grid_points + OVERHANG, device=weight.device, dtype=wide)
        nodes = self.cutoff / (num_grid_points - 1) * steps
        window = self._window(nodes).to(weight.dtype).unsqueeze(-1)
        return Grid(network.basis(nodes.to(weight.dtype)), window, getattr(network.window, "vanishes", False))

    @staticmethod
    def rows(grid: Grid, span: Span) -> Grid:
        """The samples of a grid that some of its intervals depend on."""
        n_samples = span.num_grid_points + 2 * OVERHANG
        end = n_samples if span.count is None else span.first + span.count + 1 + 2 * OVERHANG
        rows = slice(span.first, end)
        return Grid(grid.expansion[rows], grid.window[rows], grid.vanishing and end == n_samples)

    def _window(self, nodes: Tensor) -> Tensor:
        """The window continued as its mirror image beyond both ends."""
        dist = nodes.abs()
        dist = torch.where(dist > self.cutoff, 2.0 * self.cutoff - dist, dist)
        return self.network.window(dist.clamp(max=self.cutoff * (1.0 - 1e-9)))  # the end itself counts as outside

    def __call__(self, dist: Tensor) -> Tensor:
        """Filters at ``dist`` [Å], shape ``[E]``; returns shape ``[E, num_filters]``."""
        span = Span(self.num_grid_points_at(dist))
        bins, weights = spline_basis(dist, self.cutoff, span.num_grid_points - 1)
        return interpolate(self.coefficients(span), weights, bins)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.network}, num_grid_points={self.num_grid_points})"
