"""Sizes and thresholds of the backends, found by timing.

Example:
    >>> from pyg_schnet.backends import tuning
    >>> with tuning.changed(serial_work=0):  # threads for everything
    ...     tuning.current.serial_work
    0
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Tuning:
    """Thresholds that are read in every call.

    The unit of work is one multiplication of the half-list convolution, for one pair of atoms and one feature.

    Attributes:
        serial_work: Work below which one thread is faster than several.
        gemm_speed: Multiplications of a matrix product in the time of one of the convolution.
        softplus_work: Work of one softplus.
        search_work: Work of one candidate of the radius search.
        features_per_pair: Number of features whose dense layers for one atom take as long as one pair.
        group_work: Smallest work of each of two groups of structures with their own sums of gradients.
        more_groups: How many times as much work each of more than two groups has at least: each reads all tables.
        most_groups: Largest number of such groups, and so of threads that share a batch by structures.
        largest_group: Largest ratio of the work of the largest group to the mean; other batches are not divided.
        mlp_group_rows: Smallest number of rows of a group with its own sums of gradients with respect to weights.
        mlp_most_groups: Largest number of such groups.
        recompute_atoms: Number of atoms from which on forces take activations that are recomputed rather than kept.
        atoms_of_group: Largest number of atoms, about, of small structures that a thread evaluates at a time.
        piece_edges: Number of edges of one atom that are summed sequentially in float32, if it has very many.
    """

    serial_work: int = 200_000
    gemm_speed: int = 10
    softplus_work: int = 8
    search_work: int = 8
    features_per_pair: int = 8
    group_work: int = 100_000
    more_groups: int = 10
    most_groups: int = 4
    largest_group: float = 1.2
    mlp_group_rows: int = 128
    mlp_most_groups: int = 8
    recompute_atoms: int = 8192
    atoms_of_group: int = 2048
    piece_edges: int = 64


@dataclass(frozen=True)
class Compiled:
    """Sizes that are compiled into the kernels and cannot be changed in a process.

    Attributes:
        tile_rows: Rows of a tile of dense layers, so that it stays in the first cache; a multiple of
            ``gemm_rows``.
        gemm_rows: Rows of a matrix product at a time, so that their sums stay in registers.
        summed_rows: Rows of a transposed matrix product at a time, so that both factors stay in the first cache.
        atoms_ahead: Atoms by which sums over pairs ask for features before they need them; memory is slow.
    """

    tile_rows: int = 48
    gemm_rows: int = 6
    summed_rows: int = 32
    atoms_ahead: int = 24


compiled = Compiled()
current = Tuning()


@contextlib.contextmanager
def changed(**values: int) -> Iterator[Tuning]:
    """Context manager that changes thresholds, in all threads.

    Args:
        **values: Fields of :class:`Tuning`.

    Raises:
        TypeError: For an unknown name.
    """
    global current
    before, current = current, replace(current, **values)
    try:
        yield current
    finally:
        current = before
