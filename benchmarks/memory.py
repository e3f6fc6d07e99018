"""How much memory do energy and forces of a large crystal take?

Each model runs in a process of its own. What is reported is the peak of resident memory during the call, above the
level before it: weights, structure and graph are not in it. The numbers come from ``/proc``, so this runs on Linux.

Run: python benchmarks/memory.py --json memory.json
"""

import ctypes
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from harness import Table, make_parser, parse, ratio, save, spread, summary
from peers import Ours, PyG, pyg_model
from systems import Structures
from tasks import Task, check_outcome, outcome

FORCES = Task(forces=True)
CUTOFF = 5.0  # Å
_SMALL = 3  # cells of a crystal that loads and compiles whatever the first call needs


def measure(kind, cells, threads):
    """Peak in MiB, sizes and outcome of one model for the crystal."""
    torch.set_num_threads(threads)
    structures, model = Structures(), pyg_model(CUTOFF)
    outcome(FORCES, kind(model, structures.silicon(_SMALL, CUTOFF)))
    peer = kind(model, structures.silicon(cells, CUTOFF))
    reset_peak()
    before = resident("VmRSS")
    result = outcome(FORCES, peer)
    return resident("VmHWM") - before, peer.system.sizes(), result


def reset_peak():
    """Give freed memory back to the system, and let its count of the peak begin at the present level."""
    if hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        print(f"The peak may be that of building the graph: {error}")


def resident(field):
    """MiB of a field of the status of this process, ``VmRSS`` (now) or ``VmHWM`` (peak)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) / 1024


def in_fresh_process(function, *arguments):
    """What a function returns in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def main():
    parser = make_parser(__doc__, repeats=3)
    parser.add_argument("--cells", type=int, default=12, help="cells along each edge of the crystal, eight atoms each")
    options = parse(parser)

    peaks, outcomes = {PyG: [], Ours: []}, {}
    for _ in range(options.repeats):
        for kind, values in peaks.items():
            peak, sizes, outcomes[kind] = in_fresh_process(measure, kind, options.cells, torch.get_num_threads())
            values.append(peak)
    check_outcome(Ours.name, outcomes[Ours], PyG.name, outcomes[PyG])

    table = Table(
        {
            "model": "{model:10}",
            "atoms": "{atoms}",
            "edges": "{edges}",
            "peak [MiB]": spread("peak", 0),
            "PyG / model": spread("ratio"),
        }
    )
    for kind, values in peaks.items():
        table.add({"model": kind.name, **sizes, "peak": summary(values), "ratio": ratio(peaks[PyG], values)})
    save(options, table.rows)


if __name__ == "__main__":
    main()
