"""Figure 4: a carbon dimer by four models that differ in the seed only, and how often carbon atoms are that far apart.

The paper scans a dimer with four models: where the training data has such distances they agree, elsewhere they do as
they like. Here four small networks have seen the same molecules of QM9, each from other random weights. No molecule of
QM9 is a dimer of carbon, so it is the distance alone that may be known. Energies are relative to separated atoms, which
QM9 does not have either; therefore forces along the bond are compared. Do any two of the models differ more where
distances are rare, between 1 and 2 Å, than at those of bonds, and than beyond 2.2 Å, where atoms are not bonded? By how
much is printed.

They have seen energies alone, and give forces only where these are asked for in spite of that (untrained_forces).
What the models give is not the potential of the molecule C2, as all molecules of QM9 are at their minima. With
--data FOLDER, which has diatomics.json.gz (energies by PBE, https://github.com/janosh/matbench-discovery,
site/src/lib/diatomics-dft.json.gz), bond length and depth are compared. --count counts the pairs in QM9 again (extra
qm9).

The files models/qm9-u0-small-SEED.safetensors were trained with examples/recipes/qm9_u0_small.yaml and
--seed_everything 0 to 3; their headers have their errors.

Run: python examples/figures/figure4_dimer.py
"""

import gzip
import json
import warnings
from itertools import combinations
from pathlib import Path

import numpy as np
from common import finish, parse
from matplotlib import pyplot

from pyg_schnet.analysis import dimer_scan
from pyg_schnet.plotting import plot_dimer_scan, style
from pyg_schnet.plotting.style import COLORS

MODELS = sorted((Path(__file__).parent / "models").glob("qm9-u0-small-*.safetensors"))
WIDTH = 0.1  # Å
PAIRS = (  # of carbon atoms in the molecules of QM9, in every 0.1 Å from 0 on
    *(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 268, 19059, 44404, 133734, 534430, 2357, 1052, 4389, 3541),
    *(26377, 69421, 53471, 100875, 146219, 222024, 165139, 52665, 23843, 29130),
    *(39139, 45616, 41166, 37290, 39637, 54696, 63085, 50761, 51728, 36474),
    *(12573, 14758, 16135, 16357, 18016, 19562, 16412, 15052, 16198, 17756),
)
FREQUENT = 10_000  # pairs in 0.1 Å


def main():
    folder = {"type": Path, "help": "folder of diatomics.json.gz, to compare with density functional theory"}
    again = {"action": "store_true", "help": "count the pairs of carbon atoms in QM9 again"}
    options = parse(__doc__, "figure4_dimer.png", data=folder, count=again)
    if options.count:
        same = count_pairs() == PAIRS
        print("pairs of carbon atoms in QM9 counted again: " + ("the same" if same else "not the same"))
    with warnings.catch_warnings():  # no dimer was trained on, which is what is asked here
        warnings.filterwarnings("ignore", "the structure has", UserWarning)
        scan = dimer_scan(MODELS, "C", "C", np.linspace(1.0, 5.0, 401), untrained_forces=True)
    pairs = np.array(PAIRS)[(scan.distances / WIDTH + 1e-9).astype(int).clip(max=len(PAIRS) - 1)]
    near = scan.distances < 2.0
    regions = {
        "rare distances from 1 to 2 Å": near & (pairs < FREQUENT),
        "lengths of bonds, 1.2 to 1.6 Å": near & (pairs >= FREQUENT),
        "distances from 2.2 to 5 Å": scan.distances > 2.2,
    }
    pairs_of_models = list(combinations(scan.forces, 2))
    differences = {
        name: np.array([np.abs(first - second)[inside].mean() for first, second in pairs_of_models])
        for name, inside in regions.items()
    }  # [pairs of models], eV/Å
    for name, difference in differences.items():
        strength = np.abs(scan.force[regions[name]]).mean()
        print(
            f"{name}: two models differ by {difference.mean():.3f} eV/Å on average, from {difference.min():.3f} to "
            f"{difference.max():.3f}, where the force is {strength:.2f} eV/Å"
        )
    rare, *others = differences.values()
    factors = [rare / other for other in others]
    ranges = " and ".join(f"{factor.min():.1f} to {factor.max():.1f}" for factor in factors)
    print(f"at rare distances differences are {ranges} times as large as at the others")
    bonded = regions["lengths of bonds, 1.2 to 1.6 Å"]
    lengths = [scan.distances[bonded][energy[bonded].argmin()] for energy in scan.energies]
    print("lowest energy of a bond by each model at " + ", ".join(f"{length:.2f}" for length in lengths) + " Å")
    bond = None if options.data is None else compare(options.data, scan)
    with style():
        ax = draw(scan, bond)
    holds = min(factor.min() for factor in factors) > 1.0
    finish(ax, options, "any two models differ more at distances that the data lacks than at those it has", holds)


def compare(folder, scan):
    """Print bond length and depth by PBE beside those of the models; the bond length in Å."""
    with gzip.open(folder / "diatomics.json.gz", "rt") as file:
        curve = json.load(file)["PBE"]["C-C"]
    dist, energy = np.array(curve["distances"]), np.array(curve["energies"])
    lowest = int(energy.argmin())
    around = slice(lowest - 1, lowest + 2)
    square, slope, _ = np.polyfit(dist[around], energy[around], 2)
    bond, depth = -0.5 * slope / square, energy[dist.argmax()] - energy[lowest]
    learned = scan.energy[(scan.distances > 1.2) & (scan.distances < 1.6)].min()
    print(f"C2 by PBE: minimum at {bond:.2f} Å, {depth:.1f} eV below the atoms; mean of the models: {learned:+.1f} eV")
    return bond


def count_pairs():
    """Distances of two carbon atoms in all molecules of QM9, a number for every 0.1 Å."""
    from pyg_schnet.data import QM9, StructureLoader

    counts = np.zeros(len(PAIRS), dtype=int)
    for batch in StructureLoader(QM9(), batch_size=5000):
        carbon = batch.z == 6
        pos, molecule = batch.pos[carbon].double().numpy(), batch.batch[carbon].numpy()
        for step in range(1, np.bincount(molecule).max()):  # to the next carbon atom of the molecule, to the one after
            same = molecule[step:] == molecule[:-step]
            dist = np.linalg.norm(pos[step:] - pos[:-step], axis=1)[same]
            counts += np.histogram(dist, len(PAIRS), (0.0, WIDTH * len(PAIRS)))[0]
    return tuple(counts.tolist())


def draw(scan, bond):
    """Energies, and the spread of forces above the number of pairs."""
    left, right = pyplot.subplots(1, 2, figsize=(7.0, 2.6))[1]
    plot_dimer_scan(scan, left)
    for k, energy in enumerate(scan.energies):
        left.plot(scan.distances, energy, color="0.4", linewidth=0.5, label="single models" if k == 0 else None)
    if bond is not None:
        left.axvline(bond, color=COLORS["vermillion"], linestyle="--", linewidth=0.8, label="bond length of C2, PBE")
    left.legend()
    edges = WIDTH * np.arange(10, 51)  # 1 to 5 Å
    bins = np.digitize(scan.distances, edges[1:-1])
    spread = [np.sqrt(np.mean(scan.force_std[bins == k] ** 2)) for k in range(len(edges) - 1)]
    right.stairs(spread, edges, baseline=None, color=COLORS["blue"])
    right.set(xlabel="distance C–C [Å]", ylabel="standard deviation of force [eV/Å]", yscale="log", ylim=(1e-3, 3.0))
    counts = right.twinx()
    counts.stairs(PAIRS, WIDTH * np.arange(len(PAIRS) + 1), fill=True, color=COLORS["orange"], alpha=0.4)
    counts.set(yscale="log", ylabel="pairs in QM9 in 0.1 Å", ylim=(100, None))
    counts.spines["right"].set_visible(True)
    right.set_xlim(scan.distances[0], scan.distances[-1])
    right.set_zorder(counts.get_zorder() + 1)  # the line above the bars
    right.patch.set_visible(False)
    right.yaxis.label.set_color(COLORS["blue"])
    counts.yaxis.label.set_color(COLORS["orange"])
    return left


if __name__ == "__main__":
    main()
