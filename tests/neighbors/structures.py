"""Random structures for the tests of the neighbour search, and ASE's answer for them."""

from typing import NamedTuple

import numpy as np
import torch
from ase.geometry import cellpar_to_cell
from ase.neighborlist import primitive_neighbor_list


class Crystal(NamedTuple):
    pos: torch.Tensor  # [n, 3] float64
    cell: torch.Tensor  # [3, 3] with zero rows on some open axes
    pbc: torch.Tensor  # [3]
    full_cell: torch.Tensor  # [3, 3] without zero rows


def random_cell(rng):
    """Lattice vectors with angles from 30° to 150°, any orientation and handedness."""
    while True:
        lengths, angles = rng.uniform(2.0, 7.0, 3), rng.uniform(30.0, 150.0, 3)
        cos = np.cos(np.radians(angles))
        if 1 + 2 * cos.prod() - (cos**2).sum() > 0.02:  # the three angles fit together, and not in a plane
            break
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return (cellpar_to_cell([*lengths, *angles]) @ rotation)[rng.permutation(3)]


def random_crystal(rng, max_atoms=60, max_cutoff_ratio=3.0, max_edges=3000):
    """A crystal, slab, wire or molecule with atoms inside and outside the cell, and a cutoff up to 3 cell lengths."""
    full_cell = random_cell(rng)
    pbc = rng.random(3) < 0.7
    cell = np.where((pbc | (rng.random(3) < 0.5))[:, None], full_cell, 0.0)
    n = int(np.exp(rng.uniform(0, np.log(max_atoms + 1))))
    cutoff = rng.uniform(0.3, max_cutoff_ratio) * np.linalg.norm(full_cell, axis=1).min()
    cutoff = min(cutoff, (max_edges / n**2 * abs(np.linalg.det(full_cell)) / 4.2) ** (1 / 3))
    pos = rng.uniform(-1.5, 2.5, (n, 3)) @ full_cell
    return Crystal(*map(torch.from_numpy, (pos, cell, pbc, full_cell))), float(cutoff)


def random_molecules(rng, dtype=torch.float64):
    """A batch of open structures, some of them empty or single atoms: positions, batch, number of structures."""
    n_structures = int(rng.integers(1, 6))
    sizes = rng.choice([0, 0, 1, 1, 2, 5, 9], n_structures)
    batch = torch.arange(n_structures).repeat_interleave(torch.from_numpy(sizes))
    extent = rng.choice([0.5, 3.0, 8.0])
    pos = torch.from_numpy(rng.uniform(-extent, extent, (len(batch), 3))).to(dtype)
    return pos, batch, n_structures


def ase_edges(crystal, cutoff):
    """(j, i, S) of ASE, sorted. ASE leaves shifts of open axes at zero whatever the cell vector."""
    pos, _, pbc, full_cell = (x.numpy() for x in crystal)
    i, j, shift = primitive_neighbor_list("ijS", pbc, full_cell, pos, cutoff)
    return sorted(map(tuple, np.column_stack([j, i, shift]).tolist()))


def collate(crystals):
    """Positions, batch, cells and periodic axes of several structures."""
    sizes = torch.tensor([len(c.pos) for c in crystals])
    batch = torch.arange(len(crystals)).repeat_interleave(sizes)
    pos, cell, pbc = (torch.cat([getattr(c, k) for c in crystals]) for k in ("pos", "cell", "pbc"))
    return pos, batch, cell.reshape(-1, 3, 3), pbc.reshape(-1, 3)
