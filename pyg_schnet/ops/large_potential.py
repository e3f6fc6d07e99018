r"""Energies of large structures and their gradients as one operator with little memory, for inference.

The same function as :mod:`pyg_schnet.ops.potential`. Of each block only the softplus :math:`\mathbf{a}` is kept; the
backward pass recomputes the rest from it, the last block first, with one matrix product more for each step:

.. math::
    \mathbf{x} = \mathbf{x}' - \mathrm{W}_2 \mathbf{a} - \mathbf{b}_2, \qquad
    \mathbf{y} = \mathrm{W}_0 \mathbf{x}, \qquad
    \sigma(\mathbf{u}) = 1 - \tfrac{1}{2} e^{-\mathbf{a}}

Not differentiable.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from pyg_schnet.ops.dispatch import Backend, kernels_for
from pyg_schnet.ops.edge_lengths import edge_lengths
from pyg_schnet.ops.graph import SplineGraph
from pyg_schnet.ops.potential import EnergyGradients, PotentialWeights, compose, counts_of_pairs


def recomputes(num_atoms: int, *, backend: Backend = "auto") -> bool:
    """Whether activations of so many atoms are recomputed in the backward pass rather than kept."""
    kernels = kernels_for(backend)
    return kernels is not None and hasattr(kernels, "recomputes") and kernels.recomputes(num_atoms)


def large_potential(
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
    strain: bool = False,
    backend: Backend = "auto",
) -> EnergyGradients | None:
    """Energies and gradients; ``None`` where an atom has no embedding, structure or cell.

    Args:
        pos: Positions in Å, shape ``[N, 3]``.
        z: Atomic numbers, shape ``[N]``.
        batch: Structure of each atom, shape ``[N]``.
        batch_size: Number of structures B.
        index: ``(j, i)``, one edge for both directions, sorted by i, shape ``[2, P]``.
        ptr: Begin and end of each target's edges, shape ``[N + 1]``.
        edge_shift: Lattice images crossed by each edge, shape ``[P, 3]``; ``None`` for open boundaries.
        cell: Lattice vectors in rows in Å, shape ``[B, 3, 3]``; needed with ``edge_shift``.
        weights: Parameters.
        strain: Whether the gradient with respect to strain is needed.
        backend: How it is computed, see :func:`pyg_schnet.ops.kernels_for`.
    """
    kernels = kernels_for(backend, pos, z, batch, index, ptr, edge_shift, cell, weights.embedding, needs="grad_strain")
    if kernels is None:
        return compose(pos, z, batch, batch_size, index, ptr, edge_shift, cell, weights, strain)
    cell = None if edge_shift is None or cell is None else cell.view(-1, 3, 3)
    n_structures = batch_size if cell is None else min(batch_size, cell.size(0))
    if not (_are_below(z, weights.embedding.size(0)) and _are_below(batch, n_structures)):
        return None
    lattice = edge_shift, cell
    dist = edge_lengths(pos, index, *lattice, batch, loop_length=weights.cutoff, backend=backend)
    energy, grad_basis = _through_blocks(kernels, z, batch, batch_size, index, ptr, dist, weights)
    slopes = kernels.spline_basis(dist, weights.cutoff, weights.table.size(1) - 3, with_slopes=True)[2]
    grad = grad_basis.mul_(slopes).sum(1)
    del grad_basis, slopes
    edges = grad, pos, index, *lattice, batch, dist
    grad_pos, _ = kernels.edge_lengths_backward(*edges, needs_cell=False)
    return EnergyGradients(energy, grad_pos, kernels.grad_strain(*edges, batch_size) if strain else None)


def _through_blocks(
    kernels: ModuleType, z: Tensor, batch: Tensor, batch_size: int, index: Tensor, ptr: Tensor, dist: Tensor,
    weights: PotentialWeights,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Energies ``[B]`` and the gradient of their sum with respect to the basis of the edges, ``[P, 4]``."""
    packed: Any = weights.packed if weights.packed is not None else weights.pack().packed
    interval, basis, _ = kernels.spline_basis(dist, weights.cutoff, weights.table.size(1) - 3)
    graph = SplineGraph(interval, index[0], index[1], ptr)
    counts = counts_of_pairs(index, dist, z.size(0), weights.cutoff) if weights.normalize else None
    x, kept = kernels.interactions_forward(z, packed[0], basis, graph, counts, recompute=True)
    energy, grad = _read_out(kernels, x, z, batch, batch_size, weights)
    found, _ = kernels.interactions_backward(grad, z, packed[0], basis, graph, counts, kept)
    return energy, torch.from_numpy(found.basis)


def _read_out(
    kernels: ModuleType, x: Tensor, z: Tensor, batch: Tensor, batch_size: int, weights: PotentialWeights
) -> tuple[Tensor, Tensor]:
    """Energies ``[B]`` and the gradient of their sum with respect to features, ``[N, F]``."""
    w1, b1, w2, b2, scale, shift, atomref = weights.readout
    values, hidden, slope = kernels.mlp(x, w1, b1, w2, b2)
    energy, n_atoms = kernels.pool(values, scale, shift, atomref, z, batch, batch_size)
    grad = x.new_ones(batch_size, 1)
    if weights.mean:
        n_atoms = n_atoms.clamp(min=1.0).unsqueeze(1)
        energy, grad = energy / n_atoms, grad / n_atoms.to(x.dtype)
    grad = kernels.unpool(grad, scale, z, batch)
    grad = kernels.mlp_backward(grad, x, w1, w2, hidden, slope, grad_weights=False).x
    return energy[:, 0].to(x.dtype), grad


def _are_below(values: Tensor, size: int) -> bool:
    low, high = torch.aminmax(values)
    return int(low) >= 0 and int(high) < size
