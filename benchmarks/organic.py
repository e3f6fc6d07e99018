"""How good and how fast is a potential on organic molecules that it has not learned from, beside its labels' method?

Run: python benchmarks/organic.py errors --sets FOLDER/test FOLDER/3bpa --json errors.json
     python benchmarks/organic.py vibrations --molecules 20
     python benchmarks/organic.py dynamics --molecules 10 --picoseconds 100 --of_reference 20
     python benchmarks/organic.py speed --threads 1

Molecules are those of QM9 that ``pyg-schnet reference-data`` holds out; sets are folders that it has made. Needs the
extras ``reference`` and ``qm9``.
"""

import itertools
import time
from pathlib import Path

import numpy as np
import torch
from ase import Atoms, units
from ase.build import minimize_rotation_and_translation
from ase.calculators.calculator import Calculator, all_changes
from ase.optimize import BFGS
from ase.vibrations import VibrationsData
from bonds import Bonds, lengths_of, median, outside
from harness import BURST, CLOCKS, Table, make_parser, parse, ratio, save, spread, summary, time_in_turn

from pyg_schnet.data import ReferenceData
from pyg_schnet.data.reference import Method, ThermalModel, from_qm9, load_qm9
from pyg_schnet.data.reference.langevin import walk
from pyg_schnet.data.reference.relaxation import Visited
from pyg_schnet.data.reference.topology import Topology
from pyg_schnet.data.shards import KIND_NAMES
from pyg_schnet.interfaces import Committee, SchNetCalculator
from pyg_schnet.units import factor

KCAL = factor("kcal/mol", "eV")
_LARGE = range(18, 25)  # atoms of the molecules that are timed
_FRAMES = 500  # of each picosecond of dynamics are looked at


class ByMethod(Calculator):
    """A method of the labels as a calculator of ASE.

    Args:
        method: The method.
    """

    implemented_properties = ("energy", "forces")

    def __init__(self, method):
        super().__init__()
        self._method, self._numbers = method, None

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        """As ASE has it."""
        super().calculate(atoms, properties, system_changes)
        if self._numbers is None or not np.array_equal(self._numbers, atoms.numbers):
            self._numbers, self._evaluate = atoms.numbers.copy(), self._method.of(atoms.numbers)
        energy, forces = self._evaluate(atoms.positions)
        self.results = {"energy": energy, "forces": forces}


def held_out(options, sizes=range(1000)):
    """Some held-out molecules of QM9, in their order, whose numbers of atoms are among some."""
    chosen = from_qm9(load_qm9(options.qm9_dir), 2000, "test").molecules
    chosen = [one for one in chosen if len(one.numbers) in sizes][options.skip :][: options.molecules]
    return [(one.name, Atoms(one.numbers, one.positions)) for one in chosen]


# ---------------------------------------------------------------------------------------------------------- errors


def errors(options):
    """Errors of energies and forces on each set, and on each kind of geometry where a set has several."""
    committee = Committee(options.model, dtype=torch.float32)
    table = Table({
        "set": "{set}",
        "structures": "{structures}",
        "energy, kcal/mol": "{energy:.3f}",
        "within a molecule": "{within:.3f}",
        "meV/atom": "{per_atom:.2f}",
        "forces, kcal/mol/Å": "{forces:.3f}",
        "one model": "{one:.3f}",
        "within 1 σ": "{sigma[0]:.2f}",
        "within 2 σ": "{sigma[1]:.2f}",
    })  # fmt: skip
    for folder in options.sets:
        data = ReferenceData(folder)
        name, kinds = Path(folder).name, sorted({int(one.kind) for one in data})
        table.add({"set": name, **_errors(committee, list(data))})
        for kind in kinds if len(kinds) > 1 else ():
            chosen = [one for one in data if int(one.kind) == kind]
            table.add({"set": f"{name}, {KIND_NAMES[kind]}", **_errors(committee, chosen)})
    return table.rows


def _errors(committee, structures, size=100):
    """Errors of the mean of some models, and how many lie within its calibrated deviations."""
    energy, forces, single, inside = [], [], [], []
    for k in range(0, len(structures), size):
        part = structures[k : k + size]
        batch = torch.repeat_interleave(torch.arange(len(part)), torch.tensor([len(one.z) for one in part]))
        z, pos = torch.cat([one.z for one in part]), torch.cat([one.pos for one in part])
        found = committee(z, pos, batch, len(part))
        label = torch.cat([one.forces for one in part])
        energy.append(found.energy.double().mean(0) - torch.cat([one.energy for one in part]))
        forces.append((found.forces.mean(0) - label).abs().view(-1))
        single.append((found.forces - label).abs().flatten(1).mean(1, keepdim=True).expand(-1, len(label)))
        if len(committee) > 1:
            sigma = committee.calibrated(found).forces.std(0, unbiased=False).view(-1)
            inside.append(torch.stack([forces[-1] <= sigma, forces[-1] <= 2 * sigma]))
    error, atoms = torch.cat(energy), torch.tensor([len(one.z) for one in structures])
    molecule = torch.tensor([int(one.molecule) for one in structures]).unique(return_inverse=True)[1]
    mean = torch.bincount(molecule, error) / torch.bincount(molecule)
    row = {
        "structures": len(structures),
        "energy": float(error.abs().mean()) / KCAL,
        "within": float((error - mean[molecule]).abs().mean()) / KCAL,
        "per_atom": 1e3 * float((error.abs() / atoms).mean()),
        "forces": float(torch.cat(forces).mean()) / KCAL,
        "one": float(torch.cat(single, 1).mean()) / KCAL,
    }
    return row | ({"sigma": torch.cat(inside, 1).float().mean(1).tolist()} if inside else {})


# ------------------------------------------------------------------------------------------------------ vibrations


def vibrations(options):
    """Minima and frequencies of the model beside those of the method."""
    method = Method(options.method)
    table = Table({
        "molecule": "{molecule}",
        "atoms": "{atoms}",
        "distance of minima, Å": "{rmsd:.4f}",
        "bonds, mÅ": "{bonds:.2f}",
        "frequencies, cm⁻¹": "{frequencies:.1f}",
        "zero-point energy, meV": "{zero_point:.1f}",
    })  # fmt: skip
    for name, atoms in held_out(options):
        found = []
        for calculator in (ByMethod(method), SchNetCalculator(options.model)):
            relaxed = (found[0][0] if found else atoms).copy()
            relaxed.calc = calculator
            BFGS(relaxed, logfile=None).run(fmax=0.005, steps=1000)
            found.append((relaxed, _frequencies(relaxed)))
        (first, of_method), (second, of_model) = found
        bonds = Topology(first.numbers, first.positions).bonds
        lengths = [lengths_of(bonds, one.positions) for one in (first, second)]
        minimize_rotation_and_translation(first, second)
        table.add({
            "molecule": name,
            "atoms": len(atoms),
            "rmsd": float(np.sqrt(((first.positions - second.positions) ** 2).sum(1).mean())),
            "bonds": 1e3 * float(abs(lengths[0] - lengths[1]).mean()),
            "frequencies": float(abs(of_method - of_model).mean()),
            "zero_point": 1e3 * units.invcm * float(of_model.sum() - of_method.sum()) / 2,
        })  # fmt: skip
    keys = ("rmsd", "bonds", "frequencies", "zero_point")
    means = {key: float(np.mean([abs(row[key]) for row in table.rows])) for key in keys}
    table.add({"molecule": "mean of sizes", "atoms": "–", **means})
    return table.rows


def _frequencies(atoms, step=0.01):
    """Frequencies in cm⁻¹, without the six lowest; from differences of forces, by the same steps for both."""
    hessian = np.empty((3 * len(atoms), 3 * len(atoms)))
    place = atoms.positions.copy()
    for k in range(hessian.shape[0]):
        forces = []
        for sign in (1, -1):
            moved = place.copy()
            moved.flat[k] += sign * step
            atoms.positions = moved
            forces.append(atoms.get_forces().ravel())
        hessian[k] = (forces[1] - forces[0]) / (2 * step)
    atoms.positions = place
    values = VibrationsData.from_2d(atoms, (hessian + hessian.T) / 2).get_frequencies()
    return np.sort(values.real - values.imag)[6:]


# -------------------------------------------------------------------------------------------------------- dynamics


def dynamics(options):
    """Do molecules stay whole, and which bonds leave the range that they have in dynamics of the method?"""
    method, molecules = Method(options.method), held_out(options)
    ranges, frames = [], max(1, round(_FRAMES * options.of_reference))
    for k, (_, atoms) in enumerate(molecules):
        bonds = Bonds([(0, Topology(atoms.numbers, atoms.positions).bonds)], frames)
        simulate(method.of(atoms.numbers), atoms, bonds, options.of_reference, options, seed=k)
        ranges.append(bonds)
    together, parts = Atoms(), []
    for _, atoms in molecules:
        parts.append((len(together), Topology(atoms.numbers, atoms.positions).bonds))
        together += atoms
    evaluate = of_all(Committee(options.model, dtype=torch.float32), [atoms for _, atoms in molecules])
    bonds, rows, begin = Bonds(parts, frames), [], time.perf_counter()

    def report(picoseconds):
        rows[:] = [{**row, "picoseconds": picoseconds} for row in _ranges(molecules, ranges, bonds)]
        each = 1e3 * (time.perf_counter() - begin) / ((picoseconds + 1) * 1e3 / options.timestep)
        print(f"\n{picoseconds:g} ps of each by the model, {each:.2f} ms a step of all molecules", flush=True)
        save(options, rows)

    simulate(evaluate, together, bonds, options.picoseconds, options, seed=len(molecules), report=report)
    return rows


def of_all(committee, molecules):
    """Energy and forces of molecules that are evaluated together, the mean of some models.

    Args:
        committee: The models.
        molecules: The molecules, whose atoms follow each other.
    """
    sizes = [len(atoms) for atoms in molecules]
    z = torch.from_numpy(np.concatenate([atoms.numbers for atoms in molecules]))
    first, owner = np.cumsum([0, *sizes[:-1]]), np.repeat(np.arange(len(sizes)), sizes)
    batch = torch.from_numpy(owner)

    def evaluate(positions):
        middle = np.add.reduceat(positions, first) / np.array(sizes)[:, None]  # float32 is exact near the origin
        found = committee(z, torch.from_numpy(positions - middle[owner]), batch, len(sizes))
        return float(found.energy.sum()) / len(committee), found.forces.mean(0).double().numpy()

    return evaluate


def simulate(evaluate, atoms, bonds, picoseconds, options, seed, report=None):
    """Langevin dynamics; bonds are looked at in every second femtosecond, after a first picosecond.

    Args:
        evaluate: Energy and forces.
        atoms: Where to begin.
        bonds: What looks at them.
        picoseconds: Their number.
        options: Temperature and time step.
        seed: Of random numbers.
        report: Called with the picoseconds so far, every hundred of them and at the end.
    """
    start = Visited(atoms.positions, *evaluate(atoms.positions))
    steps = walk(
        evaluate, atoms.numbers, start, options.temperature, np.random.default_rng(seed),
        every=round(1e3 / _FRAMES / options.timestep), timestep=options.timestep, friction=0.01,
    )  # fmt: skip
    looks = round(_FRAMES * picoseconds)
    for k, frame in enumerate(itertools.islice(steps, _FRAMES, _FRAMES + looks), start=1):
        bonds.look(frame.positions)
        if report is not None and (k == looks or k % (100 * _FRAMES) == 0):
            report(k / _FRAMES)


def _ranges(molecules, ranges, bonds):
    """Bonds of each molecule beside those of the method, at any time and in stretches as long as the method's."""
    table = Table({
        "molecule": "{molecule}",
        "formula": "{formula}",
        "bonds": "{bonds}",
        "longest above the method's, Å": "{above:.3f}",
        "shortest below, Å": "{below:.3f}",
        "outside in equal time, Å": "{equal:.3f}",
        "outside each other's, Å": "{own:.3f}",
        "longest, of its length in QM9": "{stretch:.2f}",
    })  # fmt: skip
    first, ever = 0, bonds.range
    for (name, atoms), reference in zip(molecules, ranges, strict=True):
        here = slice(first, first + len(reference.bonds))
        first = here.stop
        (low, high), by_method = ever[:, here], reference.range
        stretches = [one[:, here] for one in bonds.whole]
        pairs = itertools.permutations(stretches, 2)
        table.add({
            "molecule": name,
            "formula": atoms.get_chemical_formula(),
            "bonds": len(reference.bonds),
            "above": float((high - by_method[1]).max()),
            "below": float((by_method[0] - low).max()),
            "equal": median(outside(one, by_method) for one in stretches),
            "own": median(outside(one, other) for one, other in pairs),
            "stretch": float((high / lengths_of(reference.bonds, atoms.positions)).max()),
        })  # fmt: skip
    return table.rows


# ----------------------------------------------------------------------------------------------------------- speed


def speed(options):
    """Energies and forces of molecules that move: one after the other, and a batch of them, beside the method."""
    molecules = [atoms for _, atoms in held_out(options, _LARGE)]
    random = np.random.default_rng(0)
    frames = [
        [ThermalModel(one.numbers, one.positions).displaced([300.0], random)[0] for one in molecules] for _ in range(3)
    ]
    turn = iter(range(10**9))
    method = Method(options.method)
    evaluate = [method.of(one.numbers) for one in molecules]
    committee = Committee(options.model, dtype=torch.float32)
    for one in molecules:
        one.calc = SchNetCalculator(options.model, dtype=torch.float32)
    together = of_all(committee, molecules)

    def by_method():
        for one, positions in zip(evaluate, frames[next(turn) % 3], strict=True):
            one(positions)

    def one_by_one():
        for one, positions in zip(molecules, frames[next(turn) % 3], strict=True):
            one.positions = positions
            one.get_forces()

    def at_once():
        together(np.concatenate(frames[next(turn) % 3]))

    ways = {"method": by_method, "single": one_by_one, "batch": at_once}
    rounds = {"warmup": 2, "burst": BURST, "clock": CLOCKS[options.clock]}
    times = {
        name: [one / len(molecules) for one in values]
        for name, values in time_in_turn(ways, options.repeats, **rounds).items()
    }
    table = Table({
        "models": "{models}",
        "method, ms": spread("method", 2),
        "calculator, ms": spread("single", 2),
        f"{len(molecules)} at once, each": spread("batch", 3),
        "x calculator": spread("of_single"),
        "x batch": spread("of_batch"),
    })  # fmt: skip
    row = {name: summary(values) for name, values in times.items()}
    row |= {f"of_{name}": ratio(times["method"], times[name]) for name in ("single", "batch")}
    table.add({"models": len(committee), **row})
    return table.rows


PARTS = {"errors": errors, "vibrations": vibrations, "dynamics": dynamics, "speed": speed}


def main(arguments=None):
    parser = make_parser(__doc__, repeats=10)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--model", nargs="+", default=["organic-gfn2"], help="model file, pretrained one, or several")
    parser.add_argument("--method", default="GFN2-xTB", help="as pyg-schnet reference-data has it")
    parser.add_argument("--sets", nargs="+", default=[], help="folders of labelled structures")
    parser.add_argument("--molecules", type=int, default=10, help="number of held-out molecules of QM9")
    parser.add_argument("--skip", type=int, default=0, help="so many of them are left out first, for other processes")
    parser.add_argument("--qm9_dir", help="folder of QM9's cache")
    parser.add_argument("--picoseconds", type=float, default=100.0, help="of dynamics by the model")
    parser.add_argument("--of_reference", type=float, default=20.0, help="picoseconds of dynamics by the method")
    parser.add_argument("--temperature", type=float, default=300.0, help="of dynamics, in K")
    parser.add_argument("--timestep", type=float, default=0.5, help="in fs")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: time of all threads, where other programs share the cores"
    )
    options = parse(parser) if arguments is None else parser.parse_args(arguments)
    rows = PARTS[options.part](options)
    save(options, rows)
    return rows


if __name__ == "__main__":
    main()
