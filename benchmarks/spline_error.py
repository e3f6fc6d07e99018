"""How far are splined filters from exact ones, in energies and forces, and how does that fall with the grid points?

Over random models, and over trained ones given as files: the largest deviation of energies (without element
references) over the largest energy, and of forces over the largest force.

Run: python benchmarks/spline_error.py --json spline_error.json --plot spline_error.png
     python benchmarks/spline_error.py runs/*/model.safetensors
"""

from functools import cache, partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from harness import Table, make_parser, parse, save, save_figure
from peers import rebuilt
from systems import Structures, make_system
from tasks import deviation

from pyg_schnet import SchNet
from pyg_schnet.data import AtomsDataset
from pyg_schnet.derivatives import energy_forces_stress
from pyg_schnet.models import load
from pyg_schnet.nn.basis import num_gaussians_for_spacing

GRID_POINTS = (65, 129, 257, 513, 1025, 2049)
DTYPES = {torch.float64: "float64", torch.float32: "float32"}
_LABELS = [f"{number} points" for number in GRID_POINTS]
_GRIDS = ("evaluation grid", "training grid")
_MEASURES = ("energy", "forces", "energy_float64", "forces_float64", "at_width", "energy_at_width")
_ROUNDING = 1e-13  # errors in float64 below are not those of the spline


def random_models(seeds, features):
    """Models by name: the paper's Gaussians and PyG's, both cutoffs, with and without softplus after the filters."""
    for seed, size, cutoff, paper, activate in product(
        range(seeds), features, (5.0, 10.0), (True, False), (True, False)
    ):
        basis = {"num_gaussians": num_gaussians_for_spacing(0.1, cutoff), "gamma": 10.0} if paper else {}
        torch.manual_seed(seed)
        model = SchNet(size, size, cutoff=cutoff, activate_filters=activate, **basis).eval()
        yield f"seed {seed}, {size} features, {cutoff:g} Å, {'paper' if paper else 'PyG'}, {activate=}", model


def trained_models(files):
    """Models of files by their paths, without element references, beside which errors would look small."""
    for file in files:
        model = load(file)
        if not isinstance(model, SchNet):
            raise SystemExit(f"{file} holds a {type(model).__name__}, which has no splined filters")
        for name in ("atomref", "shift"):
            if hasattr(model.readout, name):
                getattr(model.readout, name).zero_()
        yield str(file), model


def evaluate(model, system):
    """Energies and forces, shape ``[B]`` and ``[N, 3]``, in float64."""
    graph = {name: getattr(system, name) for name in ("edge_index", "edge_shift", "cell")}
    response = energy_forces_stress(model, system.z, system.pos, system.batch, **graph, batch_size=system.size)
    return response.energy.double(), response.forces.double()


def study(name, model, system):
    """Deviations of one model for all numbers of grid points in both precisions, one row for each."""
    widths = model.cutoff / model.interactions[0].conv.filter_network.basis.resolution
    true = evaluate(rebuilt(model, torch.float64, filters="exact"), system.to(torch.float64))
    for dtype in DTYPES:
        given = system.to(dtype)
        exact = evaluate(rebuilt(model, dtype, filters="exact"), given)
        yield {"model": name, "dtype": DTYPES[dtype], "filters": "exact", **deviations(exact, exact, true)}
        grids = model.interactions[0].conv.spline.grid_sizes()
        for label, number in zip((*_LABELS, *_GRIDS), (*GRID_POINTS, *grids), strict=True):
            splined = rebuilt(model, dtype, filters="spline", num_grid_points=number)
            per_width = (splined.interactions[0].conv.spline.num_grid_points - 1) / widths
            found = deviations(evaluate(splined, given), exact, true)
            yield {
                "model": name,
                "dtype": DTYPES[dtype],
                "filters": label,
                "per_width": per_width,
                **found,
                "at_width": found["forces"] * per_width**3,
                "energy_at_width": found["energy"] * per_width**4,
            }


def deviations(found, exact, true):
    """Of energies and forces, from the exact filters in the same precision and in float64."""
    return {
        "energy": deviation(found[0], exact[0]),
        "forces": deviation(found[1], exact[1]),
        "energy_float64": deviation(found[0], true[0]),
        "forces_float64": deviation(found[1], true[1]),
    }


def exponent(rows):
    """Power of the spacing with which the energies of one model err, in float64.

    Fitted where there are at least two points for each width of the Gaussians: below, the spline does not see them.
    """
    points = [
        (row["per_width"], row["energy"])
        for row in rows
        if row["filters"] in _LABELS and row["per_width"] >= 2 and row["energy"] > _ROUNDING
    ]
    return -float(np.polyfit(*np.log(np.array(points).T), 1)[0])


def largest(rows, filters):
    """Largest deviations over the models, by precision, as the row of a table."""
    worst = {"filters": filters, "float64": {}, "float32": {}}
    for row in rows:
        if row["filters"] == filters:
            of_dtype = worst[row["dtype"]]
            for key in _MEASURES:
                if key in row:
                    of_dtype[key] = max(of_dtype.get(key, 0.0), row[key])
    return worst


def draw(rows, ax):
    """Errors of all models, and their median, against the number of grid points."""

    def values(dtype, key):  # [grid points, models]
        return np.array([[r[key] for r in rows if r["dtype"] == dtype and r["filters"] == label] for label in _LABELS])

    for dtype, key, color in (("float64", "energy", "C0"), ("float64", "forces", "C1"), ("float32", "energy", "C2")):
        errors = values(dtype, key)
        ax.loglog(GRID_POINTS, errors, color=color, alpha=0.15, linewidth=0.7)
        ax.loglog(GRID_POINTS, np.median(errors, 1), "o-", color=color, label=f"{key}, {dtype}")
    guide = np.array(GRID_POINTS[1:], dtype=float)
    ax.loglog(guide, np.median(values("float64", "energy")[1]) * (guide / guide[0]) ** -4, "k--", label="points$^{-4}$")
    ax.set(xlabel="grid points", ylabel="deviation from exact filters, relative")
    ax.legend(fontsize="small")


def main():
    parser = make_parser(__doc__, plot=True)
    parser.add_argument("models", nargs="*", type=Path, help="files of trained models, beside the random ones")
    parser.add_argument("--structures", type=Path, help="structures for the trained models, any file that ASE reads")
    parser.add_argument("--count", type=int, default=20, help="structures")
    parser.add_argument("--seeds", type=int, default=3, help="random models of each kind")
    parser.add_argument("--features", type=int, nargs="+", default=[64, 128], help="sizes of the random models")
    options = parse(parser, dtype="float64 and float32")

    @cache
    def system_for(cutoff, file=None):
        if file is None:
            return Structures().qm9(options.count, cutoff)
        dataset = AtomsDataset(file, index=f":{options.count}")
        return make_system(str(file), dataset, range(len(dataset)), cutoff)

    studies = [
        list(study(name, model, system_for(model.cutoff)))
        for name, model in random_models(options.seeds, options.features)
    ]
    studies += [
        list(study(name, model, system_for(model.cutoff, options.structures)))
        for name, model in trained_models(options.models)
    ]
    rows = [row for found in studies for row in found]
    exponents = [exponent([row for row in found if row["dtype"] == "float64"]) for found in studies]

    print(f"Largest deviations of energies E and forces F over {len(studies)} models, on {options.count} structures")
    table = Table(
        {
            "filters": "{filters:15}",
            "E, float64": "{float64[energy]:.1e}",
            "F, float64": "{float64[forces]:.1e}",
            "F at one point per width": "{float64[at_width]:.4f}",
            "E at one point per width": "{float64[energy_at_width]:.4f}",
            "E, float32": "{float32[energy]:.1e}",
            "F, float32": "{float32[forces]:.1e}",
            "E, float32 from exact float64": "{float32[energy_float64]:.1e}",
            "F, float32 from exact float64": "{float32[forces_float64]:.1e}",
        }
    )
    for filters in (*_LABELS, *_GRIDS, "exact"):
        table.add(largest(rows, filters))
    print(
        f"\nEnergies err by the power {np.median(exponents):.2f} of the spacing "
        f"({min(exponents):.2f} to {max(exponents):.2f}; float64, median over models)"
    )
    save(options, {"models": rows, "largest": table.rows, "exponents": exponents}, dtype="float64 and float32")
    save_figure(options, partial(draw, rows))


if __name__ == "__main__":
    main()
