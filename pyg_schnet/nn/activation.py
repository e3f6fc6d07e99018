"""Activations: the shifted softplus."""

from __future__ import annotations

from torch import Tensor, nn

from pyg_schnet.ops import shifted_softplus
from pyg_schnet.ops.dispatch import Backend
from pyg_schnet.ops.modules import registered

__all__ = ["ShiftedSoftplus", "shifted_softplus"]


@registered()
class ShiftedSoftplus(nn.Module):
    """Shifted softplus, eq. (11), as a module without parameters; see :func:`pyg_schnet.nn.shifted_softplus`.

    Example:
        >>> import torch
        >>> ShiftedSoftplus()(torch.zeros(1))
        tensor([0.])
    """

    backend: Backend = "auto"

    def forward(self, x: Tensor) -> Tensor:
        """Apply eq. (11) to ``x`` of any shape."""
        return shifted_softplus(x, backend=self.backend)
