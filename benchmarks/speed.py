"""How much faster than PyTorch Geometric's SchNet is ours, with the same weights and the same edges?

Run: python benchmarks/speed.py --data FOLDER --json speed.json
"""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from harness import BURST, Table, make_parser, parse, ratio, save, spread, summary, time_in_turn
from peers import FrozenOurs, OurConvolutions, Ours, PyG, PyGConvolutions, find_peers, pyg_model
from systems import Structures
from tasks import Task, check, make_step

from pyg_schnet.backends.numba import gemm, gemm_tn

ENERGY, FORCES = Task(), Task(forces=True)
TRAIN, TRAIN_FORCES = Task(training=True), Task(training=True, forces=True)


class Workload(NamedTuple):
    """A task on some structures.

    Attributes:
        task: What is computed.
        structures: Method of :class:`Structures` that makes them.
        count: Number of structures (of cells along an edge for silicon).
        bar: Ratio of PyG's time to ours that is to be reached.
        cutoff: Cutoff in Å.
        features: Number of features, and of filters.
        kinds: The two that are compared; ``None`` for the models, and all other peers.
    """

    task: Task
    structures: Callable
    count: int
    bar: float
    cutoff: float = 5.0
    features: int = 128
    kinds: tuple | None = None


CONVOLUTIONS = PyGConvolutions, OurConvolutions  # in a network of one's own

WORKLOADS = {
    "train-qm9-5": Workload(TRAIN, Structures.qm9, 100, bar=16),
    "train-qm9-10": Workload(TRAIN, Structures.qm9, 100, bar=16, cutoff=10.0),
    "train-qm9-5-wide": Workload(TRAIN, Structures.qm9, 100, bar=12, features=256),
    "train-aspirin": Workload(TRAIN, Structures.aspirin, 32, bar=9),
    "train-perovskites": Workload(TRAIN, Structures.perovskites, 64, bar=10),
    "energy-qm9": Workload(ENERGY, Structures.qm9, 100, bar=13),
    "energy-silicon": Workload(ENERGY, Structures.silicon, 12, bar=25),
    "forces-qm9": Workload(FORCES, Structures.qm9, 100, bar=10),
    "forces-silicon": Workload(FORCES, Structures.silicon, 12, bar=25),
    "forces-aspirin": Workload(FORCES, Structures.aspirin, 1, bar=5),
    "forces-aspirin-frozen": Workload(FORCES, Structures.aspirin, 1, bar=5, kinds=(PyG, FrozenOurs)),
    "train-forces-qm9": Workload(TRAIN_FORCES, Structures.qm9, 100, bar=14),
    "train-forces-aspirin": Workload(TRAIN_FORCES, Structures.aspirin, 32, bar=9),
    "train-cfconv": Workload(TRAIN, Structures.qm9, 100, bar=5, kinds=CONVOLUTIONS),
    "energy-cfconv": Workload(ENERGY, Structures.qm9, 100, bar=5, kinds=CONVOLUTIONS),
}

_ROWS_OF_A_CALL = 200  # at least, where products are timed alone

_PRODUCTS = {  # of a block: matrix products that keep the atoms, and that sum over them
    ENERGY: (3, 0),
    FORCES: (6, 0),
    TRAIN: (6, 3),
    TRAIN_FORCES: (12, 6),
}


def measure(workload, structures, kinds, options):
    """Check and time one workload; returns its row, and our model."""
    task, system = workload.task, workload.structures(structures, workload.count, workload.cutoff)
    model = pyg_model(workload.cutoff, workload.features)
    kinds = kinds if workload.kinds is None else workload.kinds
    twice = task.training and task.forces
    peers = [kind(model, system) for kind in kinds if kind.twice_differentiable or not twice]
    deviations = check(task, peers)
    steps = {peer.name: make_step(task, peer) for peer in peers}
    times = time_in_turn(steps, options.repeats, seconds=options.seconds, burst=BURST)
    name = kinds[1].name
    ours = times.pop(name)
    times[Ours.name] = ours  # last
    row = {
        "system": system.name,
        **system.sizes(),
        "cutoff": workload.cutoff,
        "features": workload.features,
        "bar": workload.bar,
        "rounds": len(ours),
        "times_ms": {name: summary(values) for name, values in times.items()},
        "ratios": {name: ratio(values, ours) for name, values in times.items() if values is not ours},
        "deviations": deviations,
    }
    return row, next(peer.model for peer in peers if peer.name == name)


def share_of_products(workload, row, model):
    """Time of the matrix products of a step alone, those of blocks and of tables in training, over our time.

    They are computed one after the other by the kernels that do so in a step, with numbers at hand in the cache.
    """
    n_blocks, width, network = model.num_interactions, workload.features, model.interactions[0].conv.filter_network
    keeping, summing = _PRODUCTS[workload.task]
    # the first of three layers of the first block is computed for elements
    time = (n_blocks - 1 / 3) * products_time(row["atoms"], width, width, keeping, summing)
    if workload.task.training:
        n_samples = model.interactions[0].conv.spline.num_grid_points
        time += n_blocks * products_time(n_samples, network.basis.num_gaussians, width, 1, 1)
        time += n_blocks * products_time(n_samples, width, width, 2, 1)
    return time / row["times_ms"][Ours.name]["median"]


def products_time(n_rows, n_summands, n_columns, keeping, summing):
    """Time in ms of some products ``[N, K] @ [K, M]`` and ``[N, M].T @ [N, K]``.

    Few rows are multiplied many times over, as one call with them would take longer than its product.
    """
    copies = -(-_ROWS_OF_A_CALL // n_rows)
    n_rows *= copies
    a, b, weight = (
        torch.randn(*shape) for shape in ((n_rows, n_summands), (n_rows, n_columns), (n_summands, n_columns))
    )

    def products():
        for _ in range(keeping):
            gemm(a, weight)
        for _ in range(summing):
            gemm_tn(b, a)

    times = time_in_turn({"products": products}, 20, seconds=2.0, burst=BURST)["products"]
    return statistics.median(times) / copies


def make_table(kinds, profile):
    """Table with a column for each peer."""
    times, ratios = f"times_ms[{PyG.name}][median]", f"ratios[{PyG.name}]"
    others = {f"{kind.name} / ours": spread(f"ratios[{kind.name}]") for kind in kinds[2:]}
    return Table(
        {
            "workload": "{workload:20}",
            "atoms": "{atoms:5}",
            "edges": "{edges:6}",
            "PyG [ms]": f"{{{times}:.1f}}",
            "ours [ms]": f"{{times_ms[{Ours.name}][median]:.2f}}",
            "PyG / ours (10 to 90 %)": spread(ratios),
            "bar": "{bar:g}",
            "rounds": "{rounds}",
            **others,
            **({"products": "{products:.0%}"} if profile else {}),
        }
    )


def main():
    parser = make_parser(__doc__, repeats=30)
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), help="workloads to measure")
    parser.add_argument("--data", type=Path, help="folder of rmd17_aspirin/ and perovskites_castelli/")
    parser.add_argument("--seconds", type=float, default=60.0, help="time for each workload, after three rounds")
    parser.add_argument("--compile", action="store_true", help="PyG through torch.compile as well")
    parser.add_argument("--profile", action="store_true", help="matrix products alone over our time")
    options = parse(parser)

    kinds, structures = find_peers(options.compile), Structures(options.data)
    table = make_table(kinds, options.profile)
    for name in options.only:
        row, model = measure(WORKLOADS[name], structures, kinds, options)
        if options.profile and WORKLOADS[name].kinds is not CONVOLUTIONS:
            row["products"] = share_of_products(WORKLOADS[name], row, model)
        table.add({"workload": name, **row})
    save(options, table.rows)


if __name__ == "__main__":
    main()
