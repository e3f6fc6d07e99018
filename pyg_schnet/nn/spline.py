"""Splined filters: the filter network evaluated on a grid of distances instead of on every edge."""

from __future__ import annotations

import copy
import math
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, nn

from pyg_schnet.nn.basis import GaussianBasis
from pyg_schnet.nn.cutoff import CosineCutoff, HardCutoff
from pyg_schnet.nn.filters import FilterNetwork
from pyg_schnet.nn.versioned_cache import VersionedCache
from pyg_schnet.ops.bspline import OVERHANG, REFINED_EXTRA, interpolate
from pyg_schnet.ops.checks import as_real, positive_length, shown, whole_number
from pyg_schnet.ops.dispatch import Backend, is_followed
from pyg_schnet.ops.filter_table import GridSamples, filter_table, table_of
from pyg_schnet.ops.modules import may_fuse
from pyg_schnet.ops.spline_basis import spline_basis

TOLERANCE = 1e-5
"""Target error of the forces in evaluation, relative to the largest force."""

TRAINING_TOLERANCE = 1e-4
"""The same in training, where the noise of batches is far larger."""

_ERROR_AT_WIDTH = 0.06
"""Relative error of forces with one grid point for each width of the Gaussians, extrapolated by the third power;
measured by ``benchmarks/spline_error.py`` over random and trained models, and rounded up."""


def num_grid_points_for(resolution: float, cutoff: float, tolerance: float = TOLERANCE) -> int:
    r"""Number of grid points for a given error of the forces.

    .. math:: G = 1 + \frac{r_c}{\sigma} \sqrt[3]{\kappa / \varepsilon}

    The error of the slopes of a cubic spline grows with the third power of the spacing over the finest detail σ; the
    factor κ is measured.

    Args:
        resolution: Finest detail σ of the filters in Å, the width of the Gaussians.
        cutoff: End of the grid in Å.
        tolerance: Error ε relative to the largest force.

    Raises:
        ValueError: If the tolerance is not positive.

    Example:
        >>> num_grid_points_for(5.0 / 49, cutoff=5.0, tolerance=1e-5) > num_grid_points_for(5.0 / 49, 5.0, 1e-3)
        True
    """
    error = as_real(tolerance)
    if error is None or not 0 < error < math.inf:
        raise ValueError(f"tolerance must be a positive relative error of forces, got {shown(tolerance)}")
    ratio = positive_length(cutoff) / positive_length(resolution, "resolution")
    return whole_number(
        max(8, 1 + math.ceil(ratio * (_ERROR_AT_WIDTH / error) ** (1 / 3))), "the number of grid points", 8
    )


def _grid_sizes(resolution: float, cutoff: float, tolerance: float) -> tuple[int, int]:
    """Grid points in evaluation and in training."""
    tolerances = tolerance, max(tolerance, TRAINING_TOLERANCE)
    evaluation, training = (num_grid_points_for(resolution, cutoff, one) for one in tolerances)
    return evaluation, training


def check_num_grid_points(num_grid_points: int | None) -> int | None:
    """The number as ``int``; raises unless a grid can have so many points. ``None`` stands for as many as needed."""
    return None if num_grid_points is None else whole_number(num_grid_points, "num_grid_points", 8)


def can_be_splined(network: nn.Module, num_grid_points: int | None) -> bool:
    """Whether the filters of a network are known to be smooth enough for a spline.

    Args:
        network: The network, a :class:`FilterNetwork` and not a subclass of it. Other bases and windows declare by an
            attribute ``resolution`` or ``vanishes`` of their own that they may be evaluated on a grid; subclasses of
            those of this package do not inherit it.
        num_grid_points: Number of grid points, if given.
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
    """Whether a part defines an attribute itself, rather than inheriting it from a class of this package."""
    owner = next((cls for cls in type(part).__mro__ if name in vars(cls)), None)
    ours = (GaussianBasis.__module__, CosineCutoff.__module__)
    return name in vars(part) or (owner is not None and owner.__module__ not in ours)


def _tensors(part: nn.Module) -> list[Tensor]:
    return [*part.parameters(), *part.buffers()]


def options_of(module: nn.Module) -> tuple[Any, ...]:
    """Class and public attributes of all parts of a module, without weights, to be compared by value."""
    return tuple(
        (type(part), *((name, _by_value(value)) for name, value in vars(part).items() if not name.startswith("_")))
        for part in module.modules()
    )


def _by_value(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float, str, type(None))) else id(value)


def filters_from_table(dist: Tensor, table: Tensor, cutoff: float, backend: Backend = "auto") -> Tensor:
    r"""Filters interpolated by a cubic B-spline on a uniform grid over ``[0, cutoff]``.

    .. math:: \tilde W(d) = \sum_{m=0}^{3} h_m(t)\, \mathbf{C}_{k + m}, \qquad k + t = \frac{d}{\Delta}

    Args:
        dist: Distances d in Å, shape ``[E]``.
        table: Table **C** of the spline, shape ``[num_intervals + 3, F]``.
        cutoff: End of the grid in Å; filters are zero from there on.
        backend: How the spline basis h is computed.

    Returns:
        Filters, shape ``[E, F]``.

    Example:
        >>> filters_from_table(torch.tensor([1.0, 6.0]), torch.ones(13, 2), cutoff=5.0)
        tensor([[1., 1.],
                [0., 0.]])
    """
    interval, basis = spline_basis(dist, cutoff, table.size(0) - 3, backend=backend)
    return interpolate(table, basis, interval)


class SplineFilter(nn.Module):
    r"""A filter network tabulated on a uniform grid over ``[0, cutoff]`` and interpolated, ``filters_from_table``.

    The network is evaluated at G grid points instead of on every edge; its weights get gradients through the table
    (``pyg_schnet.ops.spline_table``). The spline has two continuous derivatives, and distances receive its exact
    derivative, so forces are the exact gradient of the energy. Where the window ends smoothly, value and slope at the
    cutoff are exactly zero. Errors of the values are of fourth order in the spacing.

    The window is continued beyond both ends by its mirror image, as is right for the cosine and the hard window; a
    window with a kink there is less accurate near it. Other windows declare by an attribute ``vanishes`` that value and
    slope are zero at the cutoff.

    Where the number of grid points is not given and the basis is Gaussian, the network is evaluated at every second one
    and interpolated in between (:func:`pyg_schnet.ops.bspline.refine`). Errors below are those of the whole.

    There are two grids. In training mode the table is computed in every step, on a coarser grid; in evaluation mode it
    is cached until a weight changes. Numbers G of grid points for 50 Gaussians up to 5 Å, and upper bounds of the
    errors of random and trained models (``benchmarks/spline_error.py``):

    ==========  ===  ========  =================================
    mode        G    energies  forces, over the largest force
    ==========  ===  ========  =================================
    evaluation  892  1e-6      1e-5
    training    415  1e-5      1e-4
    ==========  ===  ========  =================================

    Args:
        network: Filter network, whose basis has a ``resolution`` unless ``num_grid_points`` is given.
        num_grid_points: Number G of grid points of both grids; ``None`` takes those of ``num_grid_points_for``.
        tolerance: Target error of forces in evaluation mode, relative to the largest one; in training mode it is at
            least 1e-4.

    Raises:
        ValueError: If the number of grid points is too small, or cannot be computed because the basis has
            no ``resolution``, or if the network overrides ``forward``.

    Example:
        >>> from pyg_schnet.nn import CosineCutoff
        >>> network = FilterNetwork(8, window=CosineCutoff(5.0))
        >>> dist = torch.linspace(0.5, 6.0, 50)
        >>> bool((SplineFilter(network)(dist) - network(dist)).abs().max() < 1e-4)
        True
    """

    backend: Backend = "auto"

    def __init__(
        self, network: FilterNetwork, num_grid_points: int | None = None, tolerance: float = TOLERANCE
    ) -> None:
        super().__init__()
        num_grid_points = check_num_grid_points(num_grid_points)
        if not isinstance(network, FilterNetwork):
            raise TypeError(f"network must be a FilterNetwork, got a {type(network).__name__}")
        if type(network).forward is not FilterNetwork.forward or "forward" in vars(network):
            raise ValueError(
                f"a {type(network).__name__} with a forward of its own gives other filters than a table would hold; "
                "take the exact filters"
            )
        self.network, self.given_grid_points, self.tolerance = network, num_grid_points, tolerance
        self._kept, self._samples = VersionedCache(), VersionedCache()
        self.grid_sizes()

    def grid_sizes(self) -> tuple[int, int]:
        """Number of grid points in evaluation and in training, for the present basis of the network."""
        if self.given_grid_points is not None:
            return (int(self.given_grid_points),) * 2
        network = self.network
        resolution = getattr(network.basis, "resolution", None)
        if resolution is None:
            raise ValueError(
                f"the number of grid points for {network.basis} is not known, as it has no fixed resolution (Å); give "
                "num_grid_points, or take the exact filters"
            )
        return _grid_sizes(resolution, network.cutoff, self.tolerance)

    @property
    def num_grid_points(self) -> int:
        """Number G of grid points in the mode that the network is in."""
        return self.grid_sizes()[1 if self.network.training else 0]

    @property
    def refined(self) -> bool:
        """Whether the network is evaluated at every second grid point only.

        So it is where their number is chosen here, and the basis is Gaussian and so smooth beyond both ends.
        """
        return self.given_grid_points is None and type(self.network.basis) is GaussianBasis

    @property
    def num_filters(self) -> int:
        """Number F of filters."""
        return self.network.num_filters

    @property
    def cutoff(self) -> float:
        """End of the grid in Å; filters are zero from there on."""
        return self.network.cutoff

    @property
    def spacing(self) -> float:
        """Distance between two grid points in Å."""
        return self.cutoff / (self.num_grid_points - 1)

    @property
    def key(self) -> tuple[Hashable, ...]:
        """Options that the table depends on, besides weights and mode."""
        network = self.network
        return self.grid_sizes()[0], network.activate_filters, options_of(network.window), options_of(network.basis)

    def forget(self) -> None:
        """Discard the cached table."""
        self._kept, self._samples = VersionedCache(), VersionedCache()

    def forward(self, dist: Tensor) -> Tensor:
        """Filters at ``dist`` [Å], shape ``[E]``; returns shape ``[E, num_filters]``."""
        return filters_from_table(dist, self.table(), self.cutoff, self.backend)

    def table(self, first: int = 0, count: int | None = None) -> Tensor:
        """Spline table, differentiable with respect to the weights of the network.

        Args:
            first: First interval of the table.
            count: Number of intervals; ``None`` for all from the first one on.

        Returns:
            Shape ``[count + 3, num_filters]``; rows k to k + 3 act on interval ``first + k``.
        """
        network = self.network
        if network.training or is_followed():
            return self.compute(first, count)
        weights = _tensors(network)
        values = self._kept.get(weights, self.key, self.compute_precisely)
        if values is None:
            return self.compute(first, count)
        if torch.is_grad_enabled() and any(weight.requires_grad for weight in weights):
            if not may_fuse(network) or list(network.basis.parameters()):
                return self.compute(first, count)
            values = tabulate(network, self.samples(), values, self.backend)
        return values if count is None else values[first : first + count + 3]

    def compute(self, first: int = 0, count: int | None = None) -> Tensor:
        """The table without cache, in the precision of the weights; arguments as in :meth:`table`."""
        samples, odd = self.samples(), first % 2
        rows = samples.rows(first - odd, None if count is None else count + odd)
        return tabulate(self.network, rows, backend=self.backend)[odd:]

    def compute_precisely(self) -> Tensor:
        """The table for evaluation without gradients, computed in float64 where the device has it, and rounded.

        Rounding errors of the network differ from one grid point to the next, and slopes divide them by the spacing.
        """
        weight = self.network.lin1.weight
        if weight.dtype == torch.float64 or weight.device.type == "mps":
            return tabulate(self.network, self.samples(), backend=self.backend)
        wide = {id(value): value.detach().to(torch.float64) for value in _tensors(self.network)}
        network = copy.deepcopy(self.network, wide)  # no copy of a tensor is made, which may be a result of others
        samples = grid_samples(network, self.grid_sizes()[0], self.refined)
        return tabulate(network, samples, backend=self.backend).to(weight.dtype)

    def samples(self) -> GridSamples:
        """Inputs of the network at the grid points; cached where they do not depend on weights."""
        network, weight = self.network, self.network.lin1.weight
        num_grid_points, kept = self.num_grid_points, None
        if not is_followed() and not list(network.basis.parameters()):
            key = (num_grid_points, *self.key, weight.dtype, weight.device)
            buffers = list(network.basis.buffers())
            kept = self._samples.get(buffers, key, lambda: grid_samples(network, num_grid_points, self.refined))
        return grid_samples(network, num_grid_points, self.refined) if kept is None else kept

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.network}, num_grid_points={self.num_grid_points})"


def tabulate(
    network: FilterNetwork, samples: GridSamples, known: Tensor | None = None, backend: Backend = "auto"
) -> Tensor:
    """Spline table of a network, differentiable any number of times with respect to its weights.

    Args:
        network: Filter network; it is called if one of its parts was replaced or hooked.
        samples: Inputs at the grid points.
        known: The table, where it is known and only its gradient is needed.
        backend: How it is computed.

    Returns:
        Table, shape ``[M - 4, num_filters]``.
    """
    if not torch.compiler.is_compiling() and may_fuse(network):
        known = None if known is None else known.unsqueeze(0)
        return filter_table(samples, weights_of(network), network.activate_filters, known=known, backend=backend)[0]
    return table_of(network.amplitude(samples.expansion), samples)


def weights_of(network: FilterNetwork) -> list[Tensor]:
    """Weights and biases of the two layers of a network."""
    return [value for layer in (network.lin1, network.lin2) for value in (layer.weight, layer.bias)]


def grid_samples(network: FilterNetwork, num_grid_points: int, refined: bool = False) -> GridSamples:
    """Inputs of a network at the points of a grid, in its precision; at every second one if ``refined``."""
    weight, cutoff = network.lin1.weight, network.cutoff
    wide = torch.float32 if weight.device.type == "mps" else torch.float64
    steps = torch.arange(-OVERHANG, num_grid_points + OVERHANG, device=weight.device, dtype=wide)
    dist = cutoff / (num_grid_points - 1) * steps
    inside = dist.abs()  # the window continued as its mirror image beyond both ends
    inside = torch.where(inside > cutoff, 2.0 * cutoff - inside, inside)
    window = network.window(inside.clamp(max=cutoff * (1.0 - 1e-9)))  # the end itself counts as outside
    if refined:
        n_rows = len(dist) // 2 + REFINED_EXTRA
        steps = 2.0 * torch.arange(n_rows, device=weight.device, dtype=wide) - (8 + OVERHANG)
        dist = cutoff / (num_grid_points - 1) * steps
    expansion, vanishing = network.basis(dist.to(weight.dtype)), getattr(network.window, "vanishes", False)
    return GridSamples(expansion, window.to(weight.dtype).unsqueeze(-1), vanishing, refined)
