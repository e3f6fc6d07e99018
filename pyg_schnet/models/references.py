"""Taking the element references out of a model, so that they can be added in float64."""

from __future__ import annotations

from torch import Tensor, nn

from pyg_schnet.nn import MeanReadout, SumReadout


def take_references(model: nn.Module) -> Tensor | None:
    """Take the element references out of a model of this package, so that it gives the difference from them.

    Args:
        model: Model; changed in place.

    Returns:
        What was taken out, shape ``[MAX_Z + 1, out_channels]``; ``None`` where the readout has no references.
    """
    readout = getattr(model, "readout", None)
    if not isinstance(readout, (SumReadout, MeanReadout)):
        return None
    taken = readout.atomref.clone()
    readout.atomref.zero_()
    return taken
