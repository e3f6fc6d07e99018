"""Neighbour lists of LAMMPS as edges, without a call of Python for each atom."""

from __future__ import annotations

import ctypes
from typing import Any

import numba
import numpy as np

_SIZE = ctypes.c_size_t
_LIST_BITS = 0x1FFFFFFF  # the upper bits say whether a neighbour is bonded
_SAMPLE = 64  # atoms whose neighbours are searched again


class NeighborLists:
    """Reads the neighbour list of ``pair_style zero RC full``.

    Args:
        lmp: The ``lammps`` object.
    """

    def __init__(self, lmp: Any) -> None:
        self.lmp = lmp
        address: Any = ctypes.cast(lmp.lib.lammps_neighlist_element_neighbors, ctypes.c_void_p).value
        copy: Any = ctypes.cast(ctypes.CDLL(None).memcpy, ctypes.c_void_p).value
        # addresses as whole numbers, which compiled code can add to
        integer = ctypes.c_int
        self._element = ctypes.CFUNCTYPE(None, _SIZE, integer, integer, _SIZE, _SIZE, _SIZE)(address)
        self._copy = ctypes.CFUNCTYPE(_SIZE, _SIZE, _SIZE, _SIZE)(copy)

    def edges(self, num_own: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All pairs within the cutoff of the list.

        Args:
            num_own: Number of own atoms.

        Returns:
            Neighbour j of each pair, counted over own atoms and ghosts, shape ``[E]``; its atom i in ascending order,
            shape ``[E]``; begin and end of each atom's pairs, shape ``[num_own + 1]``; all of int64.

        Raises:
            RuntimeError: If there is no such list.
        """
        index = self.lmp.find_pair_neighlist("zero")
        if index < 0:
            raise RuntimeError(
                "LAMMPS has no neighbour list of pair_style zero; another pair_style was given after pair_style schnet"
            )
        count = self.lmp.get_neighlist_size(index)
        atom, number, place = np.empty(count, np.int32), np.empty(count, np.int32), np.empty(count, np.uint64)
        handle = ctypes.cast(self.lmp.lmp, ctypes.c_void_p).value
        _look_up(self._element, handle, index, count, atom.ctypes.data, number.ctypes.data, place.ctypes.data)
        order = np.argsort(atom, kind="stable")
        number, place = number[order], place[order]
        n_neighbors = np.zeros(num_own, np.int64)
        n_neighbors[atom[order]] = number
        ptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(n_neighbors)])
        found = np.empty(ptr[-1], np.int32)
        _copy_all(self._copy, found.ctypes.data, place, number)
        return (found & _LIST_BITS).astype(np.int64), np.repeat(np.arange(num_own), n_neighbors), ptr


def check_complete(pos: np.ndarray, num_own: int, source: np.ndarray, ptr: np.ndarray, cutoff: float) -> None:
    """Search the neighbours of some atoms again, since LAMMPS can be told to leave out pairs.

    Args:
        pos: Positions of own atoms and ghosts in Å, shape ``[num_own + num_ghosts, 3]``.
        num_own: Number of own atoms.
        source: Neighbour j of each edge, shape ``[E]``.
        ptr: Begin and end of each atom's edges, shape ``[num_own + 1]``.
        cutoff: Cutoff in Å.

    Raises:
        ValueError: If pairs within the cutoff are missing.

    Example:
        >>> pos = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
        >>> check_complete(pos, 1, np.array([1]), np.array([0, 1]), 2.0)
    """
    for atom in np.linspace(0, num_own - 1, min(num_own, _SAMPLE)).astype(np.int64):  # of 64 atoms at most
        expected = np.count_nonzero(((pos - pos[atom]) ** 2).sum(1) < cutoff**2) - 1
        near = ((pos[source[ptr[atom] : ptr[atom + 1]]] - pos[atom]) ** 2).sum(1) < cutoff**2
        if np.count_nonzero(near) != expected:
            raise ValueError(
                f"an atom has {expected} neighbours within {cutoff} Å, but LAMMPS' neighbour list has "
                f"{np.count_nonzero(near)}; the model needs all pairs: take special_bonds lj/coul 1 1 1, and no "
                "neigh_modify exclude"
            )


@numba.njit
def _look_up(element, handle, index, count, atom, number, place):  # noqa: ANN202 - compiled
    """Atom, number of neighbours and address of these for each element of a list."""
    for k in range(count):
        element(handle, index, k, atom + 4 * k, number + 4 * k, place + 8 * k)


@numba.njit
def _copy_all(copy, out, place, number):  # noqa: ANN202 - compiled
    """Neighbours of all atoms, one after the other."""
    for k in range(len(place)):
        copy(out, place[k], 4 * number[k])
        out += 4 * number[k]
