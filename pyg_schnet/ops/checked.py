"""Operators that models call many times, with checks of what they are given: the public forms.

Kernels read memory by what they are given. Models have checked their atoms and searched or checked their edges before,
so they call :mod:`pyg_schnet.ops.interactions`, :mod:`pyg_schnet.ops.potential`, :mod:`pyg_schnet.ops.filter_table` and
:mod:`pyg_schnet.ops.radius` directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyg_schnet.ops.bspline import OVERHANG, REFINED_EXTRA, SPAN
from pyg_schnet.ops.checks import (
    check_atoms_of_structures,
    check_edge_index,
    check_edge_shift,
    check_index,
    check_pointer,
    described,
    positive_length,
)
from pyg_schnet.ops.dispatch import Backend, is_at_hand
from pyg_schnet.ops.filter_table import GridSamples
from pyg_schnet.ops.filter_table import filter_table as unchecked_filter_table
from pyg_schnet.ops.graph import SplineGraph
from pyg_schnet.ops.interactions import interactions as unchecked_interactions
from pyg_schnet.ops.potential import EnergyGradients, PotentialWeights
from pyg_schnet.ops.potential import potential as unchecked_potential
from pyg_schnet.ops.radius import Ranges
from pyg_schnet.ops.radius import close_pairs as unchecked_close_pairs
from pyg_schnet.ops.sort_edges import check_keys


def interactions(
    z: Tensor,
    embedding: Tensor,
    table: Tensor,
    basis: Tensor,
    half_list: SplineGraph,
    weights: Sequence[Tensor],
    n_neighbors: Tensor | None = None,
    *,
    packed: Any = None,
    keep_for_weights: bool = False,
    backend: Backend = "auto",
) -> Tensor:
    """Atom features after all T interaction blocks, eq. (5) of Schütt et al. (2020).

    Differentiable any number of times with respect to all floating point tensors.

    Args:
        z: Row of the embedding for each atom, shape ``[N]``.
        embedding: Features of each element before the blocks, shape ``[Z, F]``.
        table: Spline table of each block, shape ``[T, num_intervals + 3, K]``.
        basis: Spline basis of each edge, shape ``[P, 4]``.
        half_list: One edge for both directions, sorted by target, with the interval of each.
        weights: The five ``pyg_schnet.ops.interactions.BlockWeights`` of the first block, then those of the next.
        n_neighbors: Divisor of the convolution at each atom, shape ``[N]``; ``None`` for plain sums.
        packed: Result of ``pyg_schnet.ops.interactions.pack_interactions`` for the same weights.
        keep_for_weights: Whether to keep intermediate results for gradients with respect to weights.
        backend: How it is computed, see :func:`pyg_schnet.ops.kernels_for`.

    Returns:
        Features, shape ``[N, F]``.

    Raises:
        ValueError: If shapes or types do not fit, or ``backend="numba"`` and the kernels cannot be used.
        IndexError: If an atom, edge or interval is out of range; checked on CPUs only.

    Example:
        >>> graph = SplineGraph(torch.tensor([0]), torch.tensor([1]), torch.tensor([0]), torch.tensor([0, 1, 1]))
        >>> weights = torch.ones(3, 2), torch.ones(2, 3), torch.zeros(2), torch.ones(2, 2), torch.zeros(2)
        >>> z, basis = torch.tensor([0, 1]), torch.full((1, 4), 0.25)
        >>> interactions(z, torch.ones(2, 2), torch.ones(1, 4, 3), basis, graph, weights).shape
        torch.Size([2, 2])
    """
    _check_species(z, embedding)
    _check_blocks(table, weights, embedding.size(1))
    n_edges, n_atoms = half_list.interval.size(0), z.size(0)
    if basis.shape != (n_edges, SPAN):
        raise ValueError(f"basis must have one row for each of the {n_edges} edges, [P, 4]; got {described(basis)}")
    check_edge_index(torch.stack([half_list.source, half_list.target]))
    check_index(torch.stack([half_list.source, half_list.target]), n_atoms, n_atoms)
    check_pointer(half_list.target_ptr, half_list.target, n_atoms, "target_ptr")
    check_keys(half_list.interval, table.size(1) - SPAN + 1, "edges name intervals")
    if n_neighbors is not None and n_neighbors.shape != (n_atoms,):
        raise ValueError(f"n_neighbors must hold one number for each of {n_atoms} atoms; got {described(n_neighbors)}")
    options = {"packed": packed, "keep_for_weights": keep_for_weights, "backend": backend}
    return unchecked_interactions(z, embedding, table, basis, half_list, weights, n_neighbors, **options)


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
    """Energies of small structures and their gradients in one call, not differentiable.

    Args:
        pos: Positions in Å, shape ``[N, 3]``.
        z: Atomic numbers, shape ``[N]``; 0 is padding.
        batch: Structure of each atom, shape ``[N]``.
        batch_size: Number of structures B.
        index: Half list ``(j, i)``, sorted by i, shape ``[2, P]``.
        ptr: Begin and end of each target's edges, shape ``[N + 1]``.
        edge_shift: Lattice images crossed by each edge, shape ``[P, 3]``; ``None`` for open boundaries.
        cell: Lattice vectors in rows in Å, shape ``[B, 3, 3]``; needed with ``edge_shift``.
        weights: Parameters of the potential.
        strain: Whether to compute the gradient with respect to strain.
        backend: How it is computed, see :func:`pyg_schnet.ops.kernels_for`.

    Returns:
        Energies and gradients.

    Raises:
        ValueError: If shapes or types do not fit, or ``backend="numba"`` and the kernels cannot be used.
        IndexError: If an atomic number, structure or atom is out of range; checked on CPUs only.
    """
    check_atoms_of_structures(z, batch, batch_size)
    _check_species(z, weights.embedding)
    check_keys(batch, batch_size, "atoms name structures")
    if pos.shape != (z.size(0), 3) or pos.dtype != weights.embedding.dtype:
        raise ValueError(
            f"pos must hold positions of {z.size(0)} atoms in Å, [N, 3] of {weights.embedding.dtype}; got "
            f"{described(pos)}"
        )
    check_edge_index(index)
    check_index(index, z.size(0), z.size(0))
    check_pointer(ptr, index[1], z.size(0), "ptr")
    if edge_shift is not None:
        check_edge_shift(edge_shift, index.size(1))
        if cell is None or cell.shape != (batch_size, 3, 3) or cell.dtype != pos.dtype:
            raise ValueError(
                f"edge_shift needs cell, lattice vectors in rows in Å, [{batch_size}, 3, 3] of {pos.dtype}; got "
                f"{described(cell)}"
            )
    options: dict[str, Any] = {"strain": strain, "backend": backend}
    arguments = pos, z, batch, batch_size, index, ptr, edge_shift, cell, weights
    return unchecked_potential(*arguments, **options)


def filter_table(
    samples: GridSamples,
    weights: Sequence[Tensor],
    activate: bool = True,
    *,
    known: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Spline tables of T networks, differentiable in the weights any number of times.

    Args:
        samples: Inputs of the networks.
        weights: Weights ``[K, num_gaussians]``, bias ``[K]``, weights ``[K, K]`` and bias ``[K]`` of the first network,
            then those of the next one.
        activate: Whether the networks end with a softplus.
        known: The tables, where they are known and only their gradient is needed.
        backend: How it is computed, see :func:`pyg_schnet.ops.kernels_for`.

    Returns:
        Tables, shape ``[T, M - 4, K]``.

    Raises:
        ValueError: If shapes do not fit, or ``backend="numba"`` and the kernels cannot be used.

    Example:
        >>> samples = GridSamples(torch.zeros(16, 5), torch.ones(16, 1), True)
        >>> weights = torch.zeros(3, 5), torch.zeros(3), torch.zeros(3, 3), torch.zeros(3)
        >>> filter_table(samples, weights).shape
        torch.Size([1, 12, 3])
    """
    n_given, n_gaussians = samples.expansion.shape if samples.expansion.dim() == 2 else (0, 0)
    n_samples = samples.window.size(0) if samples.window.dim() == 2 else 0
    n_needed, rows = (n_samples // 2 + REFINED_EXTRA, "M // 2 + 9") if samples.refined else (n_samples, "M")
    if n_samples < 2 * OVERHANG + 2 or n_given != n_needed or samples.window.size(1) != 1:
        raise ValueError(
            f"samples must hold an expansion [{rows}, num_gaussians] and a window [M, 1], M of at least "
            f"{2 * OVERHANG + 2}; got {list(samples.expansion.shape)} and {list(samples.window.shape)}"
        )
    size = weights[0].size(0) if len(weights) else 0
    shapes = [(size, n_gaussians), (size,), (size, size), (size,)]
    given = [tuple(value.shape) for value in weights]
    if not given or len(given) % 4 or given != shapes * (len(given) // 4):
        raise ValueError(
            f"weights must be [K, {n_gaussians}], [K], [K, K] and [K] for each network, of one size K; got {given}"
        )
    return unchecked_filter_table(samples, weights, activate, known=known, backend=backend)


def close_pairs(
    points: Tensor,
    targets: Tensor,
    ranges: Ranges,
    cutoff: float,
    omit: Tensor | None = None,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """Candidates that are closer than the cutoff in Å.

    Args:
        points: Points in Å, shape ``[M, 3]``.
        targets: Targets in Å, shape ``[N, 3]``.
        ranges: Candidates of each target.
        cutoff: Cutoff in Å.
        omit: For each target a candidate to leave out, shape ``[N]``.
        backend: How it is computed, see :func:`pyg_schnet.ops.kernels_for`.

    Returns:
        Points (row 0) and targets (row 1), int64, shape ``[2, E]``, sorted by target.

    Raises:
        ValueError: If shapes or types do not fit.
        IndexError: If a range or a point to omit is out of range; checked on CPUs only.

    Example:
        >>> points, zero = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 5.0]]), torch.tensor([0])
        >>> close_pairs(points, points[:1], Ranges(zero[:, None], torch.tensor([[3]]), zero, None), cutoff=2.0)
        tensor([[0, 1],
                [0, 0]])
    """
    cutoff = positive_length(cutoff)
    for name, value in (("points", points), ("targets", targets)):
        if value.dim() != 2 or value.size(1) != 3 or not value.is_floating_point():
            raise ValueError(f"{name} must hold positions in Å, [N, 3]; got {described(value)}")
    start, count, row, _ = ranges
    if start.dim() != 2 or start.shape != count.shape or row.shape != targets.shape[:1]:
        raise ValueError(
            f"ranges must have start and count [U, R] and a row for each of the {targets.size(0)} targets; got "
            f"{list(start.shape)}, {list(count.shape)} and {list(row.shape)}"
        )
    check_keys(row, start.size(0), "targets name ranges")
    if is_at_hand(start) and is_at_hand(count) and start.numel() > 0:
        low, high = min(int(start.min()), int(count.min())), int((start + count).max())
        if low < 0 or high > points.size(0):
            raise IndexError(
                f"ranges begin or count from {low} and end at {high}, but there are {points.size(0)} points"
            )
    if omit is not None:
        if omit.shape != row.shape:
            raise ValueError(
                f"omit must name a point for each of the {row.size(0)} targets, [N]; got {described(omit)}"
            )
        check_keys(omit, points.size(0), "targets omit points")
    return unchecked_close_pairs(points, targets, ranges, cutoff, omit, backend=backend)


def _check_species(z: Tensor, embedding: Tensor) -> None:
    if z.dim() != 1 or z.dtype != torch.int64 or embedding.dim() != 2:
        raise ValueError(
            "z must name a row of the embedding for each atom, [N] of int64, and the embedding be [Z, F]; got "
            f"{described(z)} and {described(embedding)}"
        )
    check_keys(z, embedding.size(0), "atoms name rows of the embedding")


def _check_blocks(table: Tensor, weights: Sequence[Tensor], n_features: int) -> None:
    n_blocks, _, n_filters = table.shape if table.dim() == 3 else (0, 0, 0)
    shapes = [(n_filters, n_features), (n_features, n_filters), (n_features,), (n_features, n_features), (n_features,)]
    given = [tuple(value.shape) for value in weights]
    if not n_blocks or table.size(1) < SPAN or given != shapes * n_blocks:
        raise ValueError(
            f"table must be [T, num_intervals + 3, K], and weights those of T blocks, {shapes}; got "
            f"{list(table.shape)} and {given}"
        )
