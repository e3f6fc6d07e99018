"""The program ``"large"``: energies and gradients of many atoms, with neighbours close to each other in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyg_schnet.ops.dispatch import Backend
from pyg_schnet.ops.large_potential import large_potential
from pyg_schnet.ops.potential import EnergyGradients, PotentialWeights
from pyg_schnet.ops.rows_of import rows_of

_SIDE = 2.0  # Å, of the cubes that are ordered; one holds a few atoms
_SPREAD = (  # shifts and masks that put two zeros after each of 21 bits
    (32, 0x1F00000000FFFF),
    (16, 0x1F0000FF0000FF),
    (8, 0x100F00F00F00F00F),
    (4, 0x10C30C30C30C30C3),
    (2, 0x1249249249249249),
)


def run_large(
    pos: Tensor,
    z: Tensor,
    batch: Tensor,
    batch_size: int,
    index: Tensor,
    ptr: Tensor,
    edge_shift: Tensor | None,
    cell: Tensor | None,
    weights: PotentialWeights,
    *,
    strain: bool,
    backend: Backend,
) -> EnergyGradients | None:
    """The program; see :func:`pyg_schnet.ops.large_potential.large_potential`.

    Convolutions read features of neighbours. In the order of a crystal builder or of a liquid these lie far apart, and
    each is fetched from memory for every pair; so atoms are put into the order of :func:`order_in_space` first, and the
    time for one does not grow with their number.
    """
    order = order_in_space(pos, batch)
    place = torch.empty_like(order)
    place[order] = torch.arange(order.size(0), device=order.device)
    pairs, target, ptr = rows_of(ptr, order)
    index = torch.stack([place.index_select(0, index[0].index_select(0, pairs)), target])
    edge_shift = None if edge_shift is None else edge_shift.index_select(0, pairs)
    del pairs, target
    atoms = [values.index_select(0, order) for values in (pos.detach(), z, batch)]
    compute: Any = large_potential
    found = compute(*atoms, batch_size, index, ptr, edge_shift, cell, weights, strain=strain, backend=backend)
    if found is None or found.grad_pos is None:
        return found
    return found._replace(grad_pos=found.grad_pos.index_select(0, place))


def order_in_space(pos: Tensor, batch: Tensor) -> Tensor:
    """Atoms of each structure along a curve through cubes of space that fills one octant after the other (Morton).

    Args:
        pos: Positions in Å, shape ``[N, 3]``.
        batch: Structure of each atom, shape ``[N]``.

    Returns:
        Indices of the atoms, shape ``[N]``.

    Example:
        >>> pos = torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.0, 0.0], [9.0, 0.0, 1.0]])
        >>> order_in_space(pos, torch.zeros(3, dtype=torch.int64))
        tensor([1, 0, 2])
    """
    pos = pos.detach()
    cubes = ((pos - pos.amin(0)) / _SIDE).clamp(max=2.0**21 - 1).long()
    key = torch.zeros_like(batch)
    for axis in range(3):
        bits = cubes[:, axis]
        for shift, mask in _SPREAD:
            bits = (bits | bits << shift) & mask
        key |= bits << axis
    order = key.argsort(stable=True)
    return order.index_select(0, batch.index_select(0, order).argsort(stable=True))
