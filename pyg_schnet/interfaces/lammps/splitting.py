"""Whether a model can be computed domain by domain: found out by doing so with a few atoms."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.engine.frozen import FrozenModel
from pyg_schnet.interfaces.lammps.domain import DomainModel
from pyg_schnet.interfaces.lammps.exchange import ExchangePlan
from pyg_schnet.models import AtomisticModel
from pyg_schnet.nn import MeanReadout, SumReadout

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}  # relative to the largest number
_ATOMS, _OWN = 6, 4


@torch.no_grad()
def check_split(model: Any, element: int) -> None:
    """Check that the energy is a sum over atoms whose blocks need nothing but the features of neighbours.

    Each block is computed for a part of some atoms, and for all of them; a block whose result differs, or that cannot
    be called with a pair of features, mixes atoms in another way, such as a norm over all atoms. In the same way the
    readout, and the whole model, are compared with the sum over atoms.

    Args:
        model: Frozen model.
        element: Atomic number of the atoms that are tried.

    Raises:
        TypeError: If it is no model of this package with energies.
        ValueError: If it has no cutoff, or cannot be split; the message names the part.

    Example:
        >>> from pyg_schnet import SchNet
        >>> from pyg_schnet.engine import freeze
        >>> check_split(freeze(SchNet(16, 16, 2, cutoff=5.0)), element=6)
        >>> check_split(torch.nn.Linear(3, 1), element=6)
        Traceback (most recent call last):
            ...
        TypeError: LAMMPS needs a model of this package, whose blocks can be computed domain by domain; got a Linear
    """
    whole = model.model if isinstance(model, FrozenModel) else model
    if not isinstance(whole, AtomisticModel):
        raise TypeError(
            "LAMMPS needs a model of this package, whose blocks can be computed domain by domain; got a "
            f"{type(whole).__name__}"
        )
    if whole.cutoff is None:
        raise ValueError("LAMMPS needs a model with a cutoff in Å, got cutoff=None; train one with a cutoff")
    if not isinstance(whole.readout, (SumReadout, MeanReadout)) or whole.readout.out_channels != 1:
        raise TypeError(f"LAMMPS needs energies, of a SumReadout or MeanReadout; got {whole.readout}")
    dtype, draw = next(whole.parameters()).dtype, torch.Generator().manual_seed(0)
    x = torch.rand(_ATOMS, whole.hidden_channels, generator=draw, dtype=torch.float64).to(dtype)
    pos = torch.rand(_ATOMS, 3, generator=draw, dtype=torch.float64) + 2.0 * torch.eye(_ATOMS, 3, dtype=torch.float64)
    pos = (0.4 * whole.cutoff * pos).to(dtype)
    z = torch.full((_ATOMS,), element)
    target, source = (~torch.eye(_ATOMS, dtype=torch.bool)).nonzero().T
    index, dist = torch.stack([source, target]), (pos[source] - pos[target]).norm(dim=1)
    for number, block in enumerate(whole.interactions):
        _check_block(block, f"interactions.{number}", x, index, dist)
    batch = torch.zeros_like(z)
    values = whole.readout.atom_values(x, z)
    pooled = values.mean(0) if isinstance(whole.readout, MeanReadout) else values.sum(0)
    if not (
        _equal(whole.readout.atom_values(x[:_OWN], z[:_OWN]), values[:_OWN])
        and _equal(whole.readout(x, z, pos, batch, 1)[0], pooled)
    ):
        raise ValueError(_refusal(f"readout, a {type(whole.readout).__name__},"))
    plan = ExchangePlan(SimpleNamespace(size=1, rank=0), np.arange(_ATOMS), np.arange(0))
    inside = dist < whole.cutoff
    parts = DomainModel(model)(z, plan, index[:, inside], dist[inside])
    expected = model(z, pos, batch_size=1).reshape(-1)
    expected = expected * _ATOMS if isinstance(whole.readout, MeanReadout) else expected
    if not _equal(expected, parts.sum().reshape(1)):
        raise ValueError(_refusal(f"model, a {type(whole).__name__} with a hook or a method of its own,"))


def _check_block(block: Any, name: str, x: Tensor, index: Tensor, dist: Tensor) -> None:
    """Raise unless a block gives the same for a part of its targets."""
    own = index[1] < _OWN
    try:
        part = block((x, x[:_OWN]), index[:, own], dist[own], None)
    except Exception as error:
        raise ValueError(_refusal(f"{name}, a {type(block).__name__},", f" ({error})")) from error
    if not _equal(part, block(x, index, dist, None)[:_OWN]):
        raise ValueError(_refusal(f"{name}, a {type(block).__name__},"))


def _equal(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape:
        return False
    scale = max(float(expected.abs().max()), 1e-3)
    return float((found - expected).abs().max()) <= _TOLERANCE[expected.dtype] * scale


def _refusal(part: str, why: str = "") -> str:
    return (
        f"{part} cannot be computed domain by domain, as LAMMPS over several ranks needs it{why}: atoms may depend on "
        "others by the messages (x_src, x_dst) of their neighbours only"
    )
