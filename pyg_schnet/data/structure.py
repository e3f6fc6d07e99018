"""Whether ``ase.Atoms`` are a structure that a model can have, and positions that keep their distances when rounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from ase import Atoms

MAX_Z = 118
_SAME_PLACE = 1e-6  # Å
_FAR = 100.0  # Å; float32 is spaced by 8e-6 Å there
_SHORT = 0.1  # Å; no atom is so near to its own image
_LIMIT = 1e12  # Å; float64 is spaced by 1e-4 Å there
_ROUNDING = 1e-3  # Å
_FULL = 1e-3  # that occupancies may differ from 1


class Structure(NamedTuple):
    """A structure as tensors.

    Attributes:
        z: Atomic numbers, shape ``[N]``.
        pos: Positions in Å from ``origin`` on, shape ``[N, 3]``.
        cell: Lattice vectors in rows in Å, zeros without a cell, shape ``[1, 3, 3]``.
        pbc: Periodic directions, shape ``[1, 3]``.
        origin: What positions count from in Å, float64, shape ``[1, 3]``; see :func:`near_origin`.
    """

    z: Tensor
    pos: Tensor
    cell: Tensor
    pbc: Tensor
    origin: Tensor

    @classmethod
    def of(cls, atoms: Atoms, dtype: torch.dtype, pbc: bool | Sequence[bool] | None = None) -> Structure:
        """Tensors of ``ase.Atoms``, checked by :func:`check_structure`.

        Args:
            atoms: The structure, in Å.
            dtype: Of positions and cell.
            pbc: Replaces ``atoms.pbc``.

        Raises:
            ValueError: If a model cannot have such a structure, or ``dtype`` does not hold a number.
        """
        numbers, periodic = check_structure(atoms, pbc)
        cell = atoms.cell.array
        if np.abs(cell).max() > torch.finfo(dtype).max:
            raise ValueError(f"the cell is {cell.tolist()} Å, which {dtype} does not hold")
        positions, origin = near_origin(atoms.get_positions(), dtype, cell, periodic)
        return cls(
            z=torch.from_numpy(numbers),
            pos=torch.tensor(positions, dtype=dtype),
            cell=torch.tensor(cell[None], dtype=dtype),
            pbc=torch.from_numpy(periodic[None]),
            origin=torch.from_numpy(origin[None]),
        )

    def to(self, device: torch.device) -> Structure:
        """The same on a device."""
        return self if device == self.pos.device else Structure(*(value.to(device) for value in self))


def check_structure(atoms: Atoms, pbc: bool | Sequence[bool] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers ``[N]`` and periodic directions ``[3]`` of a structure.

    Args:
        atoms: The structure, in Å.
        pbc: Replaces ``atoms.pbc``.

    Raises:
        ValueError: If there are no atoms, an atomic number is not an element's, a number is not finite, a site is
            shared or partly empty, a periodic direction has no cell vector, or two atoms are in the same place.
    """
    numbers = np.array(atoms.numbers, dtype=np.int64)
    if numbers.size == 0:
        raise ValueError("the structure has no atoms")
    if numbers.min() < 1 or numbers.max() > MAX_Z:
        wrong = numbers[(numbers < 1) | (numbers > MAX_Z)][0]
        raise ValueError(f"atomic numbers must be 1 to {MAX_Z}, got {wrong}")
    positions, cell = atoms.get_positions(), atoms.cell.array
    if not np.abs(positions).max() <= _LIMIT:  # nor for NaN
        _refuse_positions(positions)
    if not np.isfinite(cell).all():
        raise ValueError(f"the cell is {cell.tolist()}, expected finite numbers in Å")
    _check_occupancies(atoms)
    periodic = np.broadcast_to(atoms.pbc if pbc is None else _directions(pbc), (3,)).copy()
    if (periodic & ~cell.any(axis=1)).any():
        raise ValueError(
            f"the structure has pbc={periodic.tolist()} but a zero cell vector; set atoms.cell or atoms.pbc = False"
        )
    check_cell(cell, periodic)
    check_distinct(positions, cell, periodic)
    return numbers, periodic


def _directions(pbc: bool | Sequence[bool]) -> np.ndarray:
    given = np.asarray(pbc)
    if given.dtype.kind not in "biu" or given.shape not in ((), (3,)) or not np.isin(given, (0, 1)).all():
        raise ValueError(f"pbc must be True, False, or three of them, got {pbc!r}")
    return given.astype(bool)


def _refuse_positions(positions: np.ndarray) -> None:
    wrong = int(np.flatnonzero(~(np.abs(positions).max(axis=1) <= _LIMIT))[0])
    where = f"the position of atom {wrong} is {positions[wrong].tolist()}"
    if not np.isfinite(positions[wrong]).all():
        raise ValueError(f"{where}, expected finite numbers in Å")
    raise ValueError(
        f"{where} Å, where float64 itself is rounded by more than 0.0001 Å; move the structure to the origin"
    )


def near_origin(
    positions: np.ndarray, dtype: torch.dtype, cell: np.ndarray | None = None, pbc: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Positions that can be rounded to ``dtype`` without loss of distances, and the origin that they count from.

    A structure far out, more than 100 Å and several times its own size from zero, is moved by whole Å, so that
    ``positions + origin`` are those that came; any other one stays where it is. Atoms of a periodic structure that
    have wandered over many cells, each another way, come back to it: positions are then the same up to lattice vectors.

    Args:
        positions: Positions in Å, shape ``[N, 3]``, float64.
        dtype: What they will be rounded to; nothing is moved for float64.
        cell: Lattice vectors in rows in Å, shape ``[3, 3]``.
        pbc: Periodic directions, shape ``[3]``.

    Returns:
        Positions ``[N, 3]`` and origin ``[3]`` in Å, float64.

    Raises:
        ValueError: If rounding would still move atoms by more than 0.001 Å.

    Example:
        >>> moved, origin = near_origin(np.array([[1e6, 0.0, 0.0], [1e6 + 0.74, 0.0, 0.0]]), torch.float32)
        >>> moved[:, 0].round(6).tolist(), origin.tolist()
        ([0.0, 0.74], [1000000.0, 0.0, 0.0])
    """
    if dtype == torch.float64:
        return positions, np.zeros(3)
    positions, origin = _moved(positions, cell, pbc)
    largest = np.abs(positions).max(initial=0.0)
    rounding = largest * torch.finfo(dtype).eps / 2
    if rounding > _ROUNDING:
        raise ValueError(
            f"positions of up to {largest:.3g} Å, of atoms far from each other, would be rounded by {rounding:.2g} Å "
            f"in {str(dtype).removeprefix('torch.')}; make separate structures of the fragments, or pass "
            "dtype=torch.float64"
        )
    return positions, origin


def frames_near_origin(positions: np.ndarray, dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
    """:func:`near_origin` for frames of one molecule.

    Args:
        positions: Positions in Å, shape ``[frames, N, 3]``, float64.
        dtype: What they will be rounded to.

    Returns:
        Positions ``[frames, N, 3]`` and origins ``[frames, 3]`` in Å.
    """
    origin = np.zeros((len(positions), 3))
    if dtype != torch.float64:
        far = np.flatnonzero(np.abs(positions).max((1, 2), initial=0.0) > _FAR)
        positions = positions.copy() if far.size else positions
        for k in far:
            positions[k], origin[k] = near_origin(positions[k], dtype)
    return positions, origin


def check_frames_distinct(positions: np.ndarray) -> None:
    """:func:`check_distinct` for frames of one molecule.

    Args:
        positions: Positions in Å, shape ``[frames, N, 3]``.

    Raises:
        ValueError: If two atoms of a frame are in the same place.
    """
    along = np.sort(positions @ _DIRECTION, axis=1)
    near = (np.diff(along, axis=1) <= _SAME_PLACE).any(axis=1)  # looked at again: most of them are apart in the plane
    for frame in np.flatnonzero(near).tolist():
        try:
            check_distinct(positions[frame], np.zeros((3, 3)), np.zeros(3, dtype=bool))
        except ValueError as error:
            raise ValueError(f"frame {frame}: {error}") from None


_DIRECTION = np.array([0.36, 0.48, 0.8]) + 0.01 * np.array([np.sqrt(2), np.sqrt(3), -np.sqrt(2)])  # of no symmetry


def batch_near_origin(pos: torch.Tensor, ptr: torch.Tensor) -> torch.Tensor:
    """Positions as :func:`near_origin` would have them in float32, for a batch of structures.

    Args:
        pos: Positions in Å, shape ``[N, 3]``.
        ptr: Where the atoms of each structure begin and end, shape ``[B + 1]``.
    """
    if pos.numel() == 0 or not float(pos.abs().max()) > _FAR:
        return pos
    parts = [part.double().numpy() for part in pos.split(ptr.diff().tolist())]
    return torch.from_numpy(np.concatenate([_moved(part)[0] for part in parts]))


def _moved(
    positions: np.ndarray, cell: np.ndarray | None = None, pbc: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Positions around the middle of the structure and that middle, if that makes them much smaller."""
    largest = np.abs(positions).max(initial=0.0)
    if largest > _FAR:
        origin = np.round(positions.max(0) / 2 + positions.min(0) / 2)
        moved = positions - origin
        if pbc is not None and cell is not None and pbc.any() and np.abs(moved).max() > _FAR:
            moved = _near_the_cell(moved, cell, pbc)
        if np.abs(moved).max() < largest / 4:
            return moved, origin
    return positions, np.zeros(3)


def _near_the_cell(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Positions with the lattice vectors taken away that separate atoms from zero, where there are many."""
    scaled = (positions @ np.linalg.inv(_complete(cell, pbc)))[:, pbc]
    images = np.round(scaled)
    return positions - images @ cell[pbc] if np.abs(images).max() > 1 else positions


def _check_occupancies(atoms: Atoms) -> None:
    """Raise for disordered crystals: ASE reads the main element of a site, and keeps the rest aside."""
    noted = atoms.info.get("occupancy")
    sites = noted.values() if isinstance(noted, Mapping) else ()
    shared = [site for site in sites if isinstance(site, Mapping) and not _is_full(site)]
    columns = [atoms.arrays[name] for name in ("occupancy", "occupancies") if name in atoms.arrays]
    columns = [column for column in columns if column.dtype.kind in "fi" and column.any()]  # all zero: not stated
    if shared or any((np.abs(column - 1.0) > _FULL).any() for column in columns):
        raise ValueError(
            "a site is shared by several elements or partly empty"
            + (f" ({dict(shared[0])})" if shared else "")
            + "; choose one ordered structure, with every atom there or not"
        )


def _is_full(site: Mapping[str, Any]) -> bool:
    """Whether a site has one element, entirely; ``"?"`` and ``"."`` of CIF say nothing."""
    if len(site) != 1:
        return False
    (part,) = site.values()
    return isinstance(part, str) or abs(float(part) - 1.0) <= _FULL


def _complete(cell: np.ndarray, periodic: np.ndarray) -> np.ndarray:
    """The lattice vectors of periodic directions, with unit vectors across them for the others."""
    from ase.geometry import complete_cell

    lattice = complete_cell(np.where(periodic[:, None], cell, 0.0))
    if not abs(np.linalg.det(lattice)) > 1e-6 * np.linalg.norm(lattice, axis=1).prod():
        raise ValueError(
            f"the structure has pbc={periodic.tolist()} but the cell vectors of these directions are linearly "
            f"dependent, cell={cell.tolist()}; give independent vectors in Å or set atoms.pbc to False there"
        )
    return lattice


def check_cell(cell: np.ndarray, periodic: np.ndarray) -> None:
    """Raise for lattice vectors of periodic directions that are too short, or angles too small, to be meant.

    Args:
        cell: Lattice vectors in rows in Å, shape ``[3, 3]``.
        periodic: Periodic directions, shape ``[3]``.

    Raises:
        ValueError: If one is shorter than 0.1 Å, or lattice planes are closer than that.
    """
    lengths = np.linalg.norm(cell, axis=1)
    if (periodic & ~(lengths >= _SHORT)).any():
        given = ", ".join(f"{length:.3g}" for length in lengths)
        raise ValueError(
            f"the structure has pbc={periodic.tolist()} but cell vectors of {given} Å, "
            f"expected at least {_SHORT} Å in periodic directions; are they in another unit?"
        )
    if periodic.sum() < 2:
        return
    heights = 1.0 / np.linalg.norm(np.linalg.inv(_complete(cell, periodic)), axis=0)
    if (periodic & ~(heights >= _SHORT)).any():
        given = ", ".join(f"{height:.3g}" for height in heights[periodic])
        raise ValueError(
            f"the structure has pbc={periodic.tolist()} but lattice planes only {given} Å apart, expected at least "
            f"{_SHORT} Å, cell={cell.tolist()}; are its angles in another unit?"
        )


def check_distinct(positions: np.ndarray, cell: np.ndarray, periodic: np.ndarray) -> None:
    """Raise if two atoms are in the same place, or one in that of a periodic image of the other.

    Args:
        positions: Positions in Å, shape ``[N, 3]``.
        cell: Lattice vectors in rows in Å, shape ``[3, 3]``.
        periodic: Periodic directions, shape ``[3]``.

    Raises:
        ValueError: If there are such atoms, or cell vectors of periodic directions depend on each other linearly.
    """
    from scipy.spatial import KDTree

    if not periodic.any():
        pairs = KDTree(positions).query_pairs(_SAME_PLACE) if len(positions) > 1 else set()
    else:
        inverse = np.linalg.inv(lattice := _complete(cell, periodic))
        scaled = positions @ inverse
        folded = scaled[:, periodic] % 1.0
        folded[folded == 1.0] = 0.0  # where a tiny negative number was rounded up
        scaled[:, periodic] = folded
        reach = min(_SAME_PLACE * np.sqrt(np.square(inverse).sum()), 0.1)
        pairs = {
            (i, j)
            for i, j in KDTree(scaled, boxsize=periodic.astype(float)).query_pairs(reach)
            if _distance(scaled[i] - scaled[j], lattice, periodic) <= _SAME_PLACE
        }
    if pairs:
        first, second = min(pairs)
        raise ValueError(
            f"atoms {first} and {second} are in the same place, {positions[first].tolist()} Å; remove one of them"
        )


def _distance(scaled: np.ndarray, lattice: np.ndarray, periodic: np.ndarray) -> float:
    """Length in Å of a small difference of scaled positions, up to whole numbers in periodic directions."""
    return float(np.linalg.norm((scaled - np.where(periodic, np.round(scaled), 0.0)) @ lattice))
