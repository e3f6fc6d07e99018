r"""Make training data of a molecule and look at them: energies and forces of GFN2-xTB, a semi-empirical method.

Run: python examples/06_reference_data.py CH3CH2OH --output ethanol  (pip install pyg_schnet[reference])

What it does from Python, the command does for any number of molecules, and goes on where it was ended:

    pyg-schnet reference-data ethanol --files ethanol.xyz --kinds '{relaxed: 1, modes: 200, torsions: 36, bonds: 20}'

A potential of this molecule is then learned by

    pyg-schnet train --data.dataset pyg_schnet.data.ReferenceData --data.dataset.source ethanol --data.target energy \
        --model pyg_schnet.train.PotentialTask --data.num_train 200 --data.num_val 20
"""

import argparse
import sys

import ase.build

from pyg_schnet.data import ReferenceData
from pyg_schnet.data.reference import Molecule, Sampling, make_reference_data
from pyg_schnet.data.shards import KIND_NAMES


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("molecule", help="a name that ase.build.molecule knows")
    parser.add_argument("--output", default="reference", help="folder of the data")
    parser.add_argument("--frames", type=int, default=200, help="number of frames displaced along modes")
    parser.add_argument("--method", default="GFN2-xTB", help="of tblite, or the path of a calculator of ASE")
    options = parser.parse_args()

    atoms = ase.build.molecule(options.molecule)
    sampling = Sampling(
        kinds={"relaxed": 1, "modes": options.frames, "torsions": 36, "bonds": 20},
        temperature=(300.0, 800.0),
    )
    try:
        done = make_reference_data(
            options.output, [Molecule(options.molecule, atoms.numbers, atoms.positions)], sampling, options.method
        )
    except ImportError as error:
        sys.exit(str(error))

    print(f"{done.labels} labels by {done.counts['calls']} calculations; left out: {done.counts['left_out'] or 'none'}")
    data = ReferenceData(options.output)
    lowest = min(float(one.energy) for one in data)
    print(f"{'kind':<9}  frames  energy above the lowest [eV]  largest force [eV/Å]")
    for name in done.counts["kept"]:
        frames = [one for one in data if int(one.kind) == KIND_NAMES.index(name)]
        energy = sum(float(one.energy) - lowest for one in frames) / len(frames)
        force = max(float(one.forces.norm(dim=1).max()) for one in frames)
        print(f"{name:<9}  {len(frames):>6}  {energy:>28.3f}  {force:>20.2f}")


if __name__ == "__main__":
    main()
