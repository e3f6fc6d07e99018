"""How much faster than PyTorch Geometric's SchNet is ours, with the same weights and the same edges?

Run: python benchmarks/speed.py --data FOLDER --json speed.json
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from harness import BURST, Table, make_parser, parse, ratio, save, spread, summary, time_in_turn
from peers import Ours, PyG, find_peers, pyg_model
from systems import Structures
from tasks import Task, check, make_step

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
    """

    task: Task
    structures: Callable
    count: int
    bar: float
    cutoff: float = 5.0
    features: int = 128


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
    "train-forces-qm9": Workload(TRAIN_FORCES, Structures.qm9, 100, bar=14),
    "train-forces-aspirin": Workload(TRAIN_FORCES, Structures.aspirin, 32, bar=9),
}

_PRODUCTS = {"mkldnn::_linear_pointwise", "aten::addmm", "aten::mm", "aten::bmm"}


def measure(workload, structures, kinds, options):
    """Check and time one workload; returns its row, and our step."""
    task, system = workload.task, workload.structures(structures, workload.count, workload.cutoff)
    model = pyg_model(workload.cutoff, workload.features)
    twice = task.training and task.forces
    peers = [kind(model, system) for kind in kinds if kind.twice_differentiable or not twice]
    deviations = check(task, peers)
    steps = {peer.name: make_step(task, peer) for peer in peers}
    times = time_in_turn(steps, options.repeats, seconds=options.seconds, burst=BURST)
    ours = times[Ours.name]
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
    return row, steps[Ours.name]


def share_of_products(step, repeats=3):
    """Part of the time of a step that goes into matrix products."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(repeats):
            step()
    events = profile.key_averages()
    products = sum(event.self_cpu_time_total for event in events if event.key in _PRODUCTS)
    return products / sum(event.self_cpu_time_total for event in events)


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
    parser.add_argument("--profile", action="store_true", help="share of matrix products in our time")
    options = parse(parser)

    kinds, structures = find_peers(options.compile), Structures(options.data)
    table = make_table(kinds, options.profile)
    for name in options.only:
        row, step = measure(WORKLOADS[name], structures, kinds, options)
        if options.profile:
            row["products"] = share_of_products(step)
        table.add({"workload": name, **row})
    save(options, table.rows)


if __name__ == "__main__":
    main()
