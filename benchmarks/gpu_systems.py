"""The structures of gpu.py: from a small file in the repository, so that no data sets and no other packages are needed.

``python benchmarks/gpu_systems.py --data FOLDER`` makes that file again: the first 256 training frames of aspirin
(revised MD17, ``rmd17_aspirin/train_1200.xyz.gz``), 1,000 molecules of QM9 (qm9pack) and 512 perovskites
(``perovskites_castelli/folds1-4.jsonl.gz``), drawn at random, with coordinates in steps of 0.001 Å.
"""

import argparse
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from pyg_schnet import radius_graph

FILE = Path(__file__).parent / "results" / "structures.npz"
STEP = 1e-3  # Å


class System(NamedTuple):
    """A batch of structures with its graph, on the device; labels are random numbers."""

    name: str
    cutoff: float
    size: int
    z: torch.Tensor
    pos: torch.Tensor
    batch: torch.Tensor
    edge_index: torch.Tensor
    edge_shift: torch.Tensor | None
    cell: torch.Tensor | None
    energy: torch.Tensor
    forces: torch.Tensor

    def inputs(self, dtype=None, device=None):
        """Arguments of a model."""
        options = {"edge_index": self.edge_index, "edge_shift": self.edge_shift, "cell": self.cell}
        options = {name: _moved(value, dtype, device) for name, value in options.items()}
        arguments = (_moved(value, dtype, device) for value in (self.z, self.pos, self.batch))
        return tuple(arguments), {**options, "batch_size": self.size}


def _moved(value, dtype, device):
    if value is None or (dtype is None and device is None):
        return value
    return value.to(device=device, dtype=dtype if value.is_floating_point() else None)


def make_system(name, z, pos, n_atoms, cutoff, device, cell=None):
    """Structures of ``n_atoms`` atoms each, ``[B]``, with all neighbours within the cutoff."""
    generator, size = torch.Generator().manual_seed(0), len(n_atoms)
    labels = torch.randn(size, generator=generator), torch.randn(pos.shape, generator=generator)
    batch = torch.arange(size).repeat_interleave(n_atoms)
    lattice = {} if cell is None else {"cell": cell.to(device), "pbc": torch.ones(size, 3, dtype=torch.bool).to(device)}
    z, pos, batch = z.to(device), pos.to(device), batch.to(device)
    found = radius_graph(pos, cutoff, batch, batch_size=size, **lattice)
    index, shift = found if lattice else (found, None)
    return System(
        name, cutoff, size, z, pos, batch, index, shift, lattice.get("cell"), *(label.to(device) for label in labels)
    )


@cache
def _file():
    with np.load(FILE) as content:
        return {name: torch.from_numpy(content[name].astype(np.int64)) for name in content.files}


def stored(kind, count, device, cutoff=5.0, smallest=False):
    """The first structures of a kind, ``"aspirin"``, ``"QM9"`` or ``"perovskites"``, or those of the fewest atoms."""
    content = _file()
    n_atoms = content[f"{kind}/n_atoms"]
    if count > len(n_atoms):
        raise ValueError(f"{FILE.name} has {len(n_atoms)} structures of the kind {kind}, {count} are asked for")
    chosen = n_atoms.argsort(stable=True)[:count] if smallest else torch.arange(count)
    ends = n_atoms.cumsum(0)
    rows = torch.cat([torch.arange(int(ends[k] - n_atoms[k]), int(ends[k])) for k in chosen])
    cells = content.get(f"{kind}/cell")
    return make_system(
        kind,
        content[f"{kind}/z"][rows],
        (content[f"{kind}/pos"][rows] * STEP).to(torch.float32),
        n_atoms[chosen],
        cutoff,
        device,
        None if cells is None else (cells[chosen] * STEP).to(torch.float32),
    )


def silicon(count, device):
    """One rattled crystal of ``count`` conventional cells along each edge."""
    corner = torch.tensor([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    sites = torch.cat([corner, corner + 0.25])
    cells = torch.cartesian_prod(*[torch.arange(count)] * 3)
    pos = 5.43 * (cells[:, None] + sites).view(-1, 3)
    pos += 0.05 * torch.randn(pos.shape, generator=torch.Generator().manual_seed(0))
    z = torch.full((pos.size(0),), 14)
    cell = (5.43 * count * torch.eye(3)).unsqueeze(0)
    return make_system("silicon", z, pos, torch.tensor([len(z)]), 5.0, device, cell)


def columns(structures):
    """Columns of the file for one kind, from ``ase.Atoms``."""
    z = np.concatenate([atoms.numbers for atoms in structures]).astype(np.uint8)
    pos = np.concatenate([atoms.positions - atoms.positions.mean(0) for atoms in structures])
    found = {"n_atoms": np.array([len(atoms) for atoms in structures], np.uint8), "z": z, "pos": _rounded(pos)}
    if any(atoms.pbc.any() for atoms in structures):
        found["cell"] = _rounded(np.stack([atoms.cell.array for atoms in structures]))
    return found


def _rounded(lengths):
    steps = np.round(np.asarray(lengths) / STEP)
    if np.abs(steps).max() >= 2**15:
        raise ValueError(f"lengths up to {np.abs(lengths).max():.1f} Å do not fit in 16 bits of {STEP} Å")
    return steps.astype(np.int16)


def main(arguments=None):
    import ase.io

    from pyg_schnet.data import QM9, MaterialsDataset, to_atoms

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--file", type=Path, default=FILE, help="file to write")
    options = parser.parse_args(arguments)
    frames = ase.io.read(options.data / "rmd17_aspirin" / "train_1200.xyz.gz", ":256", format="extxyz")
    perovskites = MaterialsDataset(options.data / "perovskites_castelli" / "folds1-4.jsonl.gz", {"e_form": "eV"})
    kinds = {"aspirin": frames}
    for name, dataset, count in (("QM9", QM9(), 1000), ("perovskites", perovskites, 512)):
        drawn = np.random.default_rng(0).permutation(len(dataset))[:count]
        kinds[name] = [to_atoms(dataset[int(k)]) for k in drawn]
    content = {f"{kind}/{name}": value for kind, atoms in kinds.items() for name, value in columns(atoms).items()}
    np.savez_compressed(options.file, **content)
    print(f"{options.file}: {options.file.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
