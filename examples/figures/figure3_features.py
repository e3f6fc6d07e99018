"""Figure 3: the energy of H2 over its bond length, learned from the distance itself and from Gaussians of it.

A network is nearly linear when it starts, and so is what it makes of one number: the fit begins as a straight line and
takes long to bend. Expanded in Gaussians (eq. 14), different distances begin as different features. The paper shows
fits to the stretched bond of H2. Here networks of the same layers, seeds, optimiser and steps learn the same points, in
five pairs; only the number of inputs of the first layer differs, 1 or 51. The scalar has zero mean and unit variance
over the points, which helps it.

The curve is a Morse potential with the measured constants of H2, so that nothing else is needed; --data FOLDER takes
diatomics.json.gz (energies by PBE, https://github.com/janosh/matbench-discovery, site/src/lib/diatomics-dft.json.gz).

Run: python examples/figures/figure3_features.py
"""

import gzip
import json
from pathlib import Path

import numpy as np
import torch
from common import finish, parse
from matplotlib import pyplot
from torch import nn

from pyg_schnet.nn import GaussianBasis, ShiftedSoftplus
from pyg_schnet.nn.dense import dense
from pyg_schnet.plotting import style
from pyg_schnet.plotting.style import COLORS

SHORTEST, LONGEST = 0.4, 5.0  # Å
SHOWN = {"orange": 0, "green": 100, "blue": 1000}  # steps after which fits are drawn
SEEDS = range(5)


def main():
    folder = {"type": Path, "help": "folder of diatomics.json.gz; default: a Morse potential"}
    length = {"type": int, "default": 3000, "help": "steps of training, at least 1000"}
    options = parse(__doc__, "figure3_features.png", data=folder, steps=length)
    if options.steps < 1000:
        raise SystemExit(f"--steps must be at least 1000, got {options.steps}")
    torch.set_num_threads(1)  # the networks are so small that threads only wait for each other
    dist, energy = morse() if options.data is None else from_file(options.data)
    dense_dist = torch.linspace(SHORTEST, LONGEST, 200)
    scale = {"mean": dist.mean(), "std": dist.std()}
    basis = GaussianBasis(51, LONGEST, gamma=10.0)
    features = {
        "distance": lambda d: ((d - scale["mean"]) / scale["std"]).unsqueeze(1),
        "Gaussians": basis,
    }
    curve = dist, energy, dense_dist
    fits = {name: [fit(each, *curve, seed, options.steps) for seed in SEEDS] for name, each in features.items()}
    errors = {name: 1e3 * np.array([each[1] for each in runs]) for name, runs in fits.items()}  # [seeds, steps], meV
    for step in sorted({100, 300, 1000, options.steps}):
        row = ", ".join(f"{np.median(error[:, step]):6.1f} meV from {name}" for name, error in errors.items())
        print(f"mean absolute error after {step:4d} steps, median of {len(SEEDS)} seeds: {row}")
    straight = min(linearity(dense_dist, each[0][100]) for each in fits["distance"])
    print(f"a straight line explains {straight:.1%} or more of the fit from the distance after 100 steps, ", end="")
    print(f"{linearity(dist, energy):.1%} of the energies")
    ratios = [(errors["distance"][:, step] / errors["Gaussians"][:, step]).min() for step in (100, 1000)]
    print(f"in every pair the error from Gaussians is {ratios[0]:.1f} times smaller or more after 100 steps, ", end="")
    print(f"{ratios[1]:.1f} times after 1000")
    holds = straight > 0.95 and min(ratios) > 3
    with style():
        axes = draw(dist, energy, dense_dist, fits, errors)
    claim = "from the distance fits begin as straight lines, and from Gaussians the same steps get further"
    finish(axes[0], options, claim, holds)


def morse():
    """Energies in eV at distances in Å, with the constants of Huber and Herzberg (1979)."""
    dist = torch.linspace(SHORTEST, LONGEST, 47)
    return dist, 4.748 * ((1 - torch.exp(-1.944 * (dist - 0.7414))) ** 2 - 1)


def from_file(folder):
    """Energies of H2 by PBE, relative to the largest distance, where bonds are stretched and not crushed."""
    with gzip.open(folder / "diatomics.json.gz", "rt") as file:
        curve = json.load(file)["PBE"]["H-H"]
    dist, energy = torch.tensor(curve["distances"]), torch.tensor(curve["energies"])
    energy = energy - energy[dist.argmax()]
    bonded = (dist >= SHORTEST) & (dist <= LONGEST)
    return dist[bonded], energy[bonded]


def fit(expand, dist, energy, dense_dist, seed, steps):
    """Curves of a network after the shown steps, and its mean absolute error after every step, in eV."""
    torch.manual_seed(seed)
    inputs = expand(dist)
    network = nn.Sequential(
        dense(inputs.size(1), 64), ShiftedSoftplus(), dense(64, 64), ShiftedSoftplus(), dense(64, 1), nn.Flatten(0)
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    target = energy - energy.mean()  # as readouts have it
    curves, errors = {}, []
    for step in range(steps + 1):
        if step in SHOWN.values():
            with torch.no_grad():
                curves[step] = network(expand(dense_dist)) + energy.mean()
        difference = network(inputs) - target
        errors.append(difference.abs().mean().item())
        optimizer.zero_grad()
        difference.square().mean().backward()
        optimizer.step()
    return curves, errors


def linearity(x, y):
    """Part of the variance of y that a straight line over x explains."""
    return float(np.corrcoef(x.numpy(), y.numpy())[0, 1] ** 2)


def draw(dist, energy, dense_dist, fits, errors):
    """Fits from both features, and errors over steps."""
    dist, energy, dense_dist = dist.numpy(), energy.numpy(), dense_dist.numpy()
    axes = pyplot.subplots(1, 3, figsize=(7.0, 2.4))[1]
    for ax, (name, runs) in zip(axes, fits.items(), strict=False):
        for color, step in SHOWN.items():
            for seed, (curves, _) in enumerate(runs):
                label = f"{step} steps" if seed == 0 else None
                ax.plot(dense_dist, curves[step].numpy(), color=COLORS[color], linewidth=0.7, label=label)
        ax.plot(dist, energy, ".", color=COLORS["black"], markersize=2.5, label="to be learned")
        ax.set(xlabel="distance H–H [Å]", ylabel="energy [eV]", title=f"from {name}")
        ax.set_ylim(1.15 * energy.min(), 3.0)
    axes[1].legend()
    for (name, error), color in zip(errors.items(), (COLORS["vermillion"], COLORS["purple"]), strict=True):
        axes[2].plot(1 + np.arange(error.shape[1]), np.median(error, 0), color=color, label=f"from {name}")
        axes[2].fill_between(1 + np.arange(error.shape[1]), error.min(0), error.max(0), color=color, alpha=0.25, lw=0)
    axes[2].set(xscale="log", yscale="log", xlabel="step", ylabel="mean absolute error [meV]")
    axes[2].legend()
    return axes


if __name__ == "__main__":
    main()
