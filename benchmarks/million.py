"""What do energy, forces and stress of a million atoms take, in memory and time, and does an atom cost the same?

Each size of a silicon crystal runs in a process of its own, as a simulation would do it: neighbours are searched, and a
``Potential`` evaluates the model: 128 features, 6 blocks and a cutoff of 5 Å unless told otherwise. Peaks are those
of resident memory, from ``/proc``, so this runs on Linux: of the search and of the evaluation above the level before
it, and of the whole process. Time is that of the processors, since other programs may share them; the first evaluation
is timed, in memory that the system has to give. The forces of the smallest crystal are compared with those of the
program that keeps all activations.

Run: python benchmarks/million.py --cells 11 23 50 --json million.json
"""

import time

import torch
from harness import Table, make_parser, parse, save
from memory import in_fresh_process, reset_peak, resident
from systems import silicon_atoms

from pyg_schnet import SchNet, radius_graph
from pyg_schnet.backends import tuning
from pyg_schnet.potential import Potential

TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-9}
_ALL_KEPT = 10**9  # number of atoms from which on activations are recomputed
_SMALL = 8  # cells along each edge of a crystal that compiles, or loads, all that is needed


class Measured:
    """Seconds of all processors, and MiB of memory, of what is done inside."""

    def __enter__(self):
        reset_peak()
        self._level, self._begin = resident("VmRSS"), time.process_time()
        return self

    def __exit__(self, *_):
        self.seconds = time.process_time() - self._begin
        self.peak = resident("VmHWM") - self._level
        self.process = resident("VmHWM")


def inputs(cells, dtype):
    """Atomic numbers, positions and lattice of a rattled crystal."""
    atoms = silicon_atoms(cells)
    lattice = {"cell": torch.from_numpy(atoms.cell.array).to(dtype)[None], "pbc": torch.ones(1, 3, dtype=torch.bool)}
    return torch.from_numpy(atoms.numbers).long(), torch.from_numpy(atoms.positions).to(dtype), lattice


def measure(cells, options, compare=False):
    """The row of one size."""
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    dtype = torch.float64 if options.double else torch.float32
    model = SchNet(options.features, options.features, options.blocks, 50, options.cutoff)
    potential = Potential(model, "eV", dtype=dtype)
    z, pos, lattice = inputs(_SMALL, dtype)
    edge_index, edge_shift = radius_graph(pos, options.cutoff, **lattice)
    for atoms in (1, _ALL_KEPT) if compare else (1,):
        with tuning.changed(recompute_atoms=atoms):
            potential(z, pos, edge_index=edge_index, edge_shift=edge_shift, **lattice, stress=True)
    z, pos, lattice = inputs(cells, dtype)
    with Measured() as search:
        edge_index, edge_shift = radius_graph(pos, options.cutoff, **lattice)
    graph = {"edge_index": edge_index, "edge_shift": edge_shift, **lattice}
    with Measured() as evaluation:
        found = potential(z, pos, **graph, stress=True)
    row = {
        "atoms": len(z),
        "edges": edge_index.size(1),
        "program": potential.model.plan(z, pos, **graph, forces=True).program if compare else "large",
        "search_us": 1e6 * search.seconds / len(z),
        "search_kib": 1024 * search.peak / len(z),
        "seconds": evaluation.seconds,
        "us": 1e6 * evaluation.seconds / len(z),
        "kib": 1024 * evaluation.peak / len(z),
        "gib": max(search.process, evaluation.process) / 1024,
        "energy": float(found.energy) / len(z),
        "net_force": float(found.forces.sum(0).norm() / found.forces.norm()),
    }
    if compare:
        with tuning.changed(recompute_atoms=_ALL_KEPT), Measured() as kept:
            expected = potential(z, pos, **graph, stress=True)
        row["kept_us"], row["kept_kib"] = 1e6 * kept.seconds / len(z), 1024 * kept.peak / len(z)
        row["deviation"] = float((found.forces - expected.forces).abs().max() / expected.forces.abs().max())
        if not row["deviation"] <= TOLERANCES[dtype]:
            raise SystemExit(f"forces differ by {row['deviation']:.1e}; allowed: {TOLERANCES[dtype]}")
    return row


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=[11, 23, 50], help="along each edge, of eight atoms")
    parser.add_argument("--features", type=int, default=128)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--cutoff", type=float, default=5.0, help="in Å")
    parser.add_argument("--double", action="store_true", help="float64 instead of float32")
    parser.add_argument("--compare-up-to", type=int, default=100_000, help="atoms whose activations are also kept")
    options = parse(parser)
    table = Table(
        {
            "atoms": "{atoms:8}",
            "search [µs/atom]": "{search_us:.1f}",
            "search [KiB/atom]": "{search_kib:.1f}",
            "energy, forces, stress [s]": "{seconds:.1f}",
            "[µs/atom]": "{us:.1f}",
            "[KiB/atom]": "{kib:.1f}",
            "kept [µs/atom]": "{kept_us:.1f}",
            "kept [KiB/atom]": "{kept_kib:.1f}",
            "process [GiB]": "{gib:.2f}",
        }
    )
    for cells in options.cells:
        table.add(in_fresh_process(measure, cells, options, 8 * cells**3 <= options.compare_up_to))
    save(options, table.rows)


if __name__ == "__main__":
    main()
