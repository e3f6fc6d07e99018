"""Which rows of atoms are sent between ranks: the plan of an exchange, and its two directions."""

from __future__ import annotations

from typing import Any

import numpy as np

Rows = np.ndarray


class ExchangePlan:
    r"""Where the atoms of a rank have to go, and where those around its domain come from.

    The domain of a rank has ``num_own`` atoms. Atoms around it (ghosts) are periodic images of these, or atoms and
    images of atoms of other ranks. Rows of atoms, such as features, are first those of the own atoms, then those of
    the ``num_remote`` atoms of other ranks, each once however many images of it are near. Every ghost is one of
    these rows, so that an exchange is as small as it can be, and a single rank exchanges nothing.

    Owners are found by a directory that is spread over the ranks, of which rank :math:`\mathrm{id} \bmod P` knows who
    owns an atom, so that no rank stores all atoms.

    Building and using a plan is collective: all ranks do so, those without atoms too.

    Args:
        comm: Communicator of mpi4py, of P ranks.
        own_ids: Identifiers of the own atoms, unique over all ranks, shape ``[num_own]``.
        ghost_ids: Identifiers of the ghosts, with repetitions, shape ``[num_ghosts]``.

    Attributes:
        num_own: Number of own atoms.
        num_remote: Number of different atoms of other ranks among the ghosts.
        row: Row of each own atom and ghost, shape ``[num_own + num_ghosts]``.
        send_index: Own atoms that are sent, in the order of the ranks that they go to, shape ``[num_sent]``.
        send_counts: How many go to each rank, shape ``[P]``.
        recv_counts: How many come from each rank, shape ``[P]``.

    Raises:
        ValueError: If identifiers of own atoms are not unique.
        RuntimeError: If an atom has no owner.

    Example:
        >>> from types import SimpleNamespace
        >>> alone = SimpleNamespace(size=1, rank=0)  # without mpi4py
        >>> ExchangePlan(alone, np.array([7, 3]), np.array([3, 3, 7])).row
        array([0, 1, 1, 1, 0])
    """

    def __init__(self, comm: Any, own_ids: Rows, ghost_ids: Rows) -> None:
        self.comm = comm
        own_ids, ghost_ids = own_ids.astype(np.int64), ghost_ids.astype(np.int64)
        self._order = np.argsort(own_ids, kind="stable")
        self._sorted = own_ids[self._order]
        if np.any(self._sorted[1:] == self._sorted[:-1]):
            raise ValueError("identifiers of atoms must be unique; atom_modify id yes, and reset_atoms id")
        place, is_own = self._find(ghost_ids)
        remote, which = np.unique(ghost_ids[~is_own], return_inverse=True)
        rank = self._owners(remote)
        by_rank = np.argsort(rank, kind="stable")
        self.num_own, self.num_remote = len(own_ids), len(remote)
        rows = np.empty(len(ghost_ids), dtype=np.int64)
        rows[is_own] = self._order[place[is_own]]
        position = np.empty(len(remote), dtype=np.int64)
        position[by_rank] = np.arange(len(remote))
        rows[~is_own] = self.num_own + position[which]
        self.row = np.concatenate([np.arange(self.num_own), rows])
        self.recv_counts = np.bincount(rank, minlength=comm.size)
        asked, self.send_counts = self._all_to_all(remote[by_rank], self.recv_counts)
        place, found = self._find(asked)
        if not found.all():
            raise RuntimeError(f"rank {comm.rank} was asked for atoms that it does not own, such as {asked[~found][0]}")
        self.send_index = self._order[place]

    def _find(self, ids: Rows) -> tuple[Rows, Rows]:
        """Place of identifiers among the sorted own ones, and whether each is one of them."""
        place = np.searchsorted(self._sorted, ids)
        place[place == len(self._sorted)] = 0
        found = self._sorted[place] == ids if len(self._sorted) else np.zeros(len(ids), dtype=bool)
        return place, found

    def _owners(self, ids: Rows) -> Rows:
        """Rank that owns each of the given atoms, shape ``[len(ids)]``."""
        size = self.comm.size
        if size == 1:
            if len(ids):
                raise RuntimeError(f"a ghost is the image of no atom; its identifier is {ids[0]}")
            return ids
        by_home = np.argsort(self._sorted % size, kind="stable")
        known, counts = self._all_to_all(
            self._sorted[by_home], np.bincount(self._sorted % size, minlength=size)
        )  # what this rank is the directory of
        owner = np.repeat(np.arange(size), counts)
        order = np.argsort(known, kind="stable")
        known, owner = known[order], owner[order]
        by_home = np.argsort(ids % size, kind="stable")
        asked, back = self._all_to_all(ids[by_home], np.bincount(ids % size, minlength=size))
        place = np.searchsorted(known, asked)
        missing = place == len(known)
        place[missing] = 0
        missing |= (known[place] != asked) if len(known) else True
        if missing.any():
            raise RuntimeError(f"an atom near a domain has no owner; its identifier is {asked[missing][0]}")
        answers, _ = self._all_to_all(owner[place], back)
        rank = np.empty(len(ids), dtype=np.int64)
        rank[by_home] = answers
        return rank

    def _all_to_all(self, values: Rows, counts: Rows) -> tuple[Rows, Rows]:
        """Send whole numbers, ``counts`` to each rank; returns those that come, and how many from each."""
        if self.comm.size == 1:
            return values, counts
        coming = np.empty(self.comm.size, dtype=np.int64)
        self.comm.Alltoall(counts.astype(np.int64), coming)
        found = np.empty(int(coming.sum()), dtype=np.int64)
        self._send(np.ascontiguousarray(values, dtype=np.int64), counts, found, coming)
        return found, coming

    def _send(self, values: Rows, counts: Rows, found: Rows, coming: Rows) -> None:
        width = int(np.prod(values.shape[1:], dtype=np.int64))
        counts, coming = counts * width, coming * width
        self.comm.Alltoallv(
            [values, (counts, np.cumsum(counts) - counts)], [found, (coming, np.cumsum(coming) - coming)]
        )

    def forward(self, sent: Rows, received: Rows) -> None:
        """Send rows of own atoms to the ranks around; collective.

        Args:
            sent: Rows ``send_index`` of the own atoms, contiguous, shape ``[num_sent, ...]``.
            received: Filled with the rows of atoms of other ranks, contiguous, shape ``[num_remote, ...]``.
        """
        if self.comm.size > 1:
            self._send(sent, self.send_counts, received, self.recv_counts)

    def backward(self, remote: Rows, returned: Rows) -> None:
        """Send rows that belong to atoms of other ranks, such as gradients, to their owners; collective.

        Args:
            remote: Rows of atoms of other ranks, contiguous, shape ``[num_remote, ...]``.
            returned: Filled with what belongs to the own atoms ``send_index``, contiguous, shape ``[num_sent, ...]``.
        """
        if self.comm.size > 1:
            self._send(remote, self.recv_counts, returned, self.send_counts)
