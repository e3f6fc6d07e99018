"""Make training data: frames of a molecule at finite temperature, with energies and forces from quantum chemistry.

Forces are those of GFN2-xTB, a semi-empirical method, by tblite (pip install pyg_schnet[reference]); a Langevin
thermostat holds the temperature.

Run: python examples/06_reference_data.py aspirin.xyz --frames 50000 --output aspirin.extxyz --temperature 300 500

Several walkers start from the relaxed molecule, each at its own temperature, evenly spaced between the two that are
given. Each of them samples the canonical ensemble of its temperature, which a ramp would not, and the file has all
temperatures however long it is. They take turns: frames are in time order, of walker 0, 1, 2, ..., 0, 1, 2, ... Frames
that follow each other in one walk are alike, as in MD17, and a random split as of pyg_schnet.data puts such neighbours
in training and test; the test error is that of new frames of the same walks. For aspirin, energies of a walker 10 fs
apart (20 steps) correlate by about 0.4, those 100 fs apart by less than 0.2. A step takes 8 to 9 ms on one core, so
that the command above needs about two and a half hours.

Energies are in eV and forces in eV/Å, in an extended XYZ file that pyg_schnet.data.AtomsDataset reads. Each frame has
its momenta too, with all digits, and its random numbers follow from the seed, the walker and its number. So the file
is all that --resume needs, and it comes out the same with and without interruptions, for any number of processes.
"""

import argparse
import contextlib
import functools
import io
import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import covalent_radii
from ase.md.langevin import Langevin
from ase.optimize import BFGS
from scipy.sparse.csgraph import connected_components

BOND = 1.3  # atoms are bonded when closer than this times the sum of their covalent radii
GAP = 6.0  # Å; a molecule has flown apart when no atom of one part is this close to the other


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("molecule", help="any file that ASE reads, or a name such as H2O")
    parser.add_argument("--frames", type=int, default=1000, help="number of frames in the file at the end")
    parser.add_argument("--output", type=Path, default=Path("frames.extxyz"), help="file of the frames")
    parser.add_argument("--resume", action="store_true", help="go on where the file ends, or begin if there is none")
    parser.add_argument(
        "--temperature", type=float, nargs="+", default=[300.0, 500.0], help="lowest and highest in K, or one for all"
    )
    parser.add_argument("--walkers", type=int, default=8, help="number of independent walks")
    parser.add_argument("--processes", type=int, default=1, help="that share the walkers; the frames stay the same")
    parser.add_argument("--every", type=int, default=20, help="steps from one frame of a walker to its next")
    parser.add_argument("--timestep", type=float, default=0.5, help="time step in fs")
    parser.add_argument("--friction", type=float, default=0.01, help="of the thermostat in 1/fs")
    parser.add_argument("--equilibration", type=int, default=2000, help="steps of each walker before its first frame")
    parser.add_argument("--seed", type=int, default=0, help="of velocities and thermostat")
    parser.add_argument("--method", choices=["GFN2-xTB", "GFN1-xTB"], default="GFN2-xTB", help="of tblite")
    parser.add_argument("--charge", type=int, default=0, help="of the molecule")
    parser.add_argument("--multiplicity", type=int, help="number of unpaired electrons + 1; default: the lowest")
    options = parser.parse_args()
    for name in ("frames", "walkers", "processes", "every", "timestep"):
        if getattr(options, name) <= 0:
            parser.error(f"--{name} must be positive, got {getattr(options, name)}")
    if len(options.temperature) > min(2, options.walkers) or min(options.temperature) <= 0:
        parser.error("--temperature takes one positive number, or two where there are two --walkers or more")
    if options.output.exists() and not options.resume:
        parser.error(f"{options.output} exists; --resume goes on with it")

    try:
        run(options)
    except KeyboardInterrupt:
        sys.exit("interrupted; --resume goes on")
    except (RuntimeError, ValueError) as error:
        sys.exit(f"stopped: {error}")


def run(options):
    given = read_molecule(options.molecule)
    multiplicity = options.multiplicity or 1 + int(given.numbers.sum() - options.charge) % 2
    given.info = {"method": options.method, "charge": options.charge, "multiplicity": multiplicity}
    make_calculator = functools.partial(xtb, options.method, options.charge, multiplicity)
    walk = Walk(
        temperatures=tuple(np.linspace(options.temperature[0], options.temperature[-1], options.walkers).tolist()),
        every=options.every,
        timestep=options.timestep,
        friction=options.friction,
        equilibration=options.equilibration,
        seed=options.seed,
    )
    start = relax(given, make_calculator)
    done, changed = 0, 0
    if options.resume and options.output.exists():
        done, changed, cut = repair(options.output, len(start))
        print(f"{done} frames are in {options.output}" + (f", {cut} bytes of a broken one cut off" if cut else ""))

    print(f"relaxed; {options.walkers} walkers of {len(start)} atoms start", flush=True)
    begin = last = time.monotonic()
    new, temperatures = 0, np.zeros((options.walkers, 2))
    for atoms in generate(options.output, options.frames, start, walk, make_calculator, options.processes):
        new += 1
        changed += bool(atoms.info["broken_bonds"] or atoms.info["formed_bonds"])
        temperatures[atoms.info["walker"]] += atoms.get_temperature(), 1
        now = time.monotonic()
        if new == 1:
            begin = last = now
        elif now - last > 60:
            last, left = now, (options.frames - done - new) * (now - begin) / (new - 1)
            print(f"{done + new} of {options.frames} frames, {left / 3600:.2f} hours to go", flush=True)

    print(f"{done + new} frames in {options.output}, {new} of them new")
    if new > 1:
        print(f"{1e3 * (time.monotonic() - begin) / ((new - 1) * walk.every):.2f} ms of wall time per step")
    for wanted, (total, count) in zip(walk.temperatures, temperatures, strict=True):
        if count:
            print(f"walker at {wanted:.0f} K: {total / count:.0f} K on average in {count:.0f} new frames")
    print(f"{changed} frames have other bonds than the relaxed molecule" + (": see broken_bonds" if changed else ""))


def xtb(method, charge, multiplicity):
    """A new calculator of tblite.

    It begins each self-consistent cycle with the electrons of the step before (``cache_api``), which takes a quarter
    off the time. At accuracy 0.1, what it begins with changes energies of aspirin by less than 1e-8 eV and forces by
    less than 1e-4 eV/Å, and so does a tighter accuracy.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a molecule is too small to be shared among threads
    try:
        from tblite.ase import TBLite
    except ImportError:
        sys.exit("tblite calculates the forces: pip install pyg_schnet[reference]")
    return TBLite(method=method, charge=charge, multiplicity=multiplicity, accuracy=0.1, cache_api=True, verbosity=0)


def read_molecule(source):
    """The first structure of a file, or a molecule that ASE knows by name; elements and positions alone."""
    if Path(source).exists():
        atoms = ase.io.read(source, index=0)
    else:
        try:
            atoms = molecule(source)
        except (KeyError, NotImplementedError):
            raise ValueError(f"{source} is neither a file nor a molecule that ase.build.molecule knows") from None
    if atoms.pbc.any():
        raise ValueError(f"{source} is periodic, but this is for molecules; set pbc to false if it is one in a box")
    return Atoms(atoms.numbers, atoms.positions)


def relax(atoms, make_calculator, fmax=0.02, steps=1000):
    """The molecule where its energy has a minimum: what bonds are compared with."""
    relaxed = atoms.copy()
    relaxed.calc = make_calculator()
    try:
        converged = BFGS(relaxed, logfile=None).run(fmax=fmax, steps=steps)
    except RuntimeError as error:
        raise RuntimeError(f"the calculator fails in the relaxation: {error}") from error
    broken, formed = changed_bonds(relaxed, atoms)
    if not converged:
        print(f"not relaxed to {fmax} eV/Å in {steps} steps; going on from there")
    if broken or formed:
        print(f"relaxation broke {broken} bonds and formed {formed}; bonds are compared with the relaxed molecule")
    relaxed.calc = None
    return relaxed


@dataclass(frozen=True)
class Walk:
    """How walkers move."""

    temperatures: tuple[float, ...]  # K, one for each walker
    every: int = 20  # steps from frame to frame
    timestep: float = 0.5  # fs
    friction: float = 0.01  # 1/fs
    equilibration: int = 2000  # steps
    seed: int = 0


def generate(
    path: Path, frames: int, start: Atoms, walk: Walk, make_calculator: Callable, processes: int = 1
) -> Iterator[Atoms]:
    """Append frames to a file until it has as many as wanted, and hand on each of them when it is written.

    Args:
        path: The file; if there, it has to end with a complete frame (:func:`repair`).
        frames: Number of frames in the file at the end.
        start: The relaxed molecule; its ``info`` goes into each frame.
        walk: How walkers move.
        make_calculator: Called for a new ASE calculator; to be pickled if there are several processes.
        processes: Number of processes that share the walkers.

    Raises:
        ValueError: If the frames in the file are not of these walkers.
        RuntimeError: If the calculator fails or the molecule flies apart; the message names the frame.
    """
    n_walkers = len(walk.temperatures)
    done, tail = last_frames(path, len(start), n_walkers)
    if tail:
        check_same_walks(tail, done, start, walk, make_calculator)
    path.parent.mkdir(parents=True, exist_ok=True)
    with workers(processes) as each, path.open("a", encoding="utf-8") as file:
        latest = {atoms.info["walker"]: atoms for atoms in tail}
        equilibrate = functools.partial(equilibrated, start=start, walk=walk, make_calculator=make_calculator)
        fresh = [walker for walker in range(min(n_walkers, frames)) if walker not in latest] if done < frames else []
        latest.update(zip(fresh, each(equilibrate, fresh), strict=True))
        move = functools.partial(next_frame, start=start, walk=walk, make_calculator=make_calculator)
        while done < frames:
            turn = range(done % n_walkers, min(n_walkers, done % n_walkers + frames - done))
            for atoms in each(move, [latest[walker] for walker in turn]):
                file.write(frame_text(atoms))
                file.flush()
                latest[atoms.info["walker"]] = atoms
                done += 1
                yield atoms


@contextlib.contextmanager
def workers(processes):
    """A ``map`` that works in several processes."""
    if processes == 1:
        yield map
        return
    ignore_interrupt = functools.partial(signal.signal, signal.SIGINT, signal.SIG_IGN)  # left to the first process
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn, initializer=ignore_interrupt) as pool:
        yield pool.map


def equilibrated(walker: int, start: Atoms, walk: Walk, make_calculator: Callable) -> Atoms:
    """Frame 0 of a walker, which is not kept: the relaxed molecule, heated and left alone for a while."""
    random = np.random.default_rng([walk.seed, walker, 0])
    temperature = walk.temperatures[walker]
    atoms = start.copy()
    atoms.info.update(walker=walker, frame=0, time=-walk.equilibration * walk.timestep, temperature=temperature)
    spread = np.sqrt(atoms.get_masses() * units.kB * temperature)[:, None]
    atoms.set_momenta(spread * random.standard_normal(size=(len(atoms), 3)))  # Maxwell-Boltzmann
    return moved(atoms, None, walk.equilibration, random, start, walk, make_calculator)


def next_frame(atoms: Atoms, start: Atoms, walk: Walk, make_calculator: Callable) -> Atoms:
    """The frame of a walker that follows.

    It depends on nothing but the frame before, its forces included: the calculator is new each time, so that it
    remembers no more than a run that goes on from the file.
    """
    walker, frame = atoms.info["walker"], atoms.info["frame"] + 1
    random = np.random.default_rng([walk.seed, walker, frame])
    forces = atoms.get_forces()
    atoms = atoms.copy()
    atoms.info["frame"] = frame
    return moved(atoms, forces, walk.every, random, start, walk, make_calculator)


def moved(atoms, forces, steps, random, start, walk, make_calculator):
    """Some steps later, with energy and forces."""
    name = "walker {walker}, frame {frame}".format(**atoms.info)
    atoms.positions -= atoms.get_center_of_mass()  # it diffuses, and float32 has most digits around the origin
    atoms.calc = make_calculator()
    # the thermostat acts on the molecule as a whole too, so the temperature is that of all 3 N velocities
    langevin = Langevin(
        atoms,
        walk.timestep * units.fs,
        temperature_K=atoms.info["temperature"],
        friction=walk.friction / units.fs,
        rng=random,
        fixcm=False,
    )
    try:
        for _ in range(steps):
            forces = langevin.step(forces)
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    except RuntimeError as error:
        raise RuntimeError(f"{name}: the calculator fails, {error}") from error
    if not (np.isfinite(energy) and np.isfinite(forces).all()):
        raise RuntimeError(f"{name}: energy or forces are not finite; try a smaller --timestep")
    if pieces(atoms) > pieces(start):
        raise RuntimeError(f"{name}: the molecule has flown apart; try a lower --temperature or a smaller --timestep")
    atoms.info["broken_bonds"], atoms.info["formed_bonds"] = changed_bonds(atoms, start)
    atoms.info["time"] += steps * walk.timestep
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


def bonds(atoms):
    """A matrix that is true once for each pair of bonded atoms."""
    radii = covalent_radii[atoms.numbers]
    return np.triu(atoms.get_all_distances() < BOND * (radii[:, None] + radii), k=1)


def changed_bonds(atoms, start):
    """Numbers of bonds that are broken and formed since the start."""
    before, after = bonds(start), bonds(atoms)
    return int((before & ~after).sum()), int((after & ~before).sum())


def pieces(atoms):
    """Number of parts that are far from each other."""
    return connected_components(atoms.get_all_distances() < GAP)[0]


def frame_text(atoms: Atoms) -> str:
    """A frame in extended XYZ, with the digits that give the same numbers back (those of ASE are eight decimals)."""
    info = {"energy": atoms.get_potential_energy(), **atoms.info}
    words = [f'{key}="{value}"' if isinstance(value, str) else f"{key}={value}" for key, value in info.items()]
    table = np.hstack([atoms.positions, atoms.get_momenta(), atoms.get_forces()]).tolist()
    lines = [" ".join([symbol, *map(repr, row)]) for symbol, row in zip(atoms.symbols, table, strict=True)]
    columns = 'Properties=species:S:1:pos:R:3:momenta:R:3:forces:R:3 pbc="F F F"'
    return "\n".join([str(len(atoms)), " ".join([columns, *words]), *lines, ""])


def repair(path: Path, n_atoms: int) -> tuple[int, int, int]:
    """Cut off a last frame that is not complete.

    Returns:
        The number of frames that are left, how many of them have other bonds than the start, and the number of bytes
        that were cut.
    """
    frames = list(scan(path, n_atoms))
    changed = sum(re.search(rb" (broken|formed)_bonds=[1-9]", comment) is not None for _, _, comment in frames)
    end = frames[-1][1] if frames else 0
    cut = path.stat().st_size - end
    if cut:
        os.truncate(path, end)
    return len(frames), changed, cut


def last_frames(path: Path, n_atoms: int, count: int) -> tuple[int, list[Atoms]]:
    """The number of frames in a file, which may be missing, and the last of them."""
    if not path.exists():
        return 0, []
    frames = list(scan(path, n_atoms))
    if not frames:
        return 0, []
    with path.open("rb") as file:
        file.seek(frames[-count:][0][0])
        return len(frames), ase.io.read(io.StringIO(file.read().decode()), index=":", format="extxyz")


def scan(path: Path, n_atoms: int) -> Iterator[tuple[int, int, bytes]]:
    """First byte, end and comment of each complete frame, which has a line end after its last line."""
    begin = 0
    with path.open("rb") as file:
        while True:
            lines = [file.readline() for _ in range(n_atoms + 2)]
            if lines[0].endswith(b"\n") and lines[0].strip() != str(n_atoms).encode():
                raise ValueError(f"{path} has no frame of {n_atoms} atoms at byte {begin}: {lines[0][:40]!r}")
            if not lines[-1].endswith(b"\n"):
                return
            end = begin + sum(map(len, lines))
            yield begin, end, lines[1]
            begin = end


def check_same_walks(tail, done, start, walk, make_calculator):
    """Whether frames of a file are of this molecule, these walkers and this calculator."""
    n_walkers = len(walk.temperatures)
    for number, atoms in enumerate(tail, done - len(tail)):
        found = (atoms.info.get("walker"), atoms.info.get("temperature"))
        wanted = (number % n_walkers, walk.temperatures[number % n_walkers])
        if found != wanted:
            raise ValueError(
                f"frame {number} of the file is of walker {found[0]} at {found[1]} K, not {wanted[0]} at {wanted[1]} K;"
                " resume with the same --walkers and --temperature"
            )
        if list(atoms.symbols) != list(start.symbols):
            raise ValueError(f"frame {number} of the file is of {atoms.symbols}, not of {start.symbols}")
    again = Atoms(start.numbers, tail[-1].positions, calculator=make_calculator())
    difference = again.get_potential_energy() - tail[-1].get_potential_energy()
    if abs(difference) > 1e-4:
        raise ValueError(
            f"the energy of the last frame is now {difference:+.4f} eV from that in the file; "
            "resume with the same --method, --charge and --multiplicity"
        )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a kill ends all processes, as an interrupt does
    main()
