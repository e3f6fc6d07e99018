"""Continuous filters: networks that map a distance to one factor for each feature."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from pyg_schnet.nn._inputs import check_parts
from pyg_schnet.nn.activation import ShiftedSoftplus
from pyg_schnet.nn.basis import GaussianBasis
from pyg_schnet.nn.cutoff import CosineCutoff
from pyg_schnet.nn.dense import dense, reset_parameters
from pyg_schnet.ops.checks import whole_number
from pyg_schnet.ops.modules import registered


@registered(window=None, basis=None, lin1=nn.Linear, lin2=nn.Linear, act=ShiftedSoftplus)
class FilterNetwork(nn.Module):
    r"""Continuous filter, eq. (14) to (16) of `Schütt et al. (2020) <https://arxiv.org/abs/1812.04690>`_.

    .. math::
        W(d) = f(d)\; \mathrm{ssp}\bigl(\mathbf{W}_2\, \mathrm{ssp}(\mathbf{W}_1 \mathbf{e}(d) + \mathbf{b}_1)
        + \mathbf{b}_2\bigr)

    with the radial expansion :math:`\mathbf{e}` (eq. 14) and the window :math:`f` (eq. 15).

    Args:
        num_filters: Number F of filters, one for each feature that is convolved.
        basis: Radial expansion; ``None`` takes 50 Gaussians up to the window's cutoff.
        window: Cutoff window, with an attribute ``cutoff`` in Å and zero from there on; ``None`` takes the cosine
            window up to the basis' cutoff, or to 10 Å.
        activate_filters: Whether the second dense layer is followed by the softplus, as in the paper. PyTorch
            Geometric and SchNetPack leave it off; their weights need ``False``.

    Example:
        >>> import torch
        >>> network = FilterNetwork(64, window=CosineCutoff(5.0))
        >>> network(torch.tensor([1.0, 5.0])).shape
        torch.Size([2, 64])
    """

    basis: Any  # a module with num_gaussians
    window: Any  # a module with a cutoff

    def __init__(
        self,
        num_filters: int = 128,
        basis: nn.Module | None = None,
        window: nn.Module | None = None,
        *,
        activate_filters: bool = True,
    ) -> None:
        super().__init__()
        check_parts(basis, window)
        if window is None:
            window = CosineCutoff(10.0 if basis is None else cast(Any, basis).cutoff)
        self.window = window
        self.basis = GaussianBasis(cutoff=self.window.cutoff) if basis is None else basis
        self.num_filters = whole_number(num_filters, "num_filters")
        self.activate_filters = activate_filters
        self.lin1 = dense(self.basis.num_gaussians, self.num_filters)
        self.lin2 = dense(self.num_filters, self.num_filters)
        self.act = ShiftedSoftplus()

    @property
    def cutoff(self) -> float:
        """Distance in Å from which on every filter is zero."""
        return self.window.cutoff

    def reset_parameters(self) -> None:
        """Draw new weights (Glorot uniform) and set biases to zero."""
        reset_parameters(self.basis, self.lin1, self.lin2)

    def forward(self, dist: Tensor) -> Tensor:
        """Filters at ``dist`` [Å], shape ``[E]``; returns shape ``[E, num_filters]``."""
        return self.amplitude(self.basis(dist)) * self.window(dist).unsqueeze(-1)

    def amplitude(self, expansion: Tensor) -> Tensor:
        """Filters before the window is applied.

        Args:
            expansion: Radial expansion of the distances, shape ``[E, num_gaussians]``.

        Returns:
            Shape ``[E, num_filters]``.
        """
        filters = self.lin2(self.act(self.lin1(expansion)))
        return self.act(filters) if self.activate_filters else filters

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.num_filters}, {self.basis}, {self.window}, "
            f"activate_filters={self.activate_filters})"
        )
