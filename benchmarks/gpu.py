"""Is the triton backend right on a GPU, and how much faster than PyTorch Geometric's SchNet is it there?

It needs torch, PyTorch Geometric, triton and this package, no data and no other package: structures are made here.
First every operator and a model are compared with the composition of plain operations in float64 on the host, and two
runs with each other, bit by bit; nothing is timed unless all of that agrees. Then ours, PyG's model, the same compiled,
and ours with exact filters have their turns in every round. ``--small --backend triton`` runs it on a CPU, in triton's
interpreter (``TRITON_INTERPRET=1``).
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
from torch.nn.functional import mse_loss
from torch_geometric.nn.models import SchNet as PyGSchNet

from pyg_schnet import SchNet, radius_graph
from pyg_schnet.derivatives import energy_forces_stress
from pyg_schnet.geometry import edge_distances
from pyg_schnet.ops import edge_lengths, spline_basis, spline_conv, spline_graph

ASPIRIN = Path(__file__).parents[1] / "examples" / "aspirin.xyz"
ELEMENTS = {"H": 1, "C": 6, "N": 7, "O": 8}
TOLERANCES = {"operators": 2e-5, "energy": 1e-5, "forces": 1e-4, "gradients": 1e-3}


class System(NamedTuple):
    """A batch of structures with its graph, on the device; labels are random numbers."""

    name: str
    cutoff: float
    size: int
    z: torch.Tensor
    pos: torch.Tensor
    batch: torch.Tensor
    edge_index: torch.Tensor
    edge_shift: torch.Tensor | None
    cell: torch.Tensor | None
    energy: torch.Tensor
    forces: torch.Tensor

    def inputs(self, dtype=None, device=None):
        """Arguments of a model."""
        options = {"edge_index": self.edge_index, "edge_shift": self.edge_shift, "cell": self.cell}
        options = {name: _moved(value, dtype, device) for name, value in options.items()}
        arguments = (_moved(value, dtype, device) for value in (self.z, self.pos, self.batch))
        return tuple(arguments), {**options, "batch_size": self.size}


def _moved(value, dtype, device):
    if value is None or (dtype is None and device is None):
        return value
    return value.to(device=device, dtype=dtype if value.is_floating_point() else None)


def make_system(name, z, pos, size, cutoff, device, cell=None):
    """``size`` structures of the same number of atoms, with all neighbours within the cutoff."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randn(size, generator=generator), torch.randn(pos.shape, generator=generator)
    batch = torch.arange(size).repeat_interleave(len(z) // size)
    lattice = {} if cell is None else {"cell": cell.to(device), "pbc": torch.ones(size, 3, dtype=torch.bool).to(device)}
    z, pos, batch = z.to(device), pos.to(device), batch.to(device)
    found = radius_graph(pos, cutoff, batch, batch_size=size, **lattice)
    index, shift = found if lattice else (found, None)
    return System(
        name, cutoff, size, z, pos, batch, index, shift, lattice.get("cell"), *(label.to(device) for label in labels)
    )


def aspirin(count, device, keep=21, name="aspirin"):
    """Frames of aspirin, rattled; with ``keep`` atoms, molecules of the size of QM9's."""
    lines = [line.split() for line in ASPIRIN.read_text(encoding="utf-8").splitlines()[2:23]]
    elements = torch.tensor([ELEMENTS[line[0]] for line in lines])
    pos = torch.tensor([[float(part) for part in line[1:4]] for line in lines])
    generator = torch.Generator().manual_seed(count)
    chosen = torch.stack([torch.randperm(21, generator=generator)[:keep].sort().values for _ in range(count)])
    moved = pos[chosen] + 0.05 * torch.randn(count, keep, 3, generator=generator)
    return make_system(name, elements[chosen].flatten(), moved.view(-1, 3), count, 5.0, device)


def perovskites(count, device, cutoff=5.0):
    """Rattled cubic crystals ABO3 of five atoms."""
    generator = torch.Generator().manual_seed(count)
    sites = torch.tensor([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    lengths = 3.8 + 0.5 * torch.rand(count, 1, 1, generator=generator)
    pos = sites * lengths + 0.05 * torch.randn(count, 5, 3, generator=generator)
    z = torch.tensor([56, 22, 8, 8, 8]).repeat(count)
    return make_system("perovskites", z, pos.view(-1, 3), count, cutoff, device, lengths * torch.eye(3))


def silicon(count, device):
    """One rattled crystal of ``count`` conventional cells along each edge."""
    corner = torch.tensor([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    sites = torch.cat([corner, corner + 0.25])
    cells = torch.cartesian_prod(*[torch.arange(count)] * 3)
    pos = 5.43 * (cells[:, None] + sites).view(-1, 3)
    pos += 0.05 * torch.randn(pos.shape, generator=torch.Generator().manual_seed(0))
    z = torch.full((pos.size(0),), 14)
    return make_system("silicon", z, pos, 1, 5.0, device, (5.43 * count * torch.eye(3)).unsqueeze(0))


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


def models(system, features, backend, blocks=6, with_compiled=False):
    """Models with the same weights by name."""
    torch.manual_seed(0)

    def graph(pos, batch):
        lattice = (system.edge_shift, system.cell, system.batch) if system.edge_shift is not None else ()
        return system.edge_index, edge_distances(pos, system.edge_index, *lattice)

    size = features, features, blocks, 50, system.cutoff
    theirs, twin = PyGSchNet(*size, interaction_graph=graph), PyGSchNet(*size)
    twin.load_state_dict(theirs.state_dict())
    ours, exact = SchNet.from_pyg(twin), SchNet.from_pyg(twin)
    exact.filters, ours.backend = "exact", backend
    device = system.pos.device
    found = [Ours("ours", ours.to(device), system), PyG("PyG", theirs.to(device), system)]
    if with_compiled:
        found.append(PyG("compiled PyG", torch.compile(theirs), system))
    return [*found, Ours("exact filters", exact.to(device), system)]


def step_of(peer, forces, training):
    """Function that does the work once: a prediction, or a step of training."""
    peer.model.train(training).requires_grad_(training)
    if not training:
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


def operators(system, features, backend, dtype=None, device=None):
    """All five operators and their first and second derivatives on a system: tensors by name."""
    (_, pos, batch), options = system.inputs(dtype, device)
    generator = torch.Generator().manual_seed(1)
    intervals = 60

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


def check(system, features, backend, blocks=6):
    """Stop unless operators and a model are right, and the same in every bit in two runs; returns the deviations."""
    runs = [operators(system, features, backend) for _ in range(2)]
    expected = operators(system, features, "reference", torch.float64, "cpu")
    found = {name: deviation(runs[0][name], expected[name]) for name in expected}
    limits = dict.fromkeys(found, TOLERANCES["operators"])
    limits |= {name: 50 * TOLERANCES["operators"] for name in found if name.startswith("second")}
    same = [all(torch.equal(one[name], runs[0][name]) for name in expected) for one in runs]
    peer = models(system, features, backend, blocks)[0]
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
        raise SystemExit(f"{system.name}: {wrong or 'two runs differ'}; nothing is timed")
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


def captured(step, device):
    """The step as a CUDA graph."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


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
            notes[peer.name] = f"{type(error).__name__}: {error}".split("\n")[0][:200]
    if device.type == "cuda" and "ours" in steps and not training:
        try:
            steps["ours, CUDA graph"] = captured(steps["ours"], device)
        except Exception as error:
            notes["ours, CUDA graph"] = f"{type(error).__name__}: {error}".split("\n")[0][:200]
    for _ in range(rounds):
        for name, step in steps.items():
            times.setdefault(name, []).append(seconds_of(step, device, options.seconds / rounds / len(steps)))
    median = {name: statistics.median(values) for name, values in times.items()}
    return {
        "seconds": median,
        "ratio": {name: median[name] / median["ours"] for name in median if "ours" in median},
        "gib": peaks,
        "notes": notes,
    }


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
    """What is timed."""

    name: str
    make: object  # function of the device
    forces: bool
    training: bool
    small: object  # the same for tests
    peers: tuple[str, ...] = (
        "PyG",
        "exact filters",
    )  # compiling takes half a minute, so it has its turn where it counts


ALL = ("PyG", "compiled PyG", "exact filters")
WORKLOADS = (
    Workload(
        "train 100 molecules",
        partial(aspirin, 100, keep=18, name="molecules"),
        False,
        True,
        partial(aspirin, 2, keep=4),
    ),
    Workload("train 1,000 molecules", partial(aspirin, 1000, keep=18, name="molecules"), False, True, None, ALL),
    Workload("train forces, 32 aspirin", partial(aspirin, 32), True, True, partial(aspirin, 1, keep=5)),
    Workload("train forces, 256 aspirin", partial(aspirin, 256), True, True, None),
    Workload("train 64 perovskites", partial(perovskites, 64), False, True, None),
    Workload("train 512 perovskites", partial(perovskites, 512), False, True, None),
    Workload("forces, 13,824 silicon", partial(silicon, 12), True, False, partial(aspirin, 1, keep=4), ALL),
    Workload("forces, 1,000,000 silicon", partial(silicon, 50), True, False, None, ()),
    Workload("forces, one aspirin", partial(aspirin, 1), True, False, None),
    Workload("forces, 200 aspirin", partial(aspirin, 200), True, False, None),
)


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
    parser.add_argument("--seconds", type=float, default=6.0, help="time for each workload")
    parser.add_argument("--minutes", type=float, default=4.0, help="time after which no further workload begins")
    parser.add_argument("--small", action="store_true", help="small sizes, and no compiled peer")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args(arguments)
    device, begin = torch.device(options.device), time.monotonic()
    if device.type == "cpu" and options.backend == "triton":
        from pyg_schnet.backends import triton

        triton.take_cpu_tensors()
    results = {"about": about(device), "deviations": {}, "workloads": {}}
    print(", ".join(f"{name} {value}" for name, value in results["about"].items()))
    small, blocks = options.small, 1 if options.small else 6
    checked = (partial(aspirin, 4), partial(silicon, 2), partial(perovskites, 3))
    for make in (partial(aspirin, 1, keep=4), partial(perovskites, 1, cutoff=2.5)) if small else checked:
        system = make(device=device)
        results["deviations"][system.name] = check(system, options.features, options.backend, blocks)
        worst = max(results["deviations"][system.name].values())
        print(f"{system.name}: right, largest deviation {worst:.1e}, two runs are the same in every bit", flush=True)
    if options.json:
        _write(options.json, results)
    print("\n| work | edges | ours | PyG / ours | compiled PyG / ours | exact / ours | CUDA graph / ours | GiB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for work in WORKLOADS:
        late = not small and time.monotonic() - begin > 60 * options.minutes
        if late or (small and work.small is None):
            continue
        system = (work.small if small else work.make)(device=device)
        peers = models(system, options.features, options.backend, blocks, with_compiled=not small)
        peers = [peer for peer in peers if peer.name == "ours" or peer.name in work.peers]
        found = measure(system, peers, work.forces, work.training, options, rounds=1 if small else 5)
        results["workloads"][work.name] = {"edges": system.edge_index.size(1), "atoms": system.pos.size(0), **found}
        _print(work.name, system, found)
        if options.json:
            _write(options.json, results)
        del system, peers
    system = aspirin(1, device, keep=4) if small else silicon(12, device)
    peak = bandwidth(device, 2**16 if small else 2**28)
    share = convolution_share(system, options.features, options.backend, peak)
    results["bandwidth"] = {"copy_bytes_per_second": peak, **share}
    print(
        f"\ncopies move {peak / 1e12:.2f} TB/s; the convolution of {system.edge_index.size(1)} edges takes "
        f"{1e6 * share['seconds']:.0f} µs, {share['share_of_bandwidth']:.0%} of that for what it has to move, "
        f"and gathers {share['gathered_bytes_per_second'] / 1e12:.2f} TB/s through the caches"
    )
    if options.json:
        _write(options.json, results)
    return results


def _print(name, system, found):
    seconds, ratio = found["seconds"], found["ratio"]
    cells = [
        f"{ratio[key]:.2f}" if key in ratio else "–"
        for key in ("PyG", "compiled PyG", "exact filters", "ours, CUDA graph")
    ]
    ours = f"{1e3 * seconds['ours']:.2f} ms" if "ours" in seconds else "–"
    gib = found["gib"].get("ours")
    cells = [name, system.edge_index.size(1), ours, *cells, "–" if gib is None else f"{gib:.2f}"]
    print(f"| {' | '.join(map(str, cells))} |")
    for key, note in found["notes"].items():
        print(f"  {key}: {note}", flush=True)


def _write(path, results):
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
