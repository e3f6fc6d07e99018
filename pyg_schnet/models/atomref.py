"""Taking what does not depend on positions out of a model, so that it can be added in float64."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyg_schnet.nn import MeanReadout, SumReadout
from pyg_schnet.ops.dispatch import wide_dtype


@torch.no_grad()
def pop_atomref(model: nn.Module) -> Tensor | None:
    """Take element references and shift out of a model of this package, so that it gives the difference from them.

    Total energies of float32 models are rounded to their own precision, 0.5 meV at 6,000 eV. Where more is needed
    (potentials, ``predict``, errors of tests), these are taken out, what is left is evaluated, and
    :func:`pyg_schnet.nn.sum_references` is added in float64.

    Args:
        model: Model; changed in place.

    Returns:
        What was taken out for each atom, in float64 where the device has it, shape ``[MAX_Z + 1, out_channels]``;
        ``None`` where the readout has no references.

    Example:
        >>> from pyg_schnet import SchNet
        >>> model = SchNet(16, 16, 1)
        >>> model.readout.set_references(torch.tensor([0.0, -13.5]))
        >>> pop_atomref(model)[1], model.readout.atomref[1]
        (tensor([-13.5000], dtype=torch.float64), tensor([0.]))
    """
    readout = getattr(model, "readout", None)
    if not isinstance(readout, (SumReadout, MeanReadout)):
        return None
    wide = wide_dtype(readout.atomref)
    taken = readout.atomref.to(wide) + readout.shift.to(wide)
    readout.atomref.zero_()
    readout.shift.zero_()
    return taken
