"""How long does a training batch take from the data set to the graph, against PyG's own collation?

Run: python benchmarks/loading.py --json loading.json
"""

from itertools import cycle

import torch
from harness import Table, make_parser, parse, ratio, save, spread, summary, time_in_turn
from torch_geometric.data import Batch

from pyg_schnet.data import QM9
from pyg_schnet.data.loader import collate_indices
from pyg_schnet.neighbors import radius_graph


def check(dataset, indices):
    """The fast batch has to be PyG's batch before anything is timed."""
    ours = collate_indices(dataset, indices)
    theirs = Batch.from_data_list([dataset[int(k)] for k in indices])
    for key in ("z", "pos", "y", "batch", "ptr"):
        assert torch.equal(ours[key], theirs[key]), key


def make_ways(dataset, cutoff):
    """Ways from the indices of a batch to the batch; PyG's is the last one."""

    def with_graph(indices):
        batch = collate_indices(dataset, indices)
        return radius_graph(batch.pos, cutoff, batch.batch, batch_size=batch.num_graphs)

    return {
        "index arithmetic on the store": lambda indices: collate_indices(dataset, indices),
        "the same with the radius graph": with_graph,
        "PyG: items, then collation": lambda indices: Batch.from_data_list(
            [dataset.get(int(k)) for k in indices]  # get: as after shuffling, when items are not at hand
        ),
    }


def main():
    parser = make_parser(__doc__, repeats=200)
    parser.add_argument("--batch-size", type=int, default=100, help="molecules in a batch")
    parser.add_argument("--cutoff", type=float, default=5.0, help="cutoff of the graph in Å")
    parser.add_argument("--source", help="folder of other files in the format of qm9pack")
    parser.add_argument("--root", help="folder of the cache")
    options = parse(parser)

    dataset = QM9(root=options.root, source=options.source)
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randint(len(dataset), (options.batch_size,), generator=generator) for _ in range(20)]
    check(dataset, batches[0])

    def over_batches(way):
        indices = cycle(batches)  # the same for every way
        return lambda: way(next(indices))

    ways = {name: over_batches(way) for name, way in make_ways(dataset, options.cutoff).items()}
    times = time_in_turn(ways, options.repeats, warmup=len(batches))
    reference = list(times.values())[-1]
    print(f"{options.batch_size} molecules of QM9, cutoff {options.cutoff} Å")
    table = Table({"way": "{way:30}", "batch [ms] (10 to 90 %)": spread("time_ms", 2), "PyG / way": spread("ratio")})
    for name, values in times.items():
        table.add({"way": name, "time_ms": summary(values), "ratio": ratio(reference, values)})
    save(options, table.rows)


if __name__ == "__main__":
    main()
