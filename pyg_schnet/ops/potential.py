r"""Energies of small structures and their gradients as one operator, for inference.

.. math::
    \left(E,\ \frac{\partial E}{\partial \mathbf{r}_i},\ \frac{\partial E}{\partial \boldsymbol\varepsilon}\right),
    \qquad E_b = \sum_{i \in b} \bigl( s\, p(\mathbf{x}_i) + t + a_{Z_i} \bigr)

from edge lengths, spline basis, :func:`~pyg_schnet.ops.interactions.interactions`, a network p of two layers and the
sum over atoms; the strain ε acts on positions and cell. For small structures the overhead of calls dominates, so
a backend may compute all of this in one call. Not differentiable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyg_schnet.geometry import apply_strain
from pyg_schnet.ops.dispatch import Backend, kernels_for
from pyg_schnet.ops.edge_lengths import edge_lengths
from pyg_schnet.ops.graph import SplineGraph
from pyg_schnet.ops.interactions import interactions, pack_interactions
from pyg_schnet.ops.mlp import mlp
from pyg_schnet.ops.pool_atoms import pool_atoms
from pyg_schnet.ops.spline_basis import spline_basis


class EnergyGradients(NamedTuple):
    """Energies and their gradients, in the energy unit U of the model.

    Attributes:
        energy: Energies in U, shape ``[B]``.
        grad_pos: Gradient with respect to positions in U/Å, shape ``[N, 3]``; ``None`` if not requested.
        grad_strain: Gradient with respect to a strain of each structure in U, shape ``[B, 3, 3]``; ``None`` if not
            requested.
    """

    energy: Tensor
    grad_pos: Tensor | None
    grad_strain: Tensor | None


class PotentialWeights(NamedTuple):
    """Parameters of a potential.

    Attributes:
        cutoff: End of the grid of the tables in Å.
        normalize: Whether convolutions are divided by the number of neighbours within the cutoff.
        mean: Whether energies are means over atoms.
        embedding: Features of each element before the blocks, shape ``[Z, F]``.
        table: Spline table of each block, shape ``[T, num_intervals + 3, K]``.
        weights: Dense layers of the blocks, see ``BlockWeights``.
        readout: Weights and bias of the two layers of the readout, ``[H, F]``, ``[H]``, ``[1, H]``, ``[1]``, then
            scale ``[1]``, shift ``[1]`` and element energies ``[Z, 1]``.
        packed: Copies for the kernels of a backend, see :meth:`pack`.
    """

    cutoff: float
    normalize: bool
    mean: bool
    embedding: Tensor
    table: Tensor
    weights: Sequence[Tensor]
    readout: Sequence[Tensor]
    packed: tuple[Any, Any, Any] | None = None

    def pack(self, blocks: Any = None, *, backend: Backend = "auto") -> PotentialWeights:
        """The same with copies in the order in which the kernels of a backend read them.

        Args:
            blocks: Result of ``pack_interactions``, if available.
            backend: How the potential is computed.
        """
        kernels = kernels_for(backend, self.embedding, self.table, *self.weights, *self.readout, needs="Head")
        if kernels is None:
            return self._replace(packed=None)
        if blocks is None:
            blocks = pack_interactions(self.table, self.weights, self.embedding, backend=backend)
        grid = kernels.Grid(self.table.size(1) - 3, self.cutoff, self.normalize)
        return self._replace(packed=(blocks, kernels.Head.pack(*self.readout), grid))


def is_small(num_edges: int, num_filters: int, *, backend: Backend = "auto") -> bool:
    """Whether one thread is faster than several for a potential with this many edges, each pair counted once."""
    kernels = kernels_for(backend)
    return kernels is None or not kernels.is_large(num_edges * num_filters)


def potential(
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
    """Like :func:`pyg_schnet.ops.potential`, without checks; ``None`` where kernels meet an atom out of range."""
    kernels = kernels_for(backend, pos, z, batch, index, ptr, edge_shift, cell, weights.embedding, needs="potential")
    if kernels is None:
        return compose(pos, z, batch, batch_size, index, ptr, edge_shift, cell, weights, strain)
    packed = weights.packed if weights.packed is not None else weights.pack().packed
    assert packed is not None
    blocks, head, grid = packed
    arguments = pos, z, batch, batch_size, index, ptr, edge_shift, cell, grid, blocks, head
    found = kernels.potential(*arguments, mean=weights.mean, strain=strain)
    return None if found is None else EnergyGradients(*found)


def compose(
    pos: Tensor, z: Tensor, batch: Tensor, batch_size: int, index: Tensor, ptr: Tensor, edge_shift: Tensor | None,
    cell: Tensor | None, weights: PotentialWeights, strain: bool,
) -> EnergyGradients:  # fmt: skip
    """The potential as a composition of torch operations, with gradients from autograd."""
    with torch.enable_grad():
        pos = pos.detach().requires_grad_()
        inputs, moved = [pos], pos
        if strain:
            inputs.append(pos.new_zeros(batch_size, 3, 3).requires_grad_())
            symmetric = 0.5 * (inputs[1] + inputs[1].mT)
            lattice = torch.zeros_like(symmetric) if cell is None else cell
            moved, lattice = apply_strain(pos, lattice, symmetric, batch)
            cell = None if cell is None else lattice
        options: dict[str, Any] = {"loop_length": weights.cutoff, "backend": "reference"}
        dist = edge_lengths(moved, index, edge_shift, cell, batch, **options)
        energy = _energy(dist, z, batch, batch_size, index, ptr, weights)
        grads = torch.autograd.grad(energy.sum(), inputs, materialize_grads=True)
    return EnergyGradients(energy.detach(), grads[0], grads[1] if strain else None)


def _energy(
    dist: Tensor, z: Tensor, batch: Tensor, batch_size: int, index: Tensor, ptr: Tensor, weights: PotentialWeights
) -> Tensor:
    interval, basis = spline_basis(dist, weights.cutoff, weights.table.size(1) - 3, backend="reference")
    graph, n_neighbors = SplineGraph(interval, index[0], index[1], ptr), None
    if weights.normalize:
        n_neighbors = counts_of_pairs(index, dist.detach(), z.size(0), weights.cutoff)
    x = interactions(
        z, weights.embedding, weights.table, basis, graph, weights.weights, n_neighbors, backend="reference"
    )
    w1, b1, w2, b2, scale, shift, atomref = weights.readout
    values = mlp(x, w1, b1, w2, b2, backend="reference")
    options: dict[str, Any] = {"mean": weights.mean, "backend": "reference"}
    return pool_atoms(values, z, batch, batch_size, scale, shift, atomref, **options)[:, 0]


def counts_of_pairs(index: Tensor, dist: Tensor, n_atoms: int, cutoff: float) -> Tensor:
    """Number of neighbours of each atom within the cutoff in Å, at least 1, from edges for both directions."""
    inside = (dist < cutoff).to(dist.dtype)
    counts = dist.new_zeros(n_atoms)
    for ends in index:
        counts.index_add_(0, ends, inside)
    return counts.clamp_(min=1.0)
