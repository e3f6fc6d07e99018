"""How fast is the neighbour search, and does its cost per atom stay flat?

Every case first checks that the graphs compared are equal, then times them in turns, so that a disturbance hits all of
them, and prints medians in milliseconds and ratios. ``python benchmarks/neighbors.py --json neighbors.json``
"""

import statistics
from functools import partial

import ase
import numpy as np
import torch
import vesin
from ase.neighborlist import neighbor_list
from harness import make_parser, parse, save, save_figure, time_in_turn
from systems import silicon_atoms

from pyg_schnet.neighbors import VerletList, radius_graph
from pyg_schnet.neighbors.brute import edge_tuples

CUTOFF = 5.0  # Å
TRUE = torch.tensor([True, True, True])


def report(rows, case, n_atoms, n_edges, dtype, times, reference):
    """Print and keep medians, and the median over rounds of the ratio to the reference."""
    print(f"\n{case}: {n_atoms} atoms, {n_edges} edges, {dtype}, {len(times[reference])} rounds")
    for name, values in times.items():
        ratio = statistics.median(a / b for a, b in zip(values, times[reference], strict=True))
        median, best = statistics.median(values), min(values)
        print(f"  {name:28s} median {median:10.3f} ms   best {best:10.3f} ms   ratio to {reference}: {ratio:6.2f}")
        rows.append(
            {
                "case": case,
                "method": name,
                "n_atoms": n_atoms,
                "n_edges": n_edges,
                "dtype": dtype,
                "median_ms": median,
                "best_ms": best,
                "reference": reference,
                "ratio": ratio,
            }
        )


def edge_keys(edge_index, edge_shift):
    """One sorted integer for each edge, to compare large graphs."""
    n = int(edge_index.max()) + 1
    key = edge_index[1].clone().mul_(n).add_(edge_index[0])
    for column in edge_shift.long().unbind(1):
        key = key.mul_(7).add_(column + 3)  # at most three images in each direction
    return key.sort()[0]


def silicon(count):
    """Positions and cell of rattled silicon in float64."""
    atoms = silicon_atoms(count)
    return torch.from_numpy(atoms.positions), torch.from_numpy(np.array(atoms.cell))


def vesin_list(pos, cell):
    search = vesin.NeighborList(cutoff=CUTOFF, full_list=True, sorted=True)
    return search.compute(pos, cell, True, "ijS")


def check_vesin(graph, pos, cell):
    """Stop unless a graph equals vesin's list."""
    i, j, shift = vesin_list(pos, cell)
    theirs = torch.from_numpy(np.stack([j, i]).astype(np.int64)), torch.from_numpy(shift)
    if not torch.equal(edge_keys(*graph), edge_keys(*theirs)):
        raise SystemExit("graphs differ from vesin's list")


def large_crystal(rows, repeat, repeats):
    pos, cell = silicon(repeat)
    methods = {"vesin sorted ijS": lambda: vesin_list(pos.numpy(), cell.numpy())}
    for dtype in (torch.float64, torch.float32):
        p, c = pos.to(dtype), cell.to(dtype)
        for backend in ("auto", "torch"):
            graph = radius_graph(p, CUTOFF, cell=c, pbc=TRUE, backend=backend)
            if dtype == torch.float64:
                check_vesin(graph, pos.numpy(), cell.numpy())
            methods[f"radius_graph {backend} {str(dtype)[6:]}"] = lambda p=p, c=c, backend=backend: radius_graph(
                p, CUTOFF, cell=c, pbc=TRUE, backend=backend
            )
    neighbors = VerletList(CUTOFF, skin=0.5)
    if not torch.equal(
        edge_keys(*neighbors(pos, cell, TRUE)), edge_keys(*radius_graph(pos, CUTOFF, cell=cell, pbc=TRUE))
    ):
        raise SystemExit("VerletList differs from radius_graph")
    methods["VerletList reused float64"] = lambda: neighbors(pos, cell, TRUE)
    report(
        rows, "large crystal", len(pos), graph[0].size(1), "float64", time_in_turn(methods, repeats), "vesin sorted ijS"
    )


def crystal_batch(rows, repeats, n_crystals=64):
    torch.manual_seed(0)
    cell = torch.eye(3) * (4.0 + 0.1 * torch.randn(n_crystals, 1, 1))
    sites = torch.tensor([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    pos = (sites @ cell + 0.05 * torch.randn(n_crystals, 5, 3)).reshape(-1, 3)
    batch, pbc = torch.arange(n_crystals).repeat_interleave(5), TRUE.expand(n_crystals, 3)

    def graph(backend="auto"):
        return radius_graph(pos, CUTOFF, batch, cell=cell, pbc=pbc, backend=backend)

    def with_ase():
        systems = [ase.Atoms("H5", pos[batch == k].numpy(), cell=cell[k].numpy(), pbc=True) for k in range(n_crystals)]
        return [neighbor_list("ijS", atoms, CUTOFF) for atoms in systems]

    if edge_tuples(*graph()) != edge_tuples(*graph("vesin")):
        raise SystemExit("backends differ")
    ours = [len(shift) for _, _, shift in with_ase()]
    if ours != batch[graph()[0][1]].bincount().tolist():
        raise SystemExit("number of edges differs from ASE")
    methods = {"radius_graph auto": graph, "radius_graph vesin": lambda: graph("vesin")}
    times = time_in_turn(methods, repeats) | time_in_turn({"ASE, one by one": with_ase}, 1)
    times["ASE, one by one"] *= repeats
    report(rows, "64 perovskites", len(pos), graph()[0].size(1), "float32", times, "radius_graph auto")


def molecule_batch(rows, repeats):
    torch.manual_seed(0)
    pos, batch = torch.randn(1800, 3) * 2.0, torch.arange(100).repeat_interleave(18)
    methods = {
        backend: lambda backend=backend: radius_graph(pos, CUTOFF, batch, backend=backend)
        for backend in ("torch", "vesin", "torch_cluster")
    }
    try:
        methods["torch_cluster"]()
    except ImportError:
        del methods["torch_cluster"]
    if len({str(edge_tuples(method())) for method in methods.values()}) != 1:
        raise SystemExit("backends differ")
    report(
        rows, "100 molecules", len(pos), methods["torch"]().size(1), "float32", time_in_turn(methods, repeats), "torch"
    )


def scaling(rows, max_atoms, repeats):
    """Microseconds per atom from 1,000 to ``max_atoms`` atoms, float32."""
    print("\nscaling: microseconds per atom, silicon, float32")
    points = {}
    for repeat in (5, 8, 11, 16, 23, 34, 50):
        pos, cell = (x.float() for x in silicon(repeat))
        if len(pos) > max_atoms:
            break
        methods = {
            "periodic auto": lambda p=pos, c=cell: radius_graph(p, CUTOFF, cell=c, pbc=TRUE),
            "periodic torch": lambda p=pos, c=cell: radius_graph(p, CUTOFF, cell=c, pbc=TRUE, backend="torch"),
            "open torch": lambda p=pos: radius_graph(p, CUTOFF, backend="torch"),
        }
        graphs = [methods[name]() for name in ("periodic auto", "periodic torch")]
        if not torch.equal(edge_keys(*graphs[0]), edge_keys(*graphs[1])):
            raise SystemExit("backends differ")
        del graphs
        for name, values in time_in_turn(methods, max(2, min(repeats, 200_000 // len(pos)))).items():
            cost = 1e3 * statistics.median(values) / len(pos)
            points.setdefault(name, []).append((len(pos), cost))
            rows.append({"case": "scaling", "method": name, "n_atoms": len(pos), "us_per_atom": cost})
        print(f"  {len(pos):8d} atoms  " + "   ".join(f"{name} {p[-1][1]:6.2f}" for name, p in points.items()))
    return points


def draw(points, ax):
    for name, values in points.items():
        ax.loglog(*zip(*values, strict=True), "o-", label=name)
    ax.set(xlabel="atoms", ylabel="µs per atom", title="Rattled silicon, cutoff 5 Å")
    ax.set_ylim(0.1, None)
    ax.legend()


def main():
    parser = make_parser(__doc__, repeats=15, plot=True)
    parser.add_argument("--cells", type=int, default=23, help="conventional cells along the edge of the large crystal")
    parser.add_argument("--max-atoms", type=int, default=1_000_000, help="largest crystal of the scaling test")
    details = {
        "dtype": "float32 and float64",
        "vesin": getattr(vesin, "__version__", "unknown"),
        "ase": ase.__version__,
    }
    options = parse(parser, **details)
    rows = []
    molecule_batch(rows, 10 * options.repeats)
    crystal_batch(rows, 10 * options.repeats)
    large_crystal(rows, options.cells, options.repeats)
    points = scaling(rows, options.max_atoms, options.repeats)
    save(options, rows, **details)
    save_figure(options, partial(draw, points))


if __name__ == "__main__":
    main()
