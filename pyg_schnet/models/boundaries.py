"""Checks of boundaries and origin for readouts of charges."""

from __future__ import annotations

from torch import Tensor, nn

from pyg_schnet.nn import DipoleReadout, ElectronicSpatialExtentReadout
from pyg_schnet.nn.heads import heads_of


def check_boundaries(readout: nn.Module, pbc: Tensor, first: int = 0) -> None:
    """Raise for a dipole or spatial extent of periodic structures: it depends on the choice of periodic images.

    Args:
        readout: Readout of the model.
        pbc: Periodic directions of the structures, shape ``[B, 3]``.
        first: Number of the first structure, for the message.

    Raises:
        ValueError: If a structure is periodic; the message names the first one.

    Example:
        >>> import torch
        >>> check_boundaries(DipoleReadout(16), torch.zeros(2, 3, dtype=torch.bool))
    """
    periodic = pbc.any(dim=1).nonzero().flatten().tolist()
    of_charges = (DipoleReadout, ElectronicSpatialExtentReadout)
    found = next((one for one in heads_of(readout) if isinstance(one, of_charges)), None)
    if not periodic or found is None:
        return
    what = "dipole" if isinstance(found, DipoleReadout) else "spatial extent"
    raise ValueError(
        f"the {what} of a periodic structure is not defined, it depends on which images of its atoms are taken; "
        f"structure {first + periodic[0]} has pbc={pbc[periodic[0]].tolist()}; for a molecule in a box, make it whole "
        "and set its pbc to False"
    )


def check_origin(readout: nn.Module, origin: Tensor, first: int = 0) -> None:
    """Raise for dipoles about the origin of the coordinates if positions are relative to another one.

    Args:
        readout: Readout of the model.
        origin: Origin of the positions in Å, shape ``[B, 3]``, see :func:`~pyg_schnet.data.to_data`.
        first: Number of the first structure, for the message.

    Raises:
        ValueError: If a structure was moved and its dipole depends on the position.
    """
    dipoles = [one for one in heads_of(readout) if isinstance(one, DipoleReadout) and one.origin == "zero"]
    if all(one.neutralize and one.total_charge == 0.0 for one in dipoles):
        return
    far = origin.any(dim=1).nonzero().flatten().tolist()
    if far:
        raise ValueError(
            "the dipole of this model is about the origin of the coordinates and depends on it, as charges do not add "
            f"up to zero, but structure {first + far[0]} is {float(origin[far[0]].norm()):.3g} Å from it; move it there"
        )
