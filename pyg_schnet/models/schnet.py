"""SchNet, from atomic numbers and positions to properties."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from pyg_schnet.engine.cache import ModelCache, run_potential
from pyg_schnet.models.base import AtomisticModel
from pyg_schnet.models.convert import Conversions
from pyg_schnet.models.graph import Edges, find_edges
from pyg_schnet.models.parts import (
    check_options,
    check_sizes,
    describe_readout,
    make_readout,
    make_window,
    refuse_pyg_arguments,
)
from pyg_schnet.models.repulsion import add_repulsion, describe_repulsion, make_repulsion
from pyg_schnet.nn import FilterNetwork, GaussianBasis, Readout, SchNetInteraction
from pyg_schnet.nn.basis import num_gaussians_for_spacing
from pyg_schnet.nn.conv import CFConv, Filters
from pyg_schnet.nn.spline import check_num_grid_points
from pyg_schnet.ops.checks import as_real, check_parameters
from pyg_schnet.ops.dispatch import Backend
from pyg_schnet.ops.modules import registered
from pyg_schnet.ops.potential import EnergyGradients


@registered()
class SchNet(Conversions, AtomisticModel):
    r"""SchNet, the continuous-filter convolutional network for molecules and materials.

    Schütt, Tkatchenko, Müller, "Learning representations of molecules and materials with atomistic neural networks"
    (`2020 <https://arxiv.org/abs/1812.04690>`_), eq. (1) to (18):

    .. math::
        \mathbf{x}_i^0 = \mathbf{A}_{Z_i}, \qquad
        \mathbf{x}_i^{t+1} = \mathbf{x}_i^t + \mathbf{v}_i^t, \qquad
        P = \mathrm{readout}(\mathbf{x}^T)

    with the interactions :math:`\mathbf{v}` of :class:`pyg_schnet.nn.SchNetInteraction`. Neighbours are all atoms
    within the cutoff: there is no limit on their number.

    Args:
        hidden_channels: Size F of the atom features.
        num_filters: Number of filters, the size of the features that are convolved.
        num_interactions: Number T of interaction blocks.
        num_gaussians: Number of Gaussians in the radial expansion.
        cutoff: Cutoff in Å.
        readout: Maps atom features to the property: ``"sum"``, ``"mean"``, ``"max"``, ``"dipole"``,
            ``"spatial_extent"`` or a readout of :mod:`pyg_schnet.nn`.
        out_channels: Number of properties, for sums, means and maxima given by name.
        gamma: Inverse squared width of the Gaussians in Å⁻²; ``None`` takes :math:`1 / (2 \Delta\mu^2)`, the width of
            PyTorch Geometric and SchNetPack. Schütt et al. (2020) take 10 Å⁻², see :meth:`from_paper`.
        trainable_gaussians: Whether centres and widths of the Gaussians are learned.
        window: Cutoff window, ``"cosine"`` (eq. 15) or ``"hard"``.
        normalize: Whether convolutions are divided by the number of neighbours, eq. (18).
        activate_filters: Whether the filter network ends with a softplus, as in the paper. PyTorch Geometric and
            SchNetPack leave it off.
        shared_weights: Whether all interactions share one block.
        filters: Which filters are computed: ``"exact"`` ones by the network on every edge, ``"spline"`` ones from a
            table over the distance (:class:`pyg_schnet.nn.SplineFilter`); ``"auto"`` takes splined ones for an
            unmodified :class:`pyg_schnet.nn.FilterNetwork` whose basis has a resolution, on any device, in any
            mode and for any structures. Errors are at most about 1e-6 of the energies and 1e-5 of the largest force in
            evaluation, and ten times that in training.
        num_grid_points: Number of grid points of the table; ``None`` takes as many as these errors need.
        repulsion: Whether close atoms repel each other by a :class:`pyg_schnet.nn.ZBLRepulsion`, or its arguments as a
            dictionary; for sums and means of one energy. It is added to what the network learns, in eV unless a
            training or :func:`~pyg_schnet.models.with_repulsion` sets another unit.
        backend: How operators are computed, see :attr:`~pyg_schnet.models.AtomisticModel.backend`.

    Example:
        >>> import torch
        >>> model = SchNet(hidden_channels=16, num_filters=16, num_interactions=2, cutoff=5.0)
        >>> z, pos = torch.tensor([8, 1, 1]), torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
        >>> model(z, pos).shape
        torch.Size([1, 1])
    """

    @refuse_pyg_arguments
    def __init__(
        self,
        hidden_channels: int = 128,
        num_filters: int = 128,
        num_interactions: int = 6,
        num_gaussians: int = 50,
        cutoff: float = 10.0,
        readout: str | dict[str, Any] | Readout = "sum",
        out_channels: int = 1,
        *,
        gamma: float | None = None,
        trainable_gaussians: bool = False,
        window: Literal["cosine", "hard"] = "cosine",
        normalize: bool = False,
        activate_filters: bool = True,
        shared_weights: bool = False,
        filters: Filters = "auto",
        num_grid_points: int | None = None,
        repulsion: bool | dict[str, float] | None = None,
        backend: Backend = "auto",
    ) -> None:
        num_interactions, hidden_channels, num_filters, num_gaussians = check_sizes(
            num_interactions, hidden_channels=hidden_channels, num_filters=num_filters, num_gaussians=num_gaussians
        )
        check_options(
            trainable_gaussians=trainable_gaussians,
            normalize=normalize,
            activate_filters=activate_filters,
            shared_weights=shared_weights,
        )
        n_blocks = 1 if shared_weights else num_interactions
        widths = hidden_channels + num_filters
        check_parameters(n_blocks * (widths**2 + num_filters * num_gaussians) + 100 * hidden_channels, "a SchNet")
        super().__init__(
            hidden_channels,
            num_interactions,
            cutoff,
            [
                SchNetInteraction(
                    hidden_channels,
                    FilterNetwork(
                        num_filters,
                        GaussianBasis(num_gaussians, cutoff, gamma=gamma, trainable=trainable_gaussians),
                        make_window(window, cutoff),
                        activate_filters=activate_filters,
                    ),
                    normalize=normalize,
                    filters=filters,
                    num_grid_points=num_grid_points,
                )
                for _ in range(n_blocks)
            ],
            make_readout(readout, hidden_channels, out_channels),
        )
        self.num_filters = num_filters
        self.num_gaussians = num_gaussians
        self.gamma = None if gamma is None else as_real(gamma)
        self.trainable_gaussians = trainable_gaussians
        self.window = window
        self.normalize = normalize
        self.activate_filters = activate_filters
        self.shared_weights = shared_weights
        self.num_grid_points = check_num_grid_points(num_grid_points)
        self._chosen_filters = filters
        self.repulsion = make_repulsion(repulsion, self.readout)
        self._engine = ModelCache()
        self.backend = backend

    @property
    def filters(self) -> Filters:
        """Which filters are computed, ``"auto"``, ``"exact"`` or ``"spline"``; can be changed at any time."""
        chosen = {conv.filters for conv in self._convolutions()}
        return chosen.pop() if len(chosen) == 1 else self._chosen_filters

    @filters.setter
    def filters(self, value: Filters) -> None:
        if not isinstance(value, str) or value not in ("auto", "exact", "spline"):
            raise ValueError(f"filters must be 'auto', 'exact' or 'spline', got {value!r}")
        for conv in self._convolutions():
            conv.filters = value
        self._chosen_filters = value

    def _convolutions(self) -> list[CFConv]:
        """Convolutions of the blocks that have one of this package."""
        convs = (getattr(block, "conv", None) for block in self.interactions)
        return [conv for conv in convs if isinstance(conv, CFConv)]

    def train(self, mode: bool = True) -> SchNet:
        """Set training or evaluation mode; cached tables and weights are discarded."""
        self._engine.forget()
        return super().train(mode)

    def represent(self, z: Tensor, edges: Edges) -> Tensor:
        """Atom features after all interactions; see :meth:`AtomisticModel.represent`."""
        x = self._engine.represent(self, z, edges, self.backend)  # all blocks in one call, if possible
        return super().represent(z, edges) if x is None else x

    def energy_and_gradients(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor | None = None,
        *,
        edge_index: Tensor | None = None,
        edge_shift: Tensor | None = None,
        cell: Tensor | None = None,
        pbc: Tensor | None = None,
        batch_size: int | None = None,
        strain: bool = False,
    ) -> EnergyGradients | None:
        r"""Energies and gradients in one call: small structures in half the time, large ones in less memory.

        .. math:: \left(E,\ \frac{\partial E}{\partial \mathbf{r}_i},\
                  \frac{\partial E}{\partial \boldsymbol\varepsilon}\right)

        The strain ε acts on positions and cell; :func:`pyg_schnet.derivatives.energy_forces_stress` calls this.

        Args:
            z: Atomic numbers, shape ``[N]``.
            pos: Positions in Å, shape ``[N, 3]``.
            batch: Structure of each atom, shape ``[N]``; ``None`` for a single structure.
            edge_index: Edges ``(j, i)``, shape ``[2, E]``; ``None`` builds the complete radius graph.
            edge_shift: Lattice images crossed by the given edges, shape ``[E, 3]``.
            cell: Lattice vectors in rows in Å, shape ``[B, 3, 3]``.
            pbc: Periodic directions, shape ``[B, 3]``.
            batch_size: Number of structures B.
            strain: Whether to compute the gradient with respect to strain.

        Returns:
            Energies and gradients, not differentiable; ``None`` if autograd is needed (``plan`` has the reasons).

        Raises:
            ValueError: If shapes or types do not fit, as in :meth:`~pyg_schnet.models.AtomisticModel.forward`.

        Example:
            >>> import torch
            >>> model = SchNet(16, 16, 2, cutoff=5.0).eval()
            >>> z, pos = torch.tensor([8, 1, 1]), torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
            >>> model.energy_and_gradients(z, pos).grad_pos.shape
            torch.Size([3, 3])
        """
        asked = self._asked(z, batch, edge_index, cell, pbc, batch_size)
        chosen = self._engine.prepare_potential(self, z, pos, **asked)
        if chosen is None:
            return None
        batch, batch_size = self._check(z, pos, batch, batch_size)
        given = {"edge_index": edge_index, "edge_shift": edge_shift, "cell": cell, "pbc": pbc}
        graph = find_edges(z, pos, batch, self.cutoff, **given, batch_size=batch_size, backend=self.backend)[0]
        if graph is None:
            return None
        pairs = graph.index, graph.ptr, graph.edge_shift, cell
        found = run_potential(*chosen, pos, z, batch, batch_size, *pairs, strain=strain, backend=self.backend)
        if found is None or self.repulsion is None:
            return found
        return add_repulsion(self, found, z, pos, batch, batch_size, graph, cell)

    @classmethod
    def from_paper(cls, cutoff: float = 5.0, **kwargs: Any) -> SchNet:
        """SchNet as in Schütt et al. (2020): 256 features, 6 blocks, Gaussians every 0.1 Å with γ = 10 Å⁻².

        Args:
            cutoff: Cutoff in Å, a multiple of 0.1; for the paper's models without cutoff take one larger than every
                molecule, with ``window="hard"``.
            **kwargs: Any other argument of :class:`SchNet`; the settings above can be overridden.

        Example:
            >>> SchNet.from_paper(cutoff=5.0).num_gaussians
            51
        """
        settings = {
            "hidden_channels": 256,
            "num_filters": 256,
            "num_interactions": 6,
            "num_gaussians": num_gaussians_for_spacing(0.1, cutoff),
            "gamma": 10.0,
        }
        return cls(**{**settings, "cutoff": cutoff, **kwargs})

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that build a model of the same shape, as JSON can hold them."""
        return {
            "hidden_channels": self.hidden_channels,
            "num_filters": self.num_filters,
            "num_interactions": self.num_interactions,
            "num_gaussians": self.num_gaussians,
            "cutoff": self.cutoff,
            "readout": describe_readout(self.readout),
            "gamma": self.gamma,
            "trainable_gaussians": self.trainable_gaussians,
            "window": self.window,
            "normalize": self.normalize,
            "activate_filters": self.activate_filters,
            "shared_weights": self.shared_weights,
            "filters": self.filters,
            "num_grid_points": self.num_grid_points,
            **describe_repulsion(self.repulsion),
        }

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(hidden_channels={self.hidden_channels}, num_filters={self.num_filters}, "
            f"num_interactions={self.num_interactions}, num_gaussians={self.num_gaussians}, cutoff={self.cutoff}, "
            f"readout={self.readout})"
        )
