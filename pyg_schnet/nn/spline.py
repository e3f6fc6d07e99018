"""Filters tabulated over the distance: the same network, evaluated on a grid instead of on every edge."""

from __future__ import annotations

import copy
import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyg_schnet.kernels import SplineGraph, check_sources, is_plain, spline_graph, spline_weights
from pyg_schnet.kernels.bspline import OVERHANG, interpolate
from pyg_schnet.nn.filters import FilterNetwork
from pyg_schnet.nn.kept import Kept
from pyg_schnet.nn.table import Grid, is_written_out, tabulate, tabulate_all

TOLERANCE = 1e-5
"""Error of the forces that is aimed at in evaluation, relative to the largest force."""

TRAINING_TOLERANCE = 1e-4
"""The same in training, where batches scatter by far more than that."""

_ERROR_AT_WIDTH = 0.06
"""Relative error of forces with one node for each width of the Gaussians, extrapolated by the third power; measured by
``benchmarks/spline_error.py`` over random and trained models, and rounded up."""


class SplineEdges(NamedTuple):
    """Edges as splined filters see them; shared by all layers with the same grid.

    Attributes:
        weights: Weights of the four coefficients of each edge, differentiable in the distances, shape ``[E, 4]``.
        graph: The edges in the orders of the kernels.
        cutoff: End of the grid in Å.
        num_nodes: Nodes of the grid.
        first: First interval that a table is needed for; ``graph.bins`` count from there.
        count: Number of intervals a table is needed for; ``None`` for all.
        n_neighbors: Number of neighbours of each target, shape ``[N_dst]``, where layers divide by it.
    """

    weights: Tensor
    graph: SplineGraph
    cutoff: float
    num_nodes: int
    first: int = 0
    count: int | None = None
    n_neighbors: Tensor | None = None


def num_nodes_for(resolution: float, cutoff: float, tolerance: float = TOLERANCE) -> int:
    r"""Number of nodes for a wanted error of the forces.

    .. math:: G = 1 + \frac{r_c}{\sigma} \sqrt[3]{\kappa / \varepsilon}

    Slopes of a cubic spline err by the third power of the spacing over the finest detail σ, values by the fourth; the
    factor κ is measured.

    Args:
        resolution: Finest detail σ of the filters in Å, the width of the Gaussians.
        cutoff: End of the grid in Å.
        tolerance: Error ε of the forces, relative to the largest one.

    Raises:
        ValueError: If the tolerance is not positive.

    Example:
        >>> num_nodes_for(5.0 / 49, cutoff=5.0, tolerance=1e-5) > num_nodes_for(5.0 / 49, cutoff=5.0, tolerance=1e-3)
        True
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance must be a positive relative error of forces, got {tolerance!r}")
    return max(8, 1 + math.ceil(cutoff / resolution * (_ERROR_AT_WIDTH / tolerance) ** (1 / 3)))


class SplineFilter:
    r"""A filter network tabulated on a uniform grid over ``[0, cutoff]`` and interpolated by a cubic B-spline.

    .. math:: \tilde W(d) = \sum_{m=0}^{3} h_m(t)\, \mathbf{C}_{k + m}, \qquad k + t = \frac{d}{\Delta}

    The network is evaluated at the G nodes and no longer on every edge; its weights receive gradients through the
    coefficients **C** (:func:`pyg_schnet.kernels.spline_coefficients`). Two derivatives are continuous, and distances
    receive the exact derivative of the spline, so forces are the exact gradient of the energy. Where the window ends
    smoothly, value and slope at the cutoff are exactly zero. Values err by the fourth power of the spacing.

    The window is continued beyond both ends as its mirror image, which the cosine and the hard window are; a window
    with a kink there is less accurate near it. Windows of other packages say by an attribute ``vanishes`` that value
    and slope are zero at the cutoff.

    In evaluation mode the coefficients are kept until a weight changes. Weights changed behind autograd's back, by
    ``parameter.data``, are noticed at a sample of their elements only; :meth:`forget` makes sure.

    This is no module and holds no weights: it is another way to evaluate ``network``.

    In training mode the grid is coarser, since it is evaluated in every step.

    Args:
        network: Filter network, whose basis has a ``resolution`` unless ``num_nodes`` is given.
        num_nodes: Nodes G of the grid in both modes; ``None`` takes :func:`num_nodes_for` the tolerances.
        tolerance: Error of forces that is aimed at in evaluation mode, relative to the largest one; in training mode
            it is at least 1e-4.

    Raises:
        ValueError: If the number of nodes is too small, or cannot be found because the basis has no ``resolution``.

    Example:
        >>> from pyg_schnet.nn import CosineCutoff
        >>> network = FilterNetwork(8, window=CosineCutoff(5.0))
        >>> dist = torch.linspace(0.5, 6.0, 50)
        >>> bool((SplineFilter(network)(dist) - network(dist)).abs().max() < 1e-5)
        True
    """

    def __init__(self, network: FilterNetwork, num_nodes: int | None = None, tolerance: float = TOLERANCE) -> None:
        if num_nodes is None:
            resolution = getattr(network.basis, "resolution", None)
            if resolution is None:
                raise ValueError(
                    f"the number of nodes for {network.basis} is not known, as it has no fixed resolution (Å); give "
                    "num_nodes, or take the exact filters"
                )
            tolerances = tolerance, max(tolerance, TRAINING_TOLERANCE)
            self._nodes = tuple(num_nodes_for(resolution, network.cutoff, error) for error in tolerances)
        elif num_nodes < 8:
            raise ValueError(f"num_nodes must be at least 8, got {num_nodes!r}")
        else:
            self._nodes = int(num_nodes), int(num_nodes)
        self.network = network
        self._table, self._samples = Kept(), Kept()

    @property
    def num_nodes(self) -> int:
        """Nodes G of the grid in the mode that the network is in."""
        return self._nodes[self.network.training]

    @property
    def cutoff(self) -> float:
        """End of the grid in Å; filters are zero from there on."""
        return self.network.cutoff

    @property
    def spacing(self) -> float:
        """Distance between two nodes in Å."""
        return self.cutoff / (self.num_nodes - 1)

    @property
    def key(self) -> tuple[Hashable, ...]:
        """What coefficients depend on beside weights."""
        network = self.network
        return self.num_nodes, network.activate_filters, network.window, network.basis

    def forget(self) -> None:
        """Compute the coefficients anew when they are needed next."""
        self._table, self._samples = Kept(), Kept()

    def edges(
        self,
        edge_index: Tensor,
        edge_dist: Tensor,
        edge_ptr: Tensor | None,
        size: tuple[int, int],
        half: Tensor | None = None,
    ) -> SplineEdges:
        """Edges for the kernels, where gradients are recorded also in the orders that these need.

        Args:
            edge_index: ``(j, i)``, shape ``[2, E]``.
            edge_dist: Distances in Å, shape ``[E]``.
            edge_ptr: Begin and end of each target's edges where they are sorted, shape ``[N_dst + 1]``.
            size: ``(N_src, N_dst)``.
            half: One edge of each pair of directions where all edges have both, see
                :func:`pyg_schnet.kernels.half_edges`; their distances then receive the gradients of both.
        """
        if half is not None:
            edge_index, edge_dist, edge_ptr = edge_index[:, half], edge_dist.index_select(0, half), None
        bins, weights = spline_weights(edge_dist, self.cutoff, self.num_nodes - 1)
        first, count = 0, None
        if self.network.training and is_plain(edge_dist) and bins.numel() > 0:
            low, high = (int(end) for end in torch.aminmax(bins))
            bins, first, count = bins - low, low, high - low + 1  # no atoms are closer than their bonds
        graph = spline_graph(bins, edge_index, size[1], edge_ptr, undirected=half is not None)
        if torch.is_grad_enabled():
            graph = graph.with_sources(size[0])
            if self.network.training:
                graph = graph.with_bins(self.num_nodes - 1 if count is None else count)
        else:
            check_sources(edge_index[0], size[0])
        return SplineEdges(weights, graph, self.cutoff, self.num_nodes, first, count)

    def fits(self, edges: SplineEdges) -> bool:
        """Whether edges were prepared for this grid."""
        return edges.num_nodes == self.num_nodes and edges.cutoff == self.cutoff

    def coefficients(self, first: int = 0, count: int | None = None) -> Tensor:
        """Spline coefficients that act on some of the intervals, differentiable in the weights of the network.

        Args:
            first: First interval.
            count: Number of intervals; ``None`` takes all from the first one on.

        Returns:
            Shape ``[count + 3, num_filters]``.
        """
        network = self.network
        if network.training:
            return self.compute(first, count)
        weights = [*network.parameters(), *network.buffers()]
        values = self._table.get(weights, self.key, self.compute_precisely)
        if values is None:
            return self.compute(first, count)
        if torch.is_grad_enabled() and any(weight.requires_grad for weight in weights):
            if not is_written_out(network) or list(network.basis.parameters()):
                return self.compute(first, count)
            values = tabulate(network, self._kept_grid(), values)
        return values if (first, count) == (0, None) else values[first : None if count is None else first + count + 3]

    def compute(self, first: int = 0, count: int | None = None) -> Tensor:
        """The coefficients that act on some of the intervals, computed now.

        Args:
            first: First interval.
            count: Number of intervals; ``None`` takes all from the first one on.

        Returns:
            Coefficients in the precision of the weights, shape ``[count + 3, num_filters]``.
        """
        return tabulate(self.network, self._rows(self._kept_grid(), first, count))

    @staticmethod
    def all_coefficients(splines: Sequence[SplineFilter], first: int = 0, count: int | None = None) -> Tensor:
        """:meth:`coefficients` of several networks in one tensor, shape ``[T, count + 3, num_filters]``."""
        if not all(spline.network.training for spline in splines):
            return torch.stack([spline.coefficients(first, count) for spline in splines])
        grids = [spline._rows(spline._kept_grid(), first, count) for spline in splines]
        return tabulate_all([spline.network for spline in splines], grids)

    def _kept_grid(self) -> Grid:
        """All samples of the grid; kept where they do not depend on weights."""
        network, weight = self.network, self.network.lin1.weight
        grid = None
        if not list(network.basis.parameters()):
            key = (*self.key, weight.dtype, weight.device)
            grid = self._samples.get(list(network.basis.buffers()), key, lambda: self.grid(network))
        return self.grid(network) if grid is None else grid

    def compute_precisely(self) -> Tensor:
        """The coefficients without gradients, computed in float64 where the device has it, and then rounded.

        Rounding errors of the network differ from node to node, and slopes divide them by the spacing.
        """
        weight = self.network.lin1.weight
        if weight.dtype == torch.float64 or weight.device.type == "mps":
            return self.compute()
        network = copy.deepcopy(self.network).to(torch.float64)
        return tabulate(network, self.grid(network)).to(weight.dtype)

    def grid(self, network: FilterNetwork) -> Grid:
        """All samples of the grid, in the precision of a network."""
        weight = network.lin1.weight
        wide = torch.float32 if weight.device.type == "mps" else torch.float64
        nodes = self.spacing * torch.arange(-OVERHANG, self.num_nodes + OVERHANG, device=weight.device, dtype=wide)
        window = self._window(nodes).to(weight.dtype).unsqueeze(-1)
        return Grid(network.basis(nodes.to(weight.dtype)), window, getattr(network.window, "vanishes", False))

    def _rows(self, grid: Grid, first: int, count: int | None) -> Grid:
        n_samples = self.num_nodes + 2 * OVERHANG
        end = n_samples if count is None else first + count + 1 + 2 * OVERHANG
        return Grid(grid.expansion[first:end], grid.window[first:end], grid.vanishing and end == n_samples)

    def _window(self, nodes: Tensor) -> Tensor:
        """The window continued as its mirror image beyond both ends."""
        dist = nodes.abs()
        dist = torch.where(dist > self.cutoff, 2.0 * self.cutoff - dist, dist)
        return self.network.window(dist.clamp(max=self.cutoff * (1.0 - 1e-9)))  # the end itself counts as outside

    def __call__(self, dist: Tensor) -> Tensor:
        """Filters at ``dist`` [Å], shape ``[E]``; returns shape ``[E, num_filters]``."""
        bins, weights = spline_weights(dist, self.cutoff, self.num_nodes - 1)
        return interpolate(self.coefficients(), weights, bins)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.network}, num_nodes={self.num_nodes})"
