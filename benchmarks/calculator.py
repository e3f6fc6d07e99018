"""What does the ASE calculator cost beyond the model, and how do its dynamics compare with PyTorch Geometric's SchNet?

Overhead: ``get_forces()`` after a move, less the same potential called with tensors, medians in one process. Dynamics:
velocity Verlet of ASE with our calculator, and with one of PyTorch Geometric's SchNet with the same weights
(``activate_filters=False``) that builds its list in every step: by ``radius_graph`` of torch-cluster with
``--list pyg``, where it is installed, otherwise by that of this package, which is faster.

Run: python benchmarks/calculator.py --threads 1 --json calculator.json
"""

import time
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import units
from ase.calculators.calculator import Calculator, all_changes
from ase.md.verlet import VelocityVerlet
from harness import CLOCKS, Table, make_parser, parse, ratio, save, spread, summary, time_in_turn
from peers import pyg_model

from pyg_schnet import InteractionGraph, SchNet
from pyg_schnet.interfaces import SchNetCalculator

ASPIRIN = Path(__file__).parents[1] / "examples" / "aspirin.xyz"
CUTOFF = 5.0  # Å
_TOLERANCE = {"float64": 1e-5, "float32": 1e-4}  # of the largest force; splined filters have 1e-5


class PyGCalculator(Calculator):
    """Energies and forces of PyTorch Geometric's SchNet in eV, as one writes it in a few lines."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 - as ASE has it

    def __init__(self, model, dtype):
        super().__init__()
        self.model, self.dtype = model.to(dtype).eval().requires_grad_(False), dtype

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        """Energy and forces, whatever is asked for."""
        super().calculate(atoms, properties, system_changes)
        z = torch.from_numpy(self.atoms.numbers.astype(np.int64))
        pos = torch.tensor(self.atoms.positions, dtype=self.dtype, requires_grad=True)
        energy = self.model(z, pos, torch.zeros_like(z)).sum()
        (gradient,) = torch.autograd.grad(energy, pos)
        self.results = {"energy": energy.item(), "forces": -gradient.double().numpy()}


def pair_of_calculators(dtype, features=128, graph="exact"):
    """Ours, and PyTorch Geometric's with the same weights."""
    theirs = pyg_model(CUTOFF, features, InteractionGraph(CUTOFF) if graph == "exact" else None)
    ours = SchNet.from_pyg(theirs)
    return SchNetCalculator(ours, unit="eV", dtype=dtype), PyGCalculator(theirs, dtype)


def check(atoms, ours, theirs, tolerance):
    """Largest difference of forces over the largest force; stops where it is too large."""
    one, other = (calculator.get_forces(atoms) for calculator in (ours, theirs))
    deviation = np.abs(one - other).max() / np.abs(other).max()
    if not deviation <= tolerance:
        raise SystemExit(f"forces differ by {deviation:.1e} of the largest one, expected at most {tolerance:.0e}")
    return float(deviation)


def overhead(atoms, calculator, repeats, clock=time.perf_counter):
    """Milliseconds of forces after a move, of the potential's own call, of its model's; and the differences.

    Those of the fastest calls of each are for machines that are busy with other things.
    """
    potential, rng = calculator.members.potentials[0], np.random.default_rng(0)
    start, z = atoms.positions.copy(), torch.from_numpy(atoms.numbers.astype(np.int64))
    atoms.calc = calculator
    ways = {
        "forces": lambda pos: atoms.get_forces(),
        "potential": lambda pos: potential(z, pos),
        "model": lambda pos: potential.model.energy_and_gradients(z, pos),
    }
    times = {name: [] for name in ways}
    for k in range(repeats + 20):
        for name, way in ways.items():
            atoms.positions[:] = start + 0.01 * rng.standard_normal(start.shape)
            pos = torch.tensor(atoms.positions, dtype=calculator.dtype)
            begin = clock()
            way(pos)
            if k >= 20:
                times[name].append(1e3 * (clock() - begin))
    found = {name: {**summary(values), "fastest": min(values)} for name, values in times.items()}
    for name in ("potential", "model"):
        for part, key in (("median", f"beyond_{name}"), ("fastest", f"fastest_beyond_{name}")):
            found[key] = found["forces"][part] - found[name][part]
    return found


def dynamics(atoms, calculators, repeats, burst, clock=time.perf_counter):
    """Milliseconds of a step of velocity Verlet by calculator, in turn."""
    ways = {}
    for name, calculator in calculators.items():
        copy = atoms.copy()
        copy.calc = calculator
        noise = np.random.default_rng(0).standard_normal((len(copy), 3))
        copy.set_momenta(noise * np.sqrt(copy.get_masses() * units.kB * 1.0)[:, None])  # 1 K
        ways[name] = VelocityVerlet(copy, 0.1 * units.fs).step
    return time_in_turn(ways, repeats, burst=burst, clock=clock)


def main():
    parser = make_parser(__doc__.split("?")[0] + "?", repeats=20)
    parser.add_argument(
        "--list", choices=("exact", "pyg"), default="exact", help="which neighbour list PyG's model has"
    )
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: time of all threads, where other programs share the cores"
    )
    parser.add_argument("--burst", type=float, default=0.2, help="seconds of steps in a turn")
    options = parse(parser, dtype="float64, float32")
    atoms, results = ase.io.read(ASPIRIN), []
    table = Table(
        {
            "dtype": "{dtype:8}",
            "get_forces [ms]": spread("forces", 3),
            "potential [ms]": spread("potential", 3),
            "beyond the potential, fastest [ms]": "{beyond_potential:.3f}, {fastest_beyond_potential:.3f}",
            "beyond the model, fastest [ms]": "{beyond_model:.3f}, {fastest_beyond_model:.3f}",
            "steps/s": spread("steps", 0),
            "steps/s over PyG's": spread("ratio"),
        }
    )
    for dtype in (torch.float64, torch.float32):
        name = str(dtype).removeprefix("torch.")
        ours, theirs = pair_of_calculators(dtype, graph=options.list)
        deviation = check(atoms, ours, theirs, _TOLERANCE[name])
        costs = overhead(atoms.copy(), ours, 15 * options.repeats, CLOCKS[options.clock])
        times = dynamics(atoms, {"PyG": theirs, "ours": ours}, options.repeats, options.burst, CLOCKS[options.clock])
        steps = summary([1e3 / value for value in times["ours"]])
        row = {**costs, "dtype": name, "deviation": deviation, "steps": steps}
        row["ratio"] = ratio(times["PyG"], times["ours"])
        table.add(row)
        results.append(row)
    save(options, results)


if __name__ == "__main__":
    main()
