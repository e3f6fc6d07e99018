"""How long does a training batch take from the data set to the graph, against PyG's own collation?

Run: python benchmarks/loading.py --json loading.json
"""

import argparse
import json
import platform
import statistics
import time

import torch
import torch_geometric
from torch_geometric.data import Batch

from pyg_schnet.data import QM9, collate_indices
from pyg_schnet.neighbors import radius_graph


def measure(ways, batches, repeats):
    """Time the ways in turn on the same batches; returns the times in ms of each."""
    times = {name: [] for name in ways}
    for repeat in range(repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way(batches[repeat % len(batches)])
            times[name].append(1e3 * (time.perf_counter() - start))
    return times


def check(dataset, indices):
    """The fast batch has to be PyG's batch before anything is timed."""
    ours = collate_indices(dataset, indices)
    theirs = Batch.from_data_list([dataset[int(k)] for k in indices])
    for key in ("z", "pos", "y", "batch", "ptr"):
        assert torch.equal(ours[key], theirs[key]), key


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch-size", type=int, default=100, help="molecules in a batch")
    parser.add_argument("--cutoff", type=float, default=5.0, help="cutoff of the graph in Å")
    parser.add_argument("--repeats", type=int, default=200, help="batches to time")
    parser.add_argument("--source", help="folder of other files in the format of qm9pack")
    parser.add_argument("--root", help="folder of the cache")
    parser.add_argument("--json", help="file for the numbers")
    options = parser.parse_args()

    dataset = QM9(root=options.root, source=options.source)
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randint(len(dataset), (options.batch_size,), generator=generator) for _ in range(20)]
    check(dataset, batches[0])

    def with_graph(indices):
        batch = collate_indices(dataset, indices)
        return radius_graph(batch.pos, options.cutoff, batch.batch, batch_size=batch.num_graphs)

    ways = {
        "index arithmetic on the store": lambda indices: collate_indices(dataset, indices),
        "the same with the radius graph": with_graph,
        "PyG: items, then collation": lambda indices: Batch.from_data_list(
            [dataset.get(int(k)) for k in indices]  # get: as after shuffling, when items are not at hand
        ),
    }
    measure(ways, batches, 20)  # warm-up
    times = measure(ways, batches, options.repeats)
    print(
        f"{options.batch_size} molecules of QM9, cutoff {options.cutoff} Å; median (10 % to 90 %) of {options.repeats}"
    )
    table = {}
    for name, values in times.items():
        low, *_, high = statistics.quantiles(values, n=10)
        table[name] = {"median_ms": statistics.median(values), "p10_ms": low, "p90_ms": high}
        print(f"  {name:<32} {statistics.median(values):7.2f} ms  ({low:.2f} to {high:.2f})")
    if options.json:
        about = {"torch": torch.__version__, "torch_geometric": torch_geometric.__version__}
        about |= {"threads": torch.get_num_threads(), "machine": platform.machine(), "dtype": "float32"}
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"options": vars(options), "versions": about, "times": table}, file, indent=2)


if __name__ == "__main__":
    main()
