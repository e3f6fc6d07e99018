"""Figure 6: where a hydrogen atom would like to be around N-formylformamide, whole and with a hydrogen atom missing.

A probe atom feels the molecule and does not act on it (eq. 19); its energy on a smooth surface around the molecule is a
map of where the model expects bonds. The paper compares the molecule with one from which a hydrogen atom was taken.
A model that knew of open valences would draw the probe to the place of the missing atom: this script asks whether the
lowest energy on the surface is nearest to that place, and lower than on the whole molecule. The model has seen whole
molecules at their minima only.

Run: python examples/figures/figure6_probe.py
"""

import numpy as np
from ase import Atoms
from common import finish, parse
from matplotlib import pyplot

from pyg_schnet.analysis import molecular_surface, probe_potential
from pyg_schnet.plotting import plot_probe_potential, style, write_probe_html

MODEL = "qm9-u0"


def main():
    options = parse(__doc__, "figure6_probe.png")
    whole = n_formylformamide()
    missing = 7  # a hydrogen atom of a formyl group
    place = whole.positions[missing].copy()
    radical = whole[[k for k in range(len(whole)) if k != missing]]
    results = [
        probe_potential(MODEL, atoms, "H", isosurface=molecular_surface(atoms, spacing=0.1))
        for atoms in (whole, radical)
    ]
    lowest = [result.without_reference.min() for result in results]
    at = results[1].points[results[1].without_reference.argmin()]
    nearest = float(np.linalg.norm(whole.positions - at, axis=1).min())
    distance = float(np.linalg.norm(place - at))
    print(f"lowest energy of the probe: {lowest[0]:.3f} eV around the molecule, {lowest[1]:.3f} eV with H missing")
    print(f"that point is {distance:.2f} Å from where H was, {nearest:.2f} Å from the nearest place of an atom")
    holds = lowest[1] < lowest[0] and distance <= nearest + 1e-9
    both = np.concatenate([result.without_reference for result in results])
    with style():
        figure = pyplot.figure(figsize=(7.0, 3.0))
        axes = [figure.add_subplot(1, 2, k + 1, projection="3d", elev=90, azim=-90) for k in range(2)]
        for ax, result, title in zip(axes, results, ("whole", "hydrogen missing"), strict=True):
            plot_probe_potential(result, ax, unit="eV", limits=(both.min(), both.max()))
            ax.set_title(title)
    write_probe_html(results[1], options.output.with_suffix(".html"), unit="eV")
    finish(axes[0], options, "the probe is drawn to where the hydrogen atom is missing", holds)


def n_formylformamide():
    """The molecule as QM9 has it, gdb_114, at its minimum by B3LYP; the last atom is of a formyl group."""
    return Atoms(
        "NCCOOHHH",
        [
            [1.1448, 1.8039, 0.0004],
            [2.4083, 1.2096, -0.0140],
            [-0.1022, 1.1754, 0.0083],
            [2.6375, 0.0339, -0.0221],
            [-0.2994, -0.0060, 0.0042],
            [1.1311, 2.8144, 0.0057],
            [-0.9111, 1.9341, 0.0193],
            [3.1964, 1.9900, -0.0168],
        ],
    )


if __name__ == "__main__":
    main()
