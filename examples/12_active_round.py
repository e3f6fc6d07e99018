r"""An active round: geometries that a committee meets in its own dynamics and disagrees on, to be labelled.

Many molecules move at once, each at a temperature of its own, from displacements of that temperature. The models'
calibrated spread of forces is looked at every few steps, and the geometries with the largest ones are written.

Run: python examples/12_active_round.py --files examples/dopamine.xyz --output active.xyz
     python examples/12_active_round.py --qm9 6000 --held_out 2000 --output active.xyz
     pyg-schnet reference-data FOLDER/active --relabel active.xyz --max_force 20

How models learn from them is said in examples/recipes/organic_gfn2.yaml. QM9 and labels by GFN2-xTB need the extras
`qm9` and `reference`.
"""

import argparse
import contextlib
import itertools
import warnings
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import Atoms

from pyg_schnet.data.reference import ThermalModel, from_files, from_qm9, load_qm9
from pyg_schnet.data.reference.langevin import walk
from pyg_schnet.data.reference.relaxation import Visited
from pyg_schnet.interfaces import Committee


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", nargs="+", default=["organic-gfn2"], help="committee, or files of its models")
    parser.add_argument("--files", nargs="+", help="molecules, in any files that ASE reads")
    parser.add_argument("--qm9", type=int, default=0, help="number of molecules of QM9")
    parser.add_argument("--held_out", type=int, default=2000, help="so many molecules of QM9 are left for tests")
    parser.add_argument("--qm9_dir", help="folder of QM9's cache")
    parser.add_argument("--leave_out", nargs="+", default=[], help="files of molecules that are not to be learned from")
    parser.add_argument("--temperature", type=float, nargs=2, default=(300.0, 1000.0), help="lowest and highest, in K")
    parser.add_argument("--steps", type=int, default=100, help="of one femtosecond")
    parser.add_argument("--every", type=int, default=10, help="steps from one look to the next")
    parser.add_argument("--least", type=float, default=0.3, help="largest spread of a force from which on, in eV/Å")
    parser.add_argument("--most", type=float, default=3.0, help="the same at which a molecule stays where it is")
    parser.add_argument("--each", type=int, default=4, help="most geometries of a molecule")
    parser.add_argument("--together", type=int, default=200, help="molecules that move at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("active.xyz"), help="extended XYZ file")
    options = parser.parse_args()

    molecules = [] if options.files is None else from_files(options.files)
    if options.qm9:
        qm9 = load_qm9(options.qm9_dir)
        molecules += from_qm9(qm9, options.qm9, "train", options.held_out, options.leave_out).molecules
    if not molecules:
        raise SystemExit("give molecules by --files or --qm9")
    committee = Committee(options.model, dtype=torch.float32)
    if len(committee) < 2:
        raise SystemExit("one model cannot disagree with itself: give a committee, or several files by --model")
    warnings.filterwarnings("ignore", message=".*models disagree")  # that is what is looked for
    random, found, ended, done = np.random.default_rng(options.seed), [], 0, 0
    starts = displaced(molecules, options.temperature, random)
    for part in iter(lambda: list(itertools.islice(starts, options.together)), []):
        moving = Moving(committee, part, random, options.most)
        found += moving.search(options)
        ended += int((~moving.goes_on).sum())
        done += len(part)
        print(f"{done:,} of {len(molecules):,} molecules, {len(found):,} geometries", flush=True)
    print(f"{ended:,} molecules came to a spread above {options.most:g} eV/Å and went no further")
    if done < len(molecules):
        print(f"{len(molecules) - done:,} molecules have no harmonic model, from which they could be displaced")
    if not found:
        raise SystemExit(f"the models never disagreed by {options.least:g} eV/Å; give a lower --least")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    ase.io.write(options.output, found, format="extxyz")
    print(
        f"{options.output}: spread of a force {np.median([atoms.info['spread'] for atoms in found]):.2f} eV/Å (median)"
    )


def displaced(molecules, temperature, random):
    """Molecules, positions in Å that they have at some temperature, and that temperature in K."""
    for one in molecules:
        kelvin = random.uniform(*temperature)
        with contextlib.suppress(np.linalg.LinAlgError):
            yield one, ThermalModel(one.numbers, one.positions).displaced(np.array([kelvin]), random)[0], kelvin


class Moving:
    """Molecules that move by the mean force of a committee.

    Args:
        committee: The models.
        starts: Molecules, their positions and temperatures.
        random: Source of random numbers.
        most: Spread in eV/Å at which a molecule stays where it is.
    """

    def __init__(self, committee, starts, random, most):
        self.committee, self.random, self.most = committee, random, most
        self.molecules, places, kelvin = zip(*starts, strict=True)
        sizes = np.array([len(one.numbers) for one in self.molecules])
        self.numbers = np.concatenate([one.numbers for one in self.molecules])
        self.owner, self.first = np.repeat(np.arange(len(sizes)), sizes), np.cumsum(sizes) - sizes
        self.temperature = np.array(kelvin)[self.owner, None]
        self.place = np.concatenate(places)
        self.goes_on = np.ones(len(sizes), dtype=bool)
        self._z, self._batch = torch.from_numpy(self.numbers), torch.from_numpy(self.owner)

    def search(self, options):
        """Move, and take the geometries with the largest spreads of each molecule."""
        seen = [[] for _ in self.molecules]
        start = Visited(self.place, *self.evaluate(self.place))
        steps = walk(self.evaluate, self.numbers, start, self.temperature, self.random, every=options.every)
        for _ in range(options.steps // options.every):
            went_on = self.goes_on.copy()
            next(steps)
            for k in np.flatnonzero(went_on & (self.spread > options.least)):
                seen[k].append((self.spread[k], self.place[self.owner == k]))
        found = []
        for one, frames in zip(self.molecules, seen, strict=True):
            for spread, positions in sorted(frames, key=lambda frame: -frame[0])[: options.each]:
                atoms = Atoms(one.numbers, positions - positions.mean(0), info={"name": one.name, "spread": spread})
                found.append(atoms)
        return found

    def evaluate(self, positions):
        """Energy of all in eV and forces in eV/Å; molecules that have ended stay where they were."""
        self.place = np.where(self.goes_on[self.owner, None], positions, self.place)
        middle = np.add.reduceat(self.place, self.first) / np.bincount(self.owner)[:, None]
        here = torch.from_numpy(self.place - middle[self.owner])  # float32 is exact near the origin
        found = self.committee.calibrated(self.committee(self._z, here, self._batch, len(self.molecules)))
        deviation = found.forces.double().std(0, correction=0).norm(dim=1).numpy()
        self.spread = np.maximum.reduceat(deviation, self.first)
        self.goes_on &= self.spread < self.most
        return float(found.energy.mean(0).sum()), found.forces.mean(0).double().numpy()


if __name__ == "__main__":
    main()
