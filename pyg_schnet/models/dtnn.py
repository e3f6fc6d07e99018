"""The deep tensor neural network, SchNet's predecessor."""

from __future__ import annotations

from typing import Any, Literal

from pyg_schnet.models.base import AtomisticModel
from pyg_schnet.models.parts import (
    check_options,
    check_sizes,
    describe_readout,
    make_readout,
    make_window,
    refuse_pyg_arguments,
)
from pyg_schnet.nn import DTNNConv, DTNNInteraction, GaussianBasis, Readout, SumReadout
from pyg_schnet.ops.checks import as_real, check_parameters


class DTNN(AtomisticModel):
    r"""Deep tensor neural network of `Schütt et al., Nat. Commun. 8, 13890 (2017) <https://doi.org/10.1038/ncomms13890>`_.

    Embeddings are refined by the interactions of :class:`pyg_schnet.nn.DTNNConv`, and atom energies come from a
    network with one tanh layer. Defaults are the paper's: 30 features, 60 factors, three passes through one shared
    interaction, Gaussians 0.2 Å apart and as wide, and no window. The paper's grid starts at -1 Å and its graph
    has no cutoff; here the grid starts at zero, and the cutoff should exceed the largest molecule to have the same.

    Args:
        hidden_channels: Size F of the atom features.
        num_factors: Size of the factor space of the messages.
        num_interactions: Number T of interactions.
        num_gaussians: Number of Gaussians in the radial expansion.
        cutoff: Cutoff in Å.
        readout: Maps atom features to the property; as in :class:`pyg_schnet.models.SchNet`. ``"sum"`` is the paper's,
            with tanh.
        out_channels: Number of properties, for sums and means given by name.
        gamma: Inverse squared width of the Gaussians in Å⁻²; ``None`` takes :math:`1 / (2 \Delta\mu^2)`, the paper's.
        window: Cutoff window on the messages, ``"hard"`` or ``"cosine"``.
        shared_weights: Whether all interactions share one block, as in the paper.

    Example:
        >>> import torch
        >>> z, pos = torch.tensor([8, 1, 1]), torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
        >>> DTNN()(z, pos).shape
        torch.Size([1, 1])
    """

    @refuse_pyg_arguments
    def __init__(
        self,
        hidden_channels: int = 30,
        num_factors: int = 60,
        num_interactions: int = 3,
        num_gaussians: int = 51,
        cutoff: float = 10.0,
        readout: str | dict[str, Any] | Readout = "sum",
        out_channels: int = 1,
        *,
        gamma: float | None = None,
        window: Literal["cosine", "hard"] = "hard",
        shared_weights: bool = True,
    ) -> None:
        num_interactions, hidden_channels, num_factors, num_gaussians = check_sizes(
            num_interactions, hidden_channels=hidden_channels, num_factors=num_factors, num_gaussians=num_gaussians
        )
        check_options(shared_weights=shared_weights)
        n_blocks = 1 if shared_weights else num_interactions
        of_block = num_factors * (2 * hidden_channels + num_gaussians)
        check_parameters(n_blocks * of_block + 100 * hidden_channels, "a DTNN")
        if isinstance(readout, str) and readout in ("sum", "add"):
            readout = SumReadout(hidden_channels, out_channels, activation="tanh")
        super().__init__(
            hidden_channels,
            num_interactions,
            cutoff,
            [
                DTNNInteraction(
                    DTNNConv(
                        hidden_channels,
                        num_factors,
                        GaussianBasis(num_gaussians, cutoff, gamma=gamma),
                        make_window(window, cutoff),
                    )
                )
                for _ in range(n_blocks)
            ],
            make_readout(readout, hidden_channels, out_channels),
        )
        self.num_factors = num_factors
        self.num_gaussians = num_gaussians
        self.gamma = None if gamma is None else as_real(gamma)
        self.window = window
        self.shared_weights = shared_weights

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that build a model of the same shape, as JSON can hold them."""
        return {
            "hidden_channels": self.hidden_channels,
            "num_factors": self.num_factors,
            "num_interactions": self.num_interactions,
            "num_gaussians": self.num_gaussians,
            "cutoff": self.cutoff,
            "readout": describe_readout(self.readout),
            "gamma": self.gamma,
            "window": self.window,
            "shared_weights": self.shared_weights,
        }

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(hidden_channels={self.hidden_channels}, num_factors={self.num_factors}, "
            f"num_interactions={self.num_interactions}, num_gaussians={self.num_gaussians}, cutoff={self.cutoff}, "
            f"readout={self.readout})"
        )
