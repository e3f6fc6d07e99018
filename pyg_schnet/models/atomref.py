"""Removal of element energies from a model, to add them in float64."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyg_schnet.nn import HeadsReadout, MeanReadout, SumReadout
from pyg_schnet.ops.dispatch import wide_dtype


@torch.no_grad()
def pop_atomref(model: nn.Module) -> Tensor | None:
    """Remove element references and shift from a model of this package, so that it returns the difference from them.

    Total energies in float32 are rounded, by 0.5 meV at 6,000 eV. For higher precision (potentials, ``predict``, test
    errors), they are removed, and ``sum_references`` is added to the output in float64.

    Args:
        model: Model; changed in place.

    Returns:
        The removed values for each atomic number, in float64 where the device has it, shape
        ``[MAX_Z + 1, out_channels]``, zero for outputs without references; ``None`` if no output has any.

    Example:
        >>> from pyg_schnet import SchNet
        >>> model = SchNet(16, 16, 1)
        >>> model.readout.set_references(torch.tensor([0.0, -13.5]))
        >>> pop_atomref(model)[1], model.readout.atomref[1]
        (tensor([-13.5000], dtype=torch.float64), tensor([0.]))
    """
    readout = getattr(model, "readout", None)
    if isinstance(readout, HeadsReadout):
        taken = [_pop(head) for head in readout.heads]
        known = next((one for one in taken if one is not None), None)
        if known is None:
            return None
        none = [known.new_zeros(len(known), int(head.out_channels)) for head in readout.heads]
        return torch.cat([empty if one is None else one for one, empty in zip(taken, none, strict=True)], 1)
    return _pop(readout)


def averaged_references(readout: nn.Module) -> bool | Tensor:
    """Whether references of a readout are means over atoms, not sums; for several heads of each output, bool ``[C]``.

    Example:
        >>> from pyg_schnet.nn import HeadsReadout
        >>> averaged_references(HeadsReadout({"U0, H": SumReadout(16, 2), "gap": MeanReadout(16)}))
        tensor([False, False,  True])
    """
    if not isinstance(readout, HeadsReadout):
        return isinstance(readout, MeanReadout)
    return torch.cat([torch.full((int(head.out_channels),), isinstance(head, MeanReadout)) for head in readout.heads])


def _pop(readout: nn.Module | None) -> Tensor | None:
    if not isinstance(readout, (SumReadout, MeanReadout)):
        return None
    wide = wide_dtype(readout.atomref)
    taken = readout.atomref.to(wide) + readout.shift.to(wide)
    readout.atomref.zero_()
    readout.shift.zero_()
    return taken
