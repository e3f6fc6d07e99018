"""Sizes and thresholds of the backends: what was found by timing, in one place.

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
    """Thresholds that are looked up at every call.

    Work is counted in products of the half-list convolution, one for each pair of atoms and feature.

    Attributes:
        serial_work: Work below which threads cost more than they bring.
        gemm_speed: Products of a matrix product in the time of one of a convolution.
        softplus_work: Products that take as long as one softplus.
        search_work: Products that take as long as one candidate of the radius search.
        features_per_pair: Features of an atom whose dense layers take as long as one pair.
        group_work: Least work of each group of structures whose gradients are summed on their own.
        most_groups: Greatest number of such groups, so the greatest number of threads that share a batch by structures.
        largest_group: Work of the largest group over the mean; batches whose groups differ more are not divided.
        mlp_group_rows: Least rows of each group whose gradients with respect to weights are summed on their own.
        mlp_most_groups: Greatest number of such groups.
        piece_edges: Edges at one atom that are summed in float32 one after the other, where it has very many.
    """

    serial_work: int = 200_000
    gemm_speed: int = 10
    softplus_work: int = 8
    search_work: int = 8
    features_per_pair: int = 8
    group_work: int = 500_000
    most_groups: int = 4
    largest_group: float = 1.2
    mlp_group_rows: int = 128
    mlp_most_groups: int = 8
    piece_edges: int = 64


@dataclass(frozen=True)
class Compiled:
    """Sizes that are compiled into the kernels, so they cannot be changed while a process runs.

    Attributes:
        tile_rows: Rows that go through a product and what follows it at a time, so that they stay in the first cache; a
            multiple of ``gemm_rows``.
        gemm_rows: Rows of a product at a time, so that their sums stay in registers.
        summed_rows: Rows of a product that sums over rows at a time, so that both factors stay in the first cache.
        atoms_ahead: Atoms by which sums over pairs ask for features before they need them; memory is slow.
    """

    tile_rows: int = 48
    gemm_rows: int = 6
    summed_rows: int = 32
    atoms_ahead: int = 24


compiled = Compiled()
current = Tuning()


@contextlib.contextmanager
def changed(**values: float) -> Iterator[Tuning]:
    """Other thresholds for a while, in all threads.

    Args:
        **values: Fields of :class:`Tuning`.

    Raises:
        TypeError: For a name that is none of them.
    """
    global current
    before, current = current, replace(current, **values)
    try:
        yield current
    finally:
        current = before
