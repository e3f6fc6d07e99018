"""Weights and models of other packages: PyTorch Geometric's SchNet and SchNetPack's."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

if TYPE_CHECKING:
    from pyg_schnet.models.convert import like_pyg
    from pyg_schnet.models.schnet import SchNet


def _converter(name: str) -> ModuleType:
    """A module of this folder, by its name: converters build SchNets, so SchNet cannot import them."""
    return import_module(f"{__name__}.{name}")


class Conversions:
    """Methods of :class:`~pyg_schnet.models.SchNet` that take models from other packages and give them back."""

    @staticmethod
    def like_pyg(
        hidden_channels: int = 128,
        num_filters: int = 128,
        num_interactions: int = 6,
        num_gaussians: int = 50,
        cutoff: float = 10.0,
        interaction_graph: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
        max_num_neighbors: int = 32,
        readout: str = "add",
        dipole: bool = False,
        mean: float | None = None,
        std: float | None = None,
        atomref: Tensor | None = None,
        *,
        filters: Literal["auto", "exact"] = "auto",
    ) -> like_pyg.SchNet:
        """PyTorch Geometric's SchNet by its arguments, in its order: its function, its parts and its state dict.

        Every atom within the cutoff is a neighbour; ``max_num_neighbors`` drops none, and where an atom has more, a
        warning says so once. See :class:`pyg_schnet.models.convert.like_pyg.SchNet`, which this makes.

        Example:
            >>> import torch
            >>> from pyg_schnet import SchNet
            >>> model = SchNet.like_pyg(16, 16, 2, 12, 5.0, None, 32, "add", True)
            >>> model(torch.tensor([8, 1]), torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0]])).shape
            torch.Size([1, 1])
        """
        return _converter("like_pyg").SchNet(
            hidden_channels,
            num_filters,
            num_interactions,
            num_gaussians,
            cutoff,
            interaction_graph,
            max_num_neighbors,
            readout,
            dipole,
            mean,
            std,
            atomref,
            filters=filters,
        )

    @classmethod
    def from_pyg(cls, model: nn.Module) -> SchNet:
        """Model with the weights and outputs of PyTorch Geometric's ``SchNet``.

        Outputs agree wherever PyG's graph is complete: PyG drops neighbours beyond ``max_num_neighbors``.

        Args:
            model: A ``torch_geometric.nn.models.SchNet``.

        Returns:
            The model, in the precision, on the device and in the mode (training or not) of ``model``.

        Raises:
            TypeError: If ``model`` is no SchNet of PyTorch Geometric.
            ValueError: If its pooling is neither sum nor mean.
        """
        return _converter("pyg").from_pyg(model)

    def to_pyg(self) -> nn.Module:
        """PyTorch Geometric's ``SchNet`` with this model's weights and outputs.

        Its ``interaction_graph`` is :class:`pyg_schnet.neighbors.InteractionGraph`, so it has every neighbour and
        does not need pyg-lib.

        Raises:
            ValueError: If PyG has no such model; the message lists what it lacks.
        """
        return _converter("pyg").to_pyg(self)

    @classmethod
    def from_schnetpack(cls, state_dict: dict[str, Tensor], **kwargs: Any) -> SchNet:
        """Model with the weights of a ``NeuralNetworkPotential`` of SchNetPack 2.

        A state dict does not say how outputs are pooled or activated; the keyword arguments do.

        Args:
            state_dict: ``model.state_dict()`` with representation ``SchNet``, ``GaussianRBF``, ``CosineCutoff`` and one
                output module of two layers.
            **kwargs: ``readout`` (``"sum"``, ``"mean"`` or ``"dipole"``), ``activation`` of the output module
                (``"silu"``, SchNetPack's default, or ``"ssp"``); for dipoles ``magnitude`` and ``neutralize``,
                SchNetPack's ``predict_magnitude`` and ``correct_charges``.

        Returns:
            The model, in evaluation mode and in the precision of the state dict.

        Raises:
            ValueError: If the state dict has weights that this SchNet has no place for, or lacks some.
        """
        return _converter("schnetpack").from_schnetpack(state_dict, **kwargs)
