"""Is the triton backend right on a GPU, and how much faster than PyTorch Geometric's SchNet is it there?

It needs torch, PyTorch Geometric, triton and this package, no data and no other package: structures come from
``results/structures.npz`` (gpu_systems.py). First every operator and a model are compared with the composition of plain
operations in float64 on the host, and two runs with each other, bit by bit. Then ours, PyG's model, the same compiled,
PyG's under our name (``like_pyg``) and ours with exact filters have their turns in every round. Whatever fails is a row
that says why, and the exit status is 1 where something is wrong. ``--small --backend triton`` runs it on a CPU, in
triton's interpreter (``TRITON_INTERPRET=1``).
"""

import argparse
import json
import platform
import statistics
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch_geometric
from gpu_systems import silicon, stored
from torch.nn.functional import mse_loss
from torch_geometric.nn.models import SchNet as PyGSchNet

from pyg_schnet import SchNet
from pyg_schnet.derivatives import energy_forces_stress
from pyg_schnet.engine import freeze
from pyg_schnet.geometry import edge_distances
from pyg_schnet.interfaces import ReplayedForces
from pyg_schnet.interfaces.replay import record
from pyg_schnet.models.convert import like_pyg
from pyg_schnet.ops import edge_lengths, spline_basis, spline_conv, spline_graph

TOLERANCES = {"operators": 5e-5, "energy": 1e-5, "forces": 1e-4, "gradients": 1e-3}

# models


class Ours:
    """Our model on a system."""

    def __init__(self, name, model, system):
        self.name, self.model, self.system = name, model, system

    def predict(self, forces, training):
        """Energies, and forces or ``None``."""
        arguments, options = self.system.inputs()
        if forces:
            return energy_forces_stress(self.model, *arguments, **options, create_graph=training)[:2]
        return self.model(*arguments, **options)[:, 0], None


class LikePyG(Ours):
    """PyG's model under our name, with the edges of the system."""

    def predict(self, forces, training):
        """Energies, and forces or ``None``."""
        arguments, options = self.system.inputs()
        if forces:
            return energy_forces_stress(self.model, *arguments, **options, create_graph=training)[:2]
        return self.model(*arguments, **options)[:, 0], None


class PyG(Ours):
    """PyG's model, whose graph are the edges of the system."""

    def predict(self, forces, training):
        """Energies, and forces or ``None``."""
        system = self.system
        pos = system.pos.detach().requires_grad_() if forces else system.pos
        energy = self.model(system.z, pos, system.batch)[:, 0]
        if not forces:
            return energy, None
        return energy, -torch.autograd.grad(energy.sum(), pos, create_graph=training)[0]


def models(system, features, backend, blocks=6, with_compiled=False, gaussians=50):
    """Models with the same weights by name."""
    torch.manual_seed(0)

    def graph(pos, batch):
        lattice = (system.edge_shift, system.cell, system.batch) if system.edge_shift is not None else ()
        return system.edge_index, edge_distances(pos, system.edge_index, *lattice)

    size = features, features, blocks, gaussians, system.cutoff
    theirs, twin = PyGSchNet(*size, interaction_graph=graph), PyGSchNet(*size)
    twin.load_state_dict(theirs.state_dict())
    ours, exact = SchNet.from_pyg(twin), SchNet.from_pyg(twin)
    exact.filters, ours.backend = "exact", backend
    device = system.pos.device
    twin = like_pyg.SchNet(*size)
    twin.load_state_dict(theirs.state_dict())
    found = [Ours("ours", ours.to(device), system), PyG("PyG", theirs.to(device), system)]
    if with_compiled:
        found.append(PyG("compiled PyG", torch.compile(theirs), system))
    return [*found, LikePyG("like_pyg", twin.to(device), system), Ours("exact filters", exact.to(device), system)]


def step_of(peer, forces, training):
    """Function that does the work once: a prediction, by a frozen copy of ours, or a step of training."""
    peer.model.train(training).requires_grad_(training)
    if not training:
        peer = Ours(peer.name, freeze(peer.model), peer.system) if type(peer) is Ours else peer
        return partial(_predict, peer, forces)
    weights = [value for value in peer.model.parameters() if value.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=1e-4, fused=weights[0].is_cuda or None)

    def step():
        optimizer.zero_grad()
        loss_of(peer, forces).backward(inputs=weights)
        optimizer.step()

    return step


def _predict(peer, forces):
    with torch.set_grad_enabled(forces):
        return peer.predict(forces, training=False)


def loss_of(peer, forces):
    """Mean squared errors of energies, and of forces."""
    energy, found = peer.predict(forces, training=True)
    loss = mse_loss(energy, peer.system.energy)
    return loss + mse_loss(found, peer.system.forces) if forces else loss


# correctness


def deviation(found, expected):
    """Largest deviation over the largest value."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    if expected.numel() == 0:
        return 0.0
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def operators(system, features, backend, dtype=None, device=None, intervals=60):
    """All five operators and their first and second derivatives on a system: tensors by name."""
    (_, pos, batch), options = system.inputs(dtype, device)
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(shape, generator=generator).to(pos).requires_grad_()

    x, table = draw(pos.size(0), features), draw(intervals + 3, features)
    pos = pos.detach().requires_grad_()
    lattice = () if options["cell"] is None else (options["edge_shift"], options["cell"], batch)
    dist = edge_lengths(pos, options["edge_index"], *lattice, loop_length=system.cutoff, backend=backend)
    interval, basis = spline_basis(dist, system.cutoff, intervals, backend=backend)
    graph = spline_graph(interval, options["edge_index"], pos.size(0))
    y = spline_conv(x, table, basis, graph, backend=backend)
    first = torch.autograd.grad(y.square().sum(), (pos, x, table), create_graph=True)
    along = sum((one * torch.linspace(0.5, 1.5, one.numel()).to(one).view_as(one)).sum() for one in first)
    second = torch.autograd.grad(along, (pos, x, table))
    names = "lengths", "basis", "convolution", *(f"gradient {k}" for k in range(3)), *(f"second {k}" for k in range(3))
    return dict(zip(names, (dist, basis, y, *first, *second), strict=True))


def check(system, features, backend, blocks=6, gaussians=50):
    """Deviations of operators and a model by name; raises unless they are small, and two runs the same in every bit."""
    size = {"intervals": gaussians + 10}
    runs = [operators(system, features, backend, **size) for _ in range(2)]
    expected = operators(system, features, "reference", torch.float64, "cpu", **size)
    found = {name: deviation(runs[0][name], expected[name]) for name in expected}
    limits = dict.fromkeys(found, TOLERANCES["operators"])
    limits |= {name: 50 * TOLERANCES["operators"] for name in found if name.startswith("second")}
    same = [all(torch.equal(one[name], runs[0][name]) for name in expected) for one in runs]
    peer = models(system, features, backend, blocks, gaussians=gaussians)[0]
    host = SchNet(**peer.model.config).double()
    host.load_state_dict(peer.model.state_dict())
    host.backend = "reference"
    outcomes = []
    for model, place in ((peer.model, ()), (peer.model, ()), (host, (torch.float64, "cpu"))):
        model.train()
        model.zero_grad()
        arguments, options = system.inputs(*place)
        energy, forces, _ = energy_forces_stress(model, *arguments, **options, create_graph=True)
        (energy.square().mean() + forces.square().mean()).backward()
        slopes = torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])
        outcomes.append({"energy": energy, "forces": forces, "gradients": slopes})
    same.append(all(torch.equal(outcomes[0][name], outcomes[1][name]) for name in outcomes[0]))
    found |= {name: deviation(outcomes[0][name], outcomes[2][name]) for name in outcomes[0]}
    limits |= {name: TOLERANCES[name] for name in outcomes[0]}
    wrong = {name: value for name, value in found.items() if not value <= limits[name]}
    if wrong or not all(same):
        raise ArithmeticError(f"wrong: {wrong}" if wrong else "two runs differ")
    return found


# time


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(step, device, least):
    """Mean time of a call, over calls that take ``least`` seconds together."""
    step()
    synchronize(device)
    begin, calls = time.perf_counter(), 0
    while True:
        step()
        calls += 1
        if calls % 5 == 0 or calls == 1:
            synchronize(device)
            elapsed = time.perf_counter() - begin
            if elapsed >= least:
                return elapsed / calls


def measure(system, peers, forces, training, options, rounds=5):
    """Median time, ratio to ours and peak memory of each peer; what fails is noted."""
    device, times, peaks, notes, steps = system.pos.device, {}, {}, {}, {}
    for peer in peers:
        try:
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            step = step_of(peer, forces, training)
            step()
            synchronize(device)
            peaks[peer.name] = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
            steps[peer.name] = step
        except Exception as error:  # out of memory, or a compiler without second derivatives
            notes[peer.name] = reason(error)
    if device.type == "cuda" and "ours" in steps and not training:
        try:
            steps["ours, CUDA graph"] = record(steps["ours"], device)
        except Exception as error:
            notes["ours, CUDA graph"] = reason(error)
    for _ in range(rounds):
        for name, step in list(steps.items()):
            try:
                times.setdefault(name, []).append(seconds_of(step, device, options.seconds / rounds / len(steps)))
            except Exception as error:
                notes[name] = reason(error)
                del steps[name]
    times = {name: values for name, values in times.items() if name in steps}
    median = {name: statistics.median(values) for name, values in times.items()}
    return {
        "seconds": median,
        "ratio": {name: median[name] / median["ours"] for name in median if "ours" in median},
        "gib": peaks,
        "notes": notes,
    }


def reason(error):
    """The first line of what went wrong."""
    return f"{type(error).__name__}: {error}".split("\n")[0][:300]


def replayed(system, features, backend, blocks, gaussians):
    """Largest deviation of replayed forces from those of the model by itself, at other positions than recorded."""
    model = models(system, features, backend, blocks, gaussians=gaussians)[0].model.eval()
    (z, pos, batch), _ = system.inputs()
    lattice = {}
    if system.cell is not None:
        lattice = {"cell": system.cell, "pbc": torch.ones(system.size, 3, dtype=torch.bool, device=pos.device)}
    compute = ReplayedForces(model, z, pos, batch, **lattice, batch_size=system.size)
    moved = pos + 0.01 * torch.randn(pos.shape, generator=torch.Generator().manual_seed(5)).to(pos)
    found = compute(moved).forces
    worst = deviation(found, energy_forces_stress(model, z, moved, batch, **lattice, batch_size=system.size).forces)
    if not worst <= TOLERANCES["forces"]:
        raise ArithmeticError(f"wrong: forces of a replayed step deviate by {worst:.1e}")
    return worst


def bandwidth(device, size):
    """Bytes a second that a copy of ``size`` numbers moves."""
    one = torch.empty(size, device=device)
    other = torch.empty_like(one)
    return 2 * 4 * size / seconds_of(lambda: other.copy_(one), device, 0.2)


def convolution_share(system, features, backend, peak):
    """Share of the memory bandwidth of the convolution, counting every byte that it has to move once."""
    with torch.no_grad():
        found = operators_inputs(system, features, backend)
        seconds = seconds_of(lambda: spline_conv(*found, backend=backend), system.pos.device, 0.2)
    n_edges, n_atoms = system.edge_index.size(1), system.pos.size(0)
    moved = n_edges * (8 + 8 + 16) + 2 * 4 * n_atoms * features  # interval, source, basis; features read and written
    gathered = n_edges * 5 * 4 * features  # through the caches
    return {
        "seconds": seconds,
        "share_of_bandwidth": moved / seconds / peak,
        "gathered_bytes_per_second": gathered / seconds,
    }


def operators_inputs(system, features, backend):
    """Arguments of the convolution."""
    (_, pos, batch), options = system.inputs()
    lattice = () if options["cell"] is None else (options["edge_shift"], options["cell"], batch)
    dist = edge_lengths(pos, options["edge_index"], *lattice, loop_length=system.cutoff, backend=backend)
    interval, basis = spline_basis(dist, system.cutoff, 400, backend=backend)
    ptr = torch.searchsorted(options["edge_index"][1].contiguous(), torch.arange(pos.size(0) + 1, device=pos.device))
    graph = spline_graph(interval, options["edge_index"], pos.size(0), ptr)
    return torch.randn(pos.size(0), features).to(pos), torch.randn(403, features).to(pos), basis, graph


class Workload(NamedTuple):
    """What is timed; ``make`` and ``small``, the same for tests, are functions of the device."""

    name: str
    make: object
    forces: bool
    training: bool
    small: object = None
    peers: tuple[str, ...] = ("PyG", "exact filters")  # compiling takes half a minute: where it counts


ALL = ("PyG", "compiled PyG", "like_pyg", "exact filters")
SMALL = partial(stored, "QM9", 2, smallest=True)
WORKLOADS = (
    Workload("train 100 molecules", partial(stored, "QM9", 100), False, True, SMALL, ("PyG", "like_pyg")),
    Workload("train forces, 32 aspirin", partial(stored, "aspirin", 32), True, True, SMALL),
    Workload("forces, one aspirin", partial(stored, "aspirin", 1), True, False),
    Workload("forces, 13,824 silicon", partial(silicon, 12), True, False, SMALL, ALL),
    Workload("train forces, 256 aspirin", partial(stored, "aspirin", 256), True, True),
    Workload("train 64 perovskites", partial(stored, "perovskites", 64), False, True),
    Workload("forces, 200 aspirin", partial(stored, "aspirin", 200), True, False),
    Workload("forces, 1,000,000 silicon", partial(silicon, 50), True, False, None, ()),
    Workload("train 512 perovskites", partial(stored, "perovskites", 512), False, True),
    Workload("train 1,000 molecules", partial(stored, "QM9", 1000), False, True, None, ALL),
)
CHECKED = {
    "aspirin": partial(stored, "aspirin", 4),
    "silicon": partial(silicon, 2),
    "perovskites": partial(stored, "perovskites", 3),
}
CHECKED_SMALL = {
    "molecules": partial(stored, "QM9", 1, smallest=True),
    "perovskites": partial(stored, "perovskites", 1, cutoff=2.5),
}


def about(device):
    """Where and with what the numbers were measured."""
    versions = {"torch": torch.__version__, "torch_geometric": torch_geometric.__version__}
    try:
        import triton

        versions["triton"] = triton.__version__
    except ImportError:
        versions["triton"] = "missing"
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {"device": place, "python": platform.python_version(), **versions}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cuda, cuda:1 or cpu")
    parser.add_argument("--backend", default="auto", help="backend of our model")
    parser.add_argument("--features", type=int, default=128, help="features and filters")
    parser.add_argument("--gaussians", type=int, default=50, help="Gaussians, which make the size of the tables")
    parser.add_argument("--seconds", type=float, default=6.0, help="time for each workload")
    parser.add_argument("--minutes", type=float, default=4.0, help="time after which no further workload begins")
    parser.add_argument("--small", action="store_true", help="small sizes, and no compiled peer")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args(arguments)
    device, begin = torch.device(options.device), time.monotonic()
    if device.type == "cpu" and options.backend == "triton":
        from pyg_schnet.backends import triton

        triton.take_cpu_tensors()
    results = {"about": about(device), "deviations": {}, "workloads": {}, "failed": {}}
    print(", ".join(f"{name} {value}" for name, value in results["about"].items()))
    small, blocks = options.small, 1 if options.small else 6
    of_model = options.features, options.backend, blocks, options.gaussians

    def save():
        if options.json:
            options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    def guarded(name, work):
        """The result of a piece of work; ``None`` where it fails, which is noted and printed."""
        try:
            return work()
        except Exception as error:
            results["failed"][name] = reason(error)
            print(f"{name}: failed, {reason(error)}", flush=True)
            return None
        finally:
            save()
            if device.type == "cuda":
                torch.cuda.empty_cache()

    for name, make in (CHECKED_SMALL if small else CHECKED).items():
        found = guarded(name, lambda make=make: check(make(device=device), *of_model))
        if found is not None:
            results["deviations"][name] = found
            worst = max(found.values())
            print(f"{name}: right, largest deviation {worst:.1e}, two runs are the same in every bit", flush=True)
        worst = guarded(f"{name}, replayed", lambda make=make: replayed(make(device=device), *of_model))
        if worst is not None:
            results["deviations"].setdefault(name, {})["replayed"] = worst
    if results["failed"]:
        print("times below are those of wrong results where the checks above failed")
    print("\n| work | edges | ours | PyG / ours | compiled PyG / ours | like_pyg / ours | exact / ours | "
          "CUDA graph / ours | GiB |")  # fmt: skip
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for work in WORKLOADS:
        late = not small and time.monotonic() - begin > 60 * options.minutes
        if late:
            print(f"{work.name}: left out, {options.minutes:g} minutes are over", flush=True)
            results["workloads"][work.name] = {"notes": {"all": "left out, no time"}}
        elif not small or work.small is not None:
            found = guarded(work.name, lambda work=work: timed(work, device, options, blocks))
            if found is not None:
                results["workloads"][work.name] = found
        save()
    share = guarded("bandwidth", lambda: bandwidth_share(device, options))
    if share is not None:
        results["bandwidth"] = share
    save()
    return results


def timed(work, device, options, blocks):
    """Times of all peers at one workload, printed."""
    small = options.small
    system = (work.small if small else work.make)(device=device)
    with_compiled = "compiled PyG" in work.peers and not small
    peers = models(system, options.features, options.backend, blocks, with_compiled, options.gaussians)
    peers = [peer for peer in peers if peer.name == "ours" or peer.name in work.peers]
    found = measure(system, peers, work.forces, work.training, options, rounds=1 if small else 5)
    _print(work.name, system, found)
    return {"edges": system.edge_index.size(1), "atoms": system.pos.size(0), **found}


def bandwidth_share(device, options):
    """What the convolution moves, of what copies move."""
    system = stored("QM9", 1, device, smallest=True) if options.small else silicon(12, device)
    peak = bandwidth(device, 2**16 if options.small else 2**28)
    share = convolution_share(system, options.features, options.backend, peak)
    print(
        f"\ncopies move {peak / 1e12:.2f} TB/s; the convolution of {system.edge_index.size(1)} edges takes "
        f"{1e6 * share['seconds']:.0f} µs, {share['share_of_bandwidth']:.0%} of that for what it has to move, "
        f"and gathers {share['gathered_bytes_per_second'] / 1e12:.2f} TB/s through the caches"
    )
    return {"copy_bytes_per_second": peak, **share}


def _print(name, system, found):
    seconds, ratio = found["seconds"], found["ratio"]
    cells = [
        f"{ratio[key]:.2f}" if key in ratio else "–"
        for key in ("PyG", "compiled PyG", "like_pyg", "exact filters", "ours, CUDA graph")
    ]
    ours = f"{1e3 * seconds['ours']:.2f} ms" if "ours" in seconds else "–"
    gib = found["gib"].get("ours")
    cells = [name, system.edge_index.size(1), ours, *cells, "–" if gib is None else f"{gib:.2f}"]
    print(f"| {' | '.join(map(str, cells))} |")
    for key, note in found["notes"].items():
        print(f"  {key}: {note}", flush=True)


if __name__ == "__main__":
    raise SystemExit(1 if main()["failed"] else 0)
