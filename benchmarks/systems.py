"""The structures of the benchmarks: batches with their edges, and labels to learn."""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import ase.build
import numpy as np
import torch
from ase.spacegroup import crystal
from torch import Tensor

from pyg_schnet.data import QM9, AtomsDataset, MaterialsDataset, NeighborList
from pyg_schnet.data.loader import collate_indices
from pyg_schnet.geometry import edge_distances


@dataclass(frozen=True)
class System:
    """A batch of structures with its graph, the same for all models.

    Labels are normal random numbers: what they are does not change the time of a step.
    """

    name: str
    cutoff: float  # Å
    size: int  # number of structures B
    z: Tensor  # [N]
    pos: Tensor  # [N, 3] in Å
    batch: Tensor  # [N]
    edge_index: Tensor  # (j, i), [2, E]
    edge_shift: Tensor | None  # [E, 3]
    cell: Tensor | None  # [B, 3, 3] in Å
    energy: Tensor  # [B]
    forces: Tensor  # [N, 3]

    def distances(self, pos):
        """Distances in Å of the edges, shape ``[E]``, differentiable in the positions."""
        return edge_distances(pos, self.edge_index, self.edge_shift, self.cell, self.batch)

    def sizes(self):
        """Numbers of structures, atoms and edges."""
        return {"structures": self.size, "atoms": self.z.numel(), "edges": self.edge_index.size(1)}

    def to(self, dtype):
        """The same in another precision."""
        floats = {name: getattr(self, name) for name in ("pos", "cell", "energy", "forces")}
        return replace(self, **{name: x.to(dtype) for name, x in floats.items() if x is not None})


def make_system(name, dataset, indices, cutoff):
    """System of some structures of a data set."""
    batch = NeighborList(cutoff)(collate_indices(dataset, indices))
    shift = batch.get("edge_shift")
    generator = torch.Generator().manual_seed(0)
    return System(
        name,
        cutoff,
        batch.num_graphs,
        batch.z,
        batch.pos,
        batch.batch,
        batch.edge_index,
        shift,
        None if shift is None else batch.cell,
        torch.randn(batch.num_graphs, generator=generator),
        torch.randn(batch.z.numel(), 3, generator=generator),
    )


class Structures:
    """The structures by kind; each method gives ``count`` of them.

    Args:
        folder: Folder with the data sets that are not made or installed; without them others stand in.
    """

    def __init__(self, folder=None):
        self.folder = folder

    def qm9(self, count, cutoff):
        """Molecules of QM9, drawn at random."""
        return make_system("QM9", _qm9(), _draw(count, len(_qm9())), cutoff)

    def aspirin(self, count, cutoff):
        """Frames of a trajectory of aspirin."""
        file = self._find("rmd17_aspirin/train_1200.xyz.gz", "benzonitrile of ASE")
        if file:
            return make_system("aspirin", AtomsDataset(file, index=f":{count}"), range(count), cutoff)
        return make_system(
            "benzonitrile", AtomsDataset([_rattled_molecule(k) for k in range(count)]), range(count), cutoff
        )

    def perovskites(self, count, cutoff):
        """Crystals ABO3 of five atoms."""
        file = self._find("perovskites_castelli/folds1-4.jsonl.gz", "rattled cubic perovskites")
        if file:
            dataset = MaterialsDataset(file, {"e_form": "eV"})
        else:
            dataset = AtomsDataset([_rattled_perovskite(k) for k in range(count)])
        return make_system("perovskites", dataset, _draw(count, len(dataset)), cutoff)

    def silicon(self, count, cutoff):
        """One crystal of ``count`` conventional cells, of eight atoms, along each edge."""
        return make_system("silicon", AtomsDataset([silicon_atoms(count)]), [0], cutoff)

    def _find(self, name, stand_in):
        file = None if self.folder is None else Path(self.folder) / name
        if file is None or not file.exists():
            print(f"{name} not found in --data; {stand_in} instead")
            return None
        return file


def silicon_atoms(count):
    """Rattled diamond silicon of ``count`` conventional cells along each edge."""
    atoms = ase.build.bulk("Si", cubic=True, a=5.43) * (count, count, count)
    atoms.rattle(0.05, seed=0)
    return atoms


@cache
def _qm9():
    return QM9()


def _draw(count, size):
    return torch.from_numpy(np.random.default_rng(0).permutation(size)[:count])


def _rattled_molecule(seed):
    atoms = ase.build.molecule("C7NH5")
    atoms.rattle(0.05, seed=seed)
    return atoms


def _rattled_perovskite(seed):
    rng = np.random.default_rng(seed)
    elements = rng.choice(["Ca", "Sr", "Ba", "La", "Y"]), rng.choice(["Ti", "Zr", "Mn", "Fe", "Nb"]), "O"
    lengths = 3 * [rng.uniform(3.8, 4.3)]
    sites = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)]
    atoms = crystal(elements, sites, spacegroup=221, cellpar=[*lengths, 90, 90, 90])
    atoms.rattle(0.05, seed=seed)
    return atoms
