"""Structures of an audit: those of a default list, and those that are made of others."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ase import Atoms

_VALENCE_ORDER = (6, 8, 1, 14, 29, 3, 9, 13, 22, 79, 7, 16, 17, 11)
"""Elements by which others are replaced that a model does not know, in this order."""


class Case(NamedTuple):
    """One structure in float64.

    Attributes:
        name: What a report calls it.
        z: Atomic numbers, shape ``[N]``.
        pos: Positions in Å, shape ``[N, 3]``.
        cell: Lattice vectors in rows in Å, shape ``[3, 3]``; ``None`` where nothing is periodic.
        pbc: Periodic directions, shape ``[3]``; ``None`` where nothing is periodic.
    """

    name: str
    z: Tensor
    pos: Tensor
    cell: Any = None  # tensor, or None without a lattice
    pbc: Any = None

    @classmethod
    def of(cls, structure: Any, name: str) -> Case:
        """The case of ``ase.Atoms``, or of a ``Data`` with ``z``, ``pos`` and, where periodic, ``cell`` and ``pbc``.

        Raises:
            TypeError: If it is neither.
            ValueError: If it has no atoms, or numbers that are not finite.
        """
        if isinstance(structure, Case):
            return structure
        if hasattr(structure, "get_positions"):
            z, pos = torch.as_tensor(structure.numbers).long(), torch.as_tensor(structure.get_positions())
            cell: Any = torch.as_tensor(structure.cell.array)
            pbc: Any = torch.as_tensor(structure.pbc)
        elif isinstance(getattr(structure, "z", None), Tensor) and isinstance(getattr(structure, "pos", None), Tensor):
            z, pos = structure.z.cpu().long(), structure.pos.detach().cpu()
            cell, pbc = getattr(structure, "cell", None), getattr(structure, "pbc", None)
        else:
            raise TypeError(f"a structure must be ase.Atoms or a Data with z and pos, got {type(structure).__name__}")
        if len(z) == 0 or pos.shape != (len(z), 3) or not bool(torch.isfinite(pos).all()):
            raise ValueError(
                f"{name} must have atoms with finite positions [N, 3] in Å, got {len(z)} and {list(pos.shape)}"
            )
        if pbc is None or cell is None or not bool(pbc.any()):
            return cls(name, z, pos.double().clone())
        return cls(name, z, pos.double().clone(), cell.detach().cpu().double().view(3, 3).clone(), pbc.cpu().view(3))

    def moved(self, pos: Tensor, cell: Tensor | None = None) -> Case:
        """The same atoms at other positions, and in another cell where one is given."""
        return self._replace(pos=pos, cell=self.cell if cell is None else cell)

    def to_atoms(self) -> Atoms:
        """The structure as ``ase.Atoms``."""
        from ase import Atoms

        lattice = {} if self.cell is None else {"cell": self.cell.numpy(), "pbc": self.pbc.numpy()}
        return Atoms(self.z.numpy(), self.pos.numpy(), **lattice)

    def strained(self, strain: Tensor) -> Case:
        """Positions and cell under a strain, shape ``[3, 3]``."""
        return self.moved(self.pos + self.pos @ strain, self.cell + self.cell @ strain)

    def repeated(self, repeats: Sequence[int]) -> tuple[Case, int]:
        """A larger cell, and how many of the old ones it holds; axes that are not periodic are not repeated."""
        times = torch.where(self.pbc, torch.tensor(repeats), 1)
        images = torch.tensor(list(itertools.product(*map(range, times.tolist()))), dtype=torch.float64)
        pos = (self.pos + (images @ self.cell).unsqueeze(1)).reshape(-1, 3)
        return Case(self.name, self.z.repeat(len(images)), pos, self.cell * times.unsqueeze(-1), self.pbc), len(images)

    def neighbors(self, cutoff: float) -> tuple[Tensor, Tensor]:
        """All pairs closer than a cutoff, found by trying every pair and image.

        It shares nothing with the searches that are examined.

        Args:
            cutoff: Cutoff in Å.

        Returns:
            ``edge_index`` ``[2, E]`` as ``(j, i)``, and ``edge_shift`` ``[E, 3]``, zeros without a cell.
        """
        images = torch.zeros(1, 3, dtype=torch.float64)
        offsets = images
        if self.cell is not None:
            periodic = torch.where(self.pbc.unsqueeze(-1), self.cell, 0.0)
            inverse = torch.linalg.pinv(periodic)
            spread = (self.pos @ inverse).amax(0) - (self.pos @ inverse).amin(0)
            reach = torch.where(self.pbc, (cutoff * inverse.norm(dim=0) + spread).ceil(), 0.0).long().tolist()
            grid = itertools.product(*(range(-n, n + 1) for n in reach))
            images = torch.tensor(list(grid), dtype=torch.float64)
            offsets = images @ self.cell
        found, shifts = [], []
        vec = self.pos.unsqueeze(1) - self.pos  # [j, i]: r_j - r_i
        for image, offset in zip(images, offsets, strict=True):
            close = (vec + offset).norm(dim=-1) < cutoff
            if not image.any():
                close.fill_diagonal_(False)
            edges = close.nonzero().T
            found.append(edges)
            shifts.append(image.long().expand(edges.size(1), 3))
        return torch.cat(found, dim=1), torch.cat(shifts)


def default_cases(elements: Iterable[int] | None = None) -> list[Case]:
    """Water, ethanol, a dense cluster, a triclinic crystal, a slab, and a cell smaller than common cutoffs.

    Args:
        elements: Atomic numbers that the model knows; others are replaced by these. ``None`` for all.

    Example:
        >>> [case.name for case in default_cases([1, 6, 8])][:2]
        ['water', 'ethanol']
        >>> sorted({int(z) for case in default_cases([1, 8]) for z in case.z})
        [1, 8]
    """
    from ase import Atoms
    from ase.build import fcc111, molecule
    from ase.cluster import Octahedron

    cluster = Octahedron("Cu", 5, latticeconstant=3.61)
    cluster.numbers[::3] = 79
    cluster.rattle(0.1, seed=2)
    scaled = [[0.02, 0.05, 0.01], [0.48, 0.31, 0.22], [0.71, 0.82, 0.40], [0.23, 0.66, 0.74], [0.85, 0.12, 0.91]]
    triclinic = Atoms(
        "TiO2SiC", scaled_positions=scaled, cell=[[4.9, 0.3, -0.2], [1.4, 4.4, 0.5], [-0.9, 1.1, 5.3]], pbc=True
    )
    slab = fcc111("Al", (2, 2, 2), vacuum=6.0)
    slab.pbc = (True, True, False)
    slab.rattle(0.05, seed=1)
    small = Atoms(
        "SiC",
        scaled_positions=[[0.0, 0.0, 0.0], [0.46, 0.52, 0.49]],
        cell=[[2.4, 0.1, 0.0], [0.3, 2.5, 0.2], [-0.1, 0.4, 2.6]],
        pbc=True,
    )
    named = {
        "water": molecule("H2O"),
        "ethanol": molecule("CH3CH2OH"),
        "dense cluster": cluster,
        "triclinic crystal": triclinic,
        "slab": slab,
        "small cell": small,
    }
    return [_with_known(Case.of(atoms, name), elements) for name, atoms in named.items()]


def crowd(z: Sequence[int], count: int, diameter: float, seed: int = 0) -> Case:
    """Atoms in a ball, so that each has all others within its diameter, none of them much closer than the rest.

    Args:
        z: Atomic numbers, taken in turn.
        count: Number of atoms.
        diameter: Diameter of the ball in Å.
        seed: Seed of small displacements, which leave no two distances equal.
    """
    n = int((2.0 * count) ** (1 / 3)) + 3
    axis = torch.arange(-n, n + 1, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis, axis)
    grid = grid[(grid.sum(1) % 2) == 0]  # face-centred cubic
    grid = grid[(grid + torch.tensor([0.11, 0.23, 0.37])).norm(dim=1).argsort(stable=True)[:count]]
    generator = torch.Generator().manual_seed(seed)
    pos = grid + 0.2 * torch.rand(count, 3, dtype=torch.float64, generator=generator)
    pos = pos - 0.5 * (pos.amax(0) + pos.amin(0))
    pos = pos * (0.5 * diameter / pos.norm(dim=1).max())
    numbers = torch.tensor([z[k % len(z)] for k in range(count)])
    order = torch.randperm(count, generator=generator)  # so that no quota keeps the closest ones by chance
    return Case(f"ball of {count} atoms", numbers, pos[order])


def displaced(case: Case, reach: float) -> Case:
    """The structure without its symmetry: atoms moved by 0.1 Å, or four atoms instead of one.

    Args:
        case: The structure.
        reach: Length in Å over which atoms act on each other.
    """
    if len(case.z) == 1:
        return crowd(case.z.tolist(), 4, 0.6 * reach)
    generator = torch.Generator().manual_seed(1)
    return case.moved(case.pos + 0.1 * torch.randn(case.pos.shape, dtype=torch.float64, generator=generator))


def _with_known(case: Case, elements: Iterable[int] | None) -> Case:
    """The same positions with elements that a model knows."""
    if elements is None:
        return case
    known = sorted(set(elements), key=lambda z: (_VALENCE_ORDER.index(z) if z in _VALENCE_ORDER else 999, z))
    unknown = [z for z in case.z.unique().tolist() if z not in known]
    names = {z: known[k % len(known)] for k, z in enumerate(unknown)}
    return case._replace(z=torch.tensor([names.get(z, z) for z in case.z.tolist()]))
