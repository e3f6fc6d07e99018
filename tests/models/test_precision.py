"""Digits of float32 models: total energies, sums over many atoms and edges, dipoles that vanish."""

import copy

import pytest
import torch
from ase.build import molecule

from pyg_schnet import DTNN, SchNet, radius_graph
from pyg_schnet.data import Property, to_data
from pyg_schnet.derivatives import energy_forces_stress
from pyg_schnet.interfaces import SchNetCalculator
from pyg_schnet.nn import DipoleReadout, MeanReadout, SumReadout
from pyg_schnet.nn.aggregation import sum_to_targets
from pyg_schnet.ops import spline_conv, spline_graph
from pyg_schnet.train.task import PropertyTask

F64 = torch.float64
ATOMREF = {1: -13.5873, 6: -1029.8631, 8: -2042.6111}


def energy_model(out_channels=1, mean=False, kind=SchNet, **options):
    """A float32 model with energies of elements in eV, and a shift that is as large."""
    torch.manual_seed(0)
    readout = (MeanReadout if mean else SumReadout)(16, out_channels, scale=0.3, shift=-517.77)
    references = torch.zeros(10, out_channels)
    for number, value in ATOMREF.items():
        references[number] = value
    readout.set_references(references)
    return kind(16, 16, 1, cutoff=5.0, readout=readout, **options).eval().requires_grad_(False)


def copies_of(name, copies):
    """So many molecules far from each other, as one structure."""
    data = to_data(molecule(name), dtype=F64)
    steps = torch.arange(copies, dtype=F64).repeat_interleave(len(data.z)) * 30.0
    pos = data.pos.repeat(copies, 1)
    return data.z.repeat(copies), torch.stack([pos[:, 0] + steps, pos[:, 1], pos[:, 2]], 1)


def half_a_digit(value):
    """Half the distance of the float32 number from the next one."""
    return 0.51 * float(torch.nextafter(value.float(), torch.tensor(float("inf"))) - value.float())


WAYS = [
    "call",
    "call in training",
    "energy_forces_stress",
    "energy_forces_stress, to differentiate",
    "compiled",
    "exact",
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("copies", [1, 40])
def test_energies_are_rounded_once(copies, mean, way):
    model = energy_model(mean=mean, filters="exact" if way == "exact" else "auto").train("training" in way)
    z, pos = copies_of("CH3COOH", copies)
    exact = copy.deepcopy(model).double()
    expected = exact(z, pos).sum().detach()
    known = sum(ATOMREF[number] - 517.77 for number in z.tolist()) / (len(z) if mean else 1)
    assert float(expected) == pytest.approx(known, rel=1e-2)
    edges = radius_graph(pos.float(), 5.0)
    calls = {
        "energy_forces_stress": lambda: energy_forces_stress(model, z, pos.float()).energy,
        "energy_forces_stress, to differentiate": lambda: (
            energy_forces_stress(model, z, pos.float(), create_graph=True).energy
        ),
        "compiled": lambda: torch.compile(model, backend="eager")(z, pos.float(), edge_index=edges),
    }
    found = calls.get(way, lambda: model(z, pos.float()))()
    assert found.dtype == torch.float32
    learned = 2e-5 * copies  # what the network itself errs by in float32, eV
    assert abs(float(found.detach().double().sum() - expected)) <= half_a_digit(expected) + learned


@pytest.mark.parametrize("kind", [SchNet, DTNN])
def test_several_outputs_and_atom_values(kind):
    model = energy_model(3, kind=kind)
    z, pos = copies_of("CH3COOH", 4)
    expected = copy.deepcopy(model).double()(z, pos).detach()
    torch.testing.assert_close(model(z, pos.float()).double(), expected, rtol=6.5e-8, atol=1e-4)
    values = model.readout.atom_values(torch.zeros(2, 16), torch.tensor([8, 0]))
    bias = 0.3 * model.readout.network(torch.zeros(1, 16))
    exact = torch.tensor(ATOMREF[8]).double() + torch.tensor(-517.77).double() + bias.double()
    torch.testing.assert_close(values[:1], exact.float(), rtol=0, atol=0)
    assert not values[1].any()


def test_calculator_predictions_and_errors_have_all_digits():
    """Each takes references and shift out and adds them in float64."""
    atoms, model = molecule("CH3COOH"), energy_model()
    learned = copy.deepcopy(model).double()
    learned.readout.atomref.zero_()
    learned.readout.shift.zero_()
    data = to_data(atoms, dtype=F64)
    offsets = sum(float(torch.tensor(ATOMREF[k])) + float(torch.tensor(-517.77)) for k in data.z.tolist())
    expected = offsets + float(learned(data.z, data.pos))
    for dtype in (torch.float32, F64):
        atoms.calc = SchNetCalculator(model, unit="eV", dtype=dtype)
        assert atoms.get_potential_energy() == pytest.approx(expected, abs=2e-6)
        assert float(atoms.get_potential_energies().sum()) == pytest.approx(expected, abs=2e-6)
    task = PropertyTask.from_model(copy.deepcopy(model), Property("energy", "eV"))
    from torch_geometric.data import Batch

    batch = Batch.from_data_list([to_data(molecule("CH3COOH"))])
    batch.energy = torch.tensor([expected + 1e-3], dtype=F64)
    assert float(task.predict_step(batch, 0)) == pytest.approx(expected, abs=2e-6)
    predicted, true = task.compare(batch)["energy"]
    assert float(true - predicted) == pytest.approx(1e-3, abs=2e-6)


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("way", ["directed", "unsorted", "half list", "hub first", "scatter", "segment"])
def test_sums_over_a_hundred_thousand_edges(way, alike):
    torch.manual_seed(0)
    n = 100_000
    x, h, interval = torch.rand(n + 1, 4) + 0.3, torch.rand(n, 4), torch.randint(0, 9, (n,))
    if alike:
        x, h, interval = x[:1].expand(n + 1, 4).contiguous(), h[:1].expand(n, 4).contiguous(), torch.full((n,), 3)
    c, hub = torch.rand(12, 4), torch.full((n,), n)
    edges = torch.stack([torch.arange(n), hub])
    if way in ("scatter", "segment"):
        messages, index = x[:n] * h, torch.zeros(n, dtype=torch.int64)
        found = sum_to_targets(messages, index, 1, torch.tensor([0, n]) if way == "segment" else None)
        expected = messages.double().sum(0, keepdim=True)
    else:
        if way == "unsorted":
            edges = torch.cat([edges[:, ::2], edges.flip(0)[:, :1000], edges[:, 1::2]], 1)
            interval, h = interval[torch.arange(edges.size(1)) % n], h[torch.arange(edges.size(1)) % n]
        if way == "hub first":
            edges = torch.stack([torch.zeros(n, dtype=torch.int64), torch.arange(1, n + 1)])
        half_list = way in ("half list", "hub first")
        graph, basis = spline_graph(interval, edges, n + 1), h
        if half_list:
            graph, basis = graph.in_both_directions(), torch.cat([h, h])
        found = spline_conv(x, c, basis, graph)
        filters = sum(h[:, m : m + 1].double() * c.double()[interval + m] for m in range(4))
        expected = torch.zeros(n + 1, 4, dtype=F64).index_add_(0, edges[1], filters * x.double()[edges[0]])
        if half_list:
            expected.index_add_(0, edges[0], filters * x.double()[edges[1]])
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("filters", ["exact", "spline"])
def test_forces_at_an_atom_of_many_edges(filters):
    torch.manual_seed(0)
    n = 20_000
    pos = torch.randn(n + 1, 3)
    pos = pos / pos.norm(dim=1, keepdim=True) * (1.0 + torch.rand(n + 1, 1)) + torch.tensor([1.0, 0.0, 0.0])
    pos[0], z = 0.0, torch.randint(1, 9, (n + 1,))
    edges = torch.stack([torch.arange(1, n + 1), torch.zeros(n, dtype=torch.int64)])
    edges = torch.cat([edges, edges.flip(0)], 1)
    model = SchNet(4, 4, 1, 8, 4.0, filters=filters).eval()
    found = energy_forces_stress(model, z, pos, edge_index=edges)
    expected = energy_forces_stress(copy.deepcopy(model).double(), z, pos.double(), edge_index=edges)
    torch.testing.assert_close(found.energy.double(), expected.energy, rtol=2e-6, atol=0)
    error = (found.forces[0].double() - expected.forces[0]).abs().max()
    assert float(error) < 1e-6 * float(expected.forces[1:].abs().sum())


@pytest.mark.parametrize("reduce", ["sum", "mean"])
@pytest.mark.parametrize("hooked", [False, True])
def test_readouts_of_a_hundred_thousand_atoms(hooked, reduce):
    torch.manual_seed(0)
    n = 100_000
    readout = (SumReadout if reduce == "sum" else MeanReadout)(8, 2, shift=0.737)
    if hooked:
        readout.network.register_forward_hook(lambda *_: None)
    x, z, batch = torch.randn(1, 8).expand(n, 8).contiguous(), torch.ones(n, dtype=torch.int64), torch.zeros(n).long()
    value = readout.network(x[:1]).double() + torch.tensor(0.737).double()
    found = readout(x, z, torch.zeros(n, 3), batch, 1)
    torch.testing.assert_close(found.double(), value * (n if reduce == "sum" else 1), rtol=1e-7, atol=0)


@pytest.mark.parametrize("name", ["N2", "CO2", "CH4", "C6H6", "C2H2"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("filters", ["auto", "exact"])
def test_magnitudes_of_dipoles_that_vanish_by_symmetry(filters, dtype, name):
    torch.manual_seed(0)
    model = SchNet(16, 16, 2, 20, 5.0, readout="dipole", filters=filters).to(dtype).eval()
    for weight in model.parameters():
        weight.data.add_(0.1 * torch.randn_like(weight))
    data = to_data(molecule(name), dtype=dtype)
    pos = data.pos.requires_grad_()
    value = model(data.z, pos)
    (slopes,) = torch.autograd.grad(value.sum(), pos, create_graph=True)
    (second,) = torch.autograd.grad(slopes.square().sum() + slopes.sum(), pos, create_graph=True)
    assert float(value.detach()) == 0.0
    assert not slopes.any()
    assert not second.any()
    with torch.no_grad():
        pos[0] += 0.05
    assert (float(model(data.z, pos).detach()) > 1e-4) == (name != "N2")  # two atoms that are alike never have a dipole


def test_magnitude_of_a_small_dipole_is_kept():
    readout = DipoleReadout(4, neutralize=False, origin="zero")
    for weight in readout.parameters():
        weight.data.zero_()
    readout.network.lin2.bias.data.fill_(0.5)  # charges of 0.5 e
    pos = torch.tensor([[1.0, 0.0, 0.0], [-1.0 + 1e-4, 0.0, 0.0]], requires_grad=True)
    value = readout(torch.zeros(2, 4), torch.tensor([1, 1]), pos, torch.tensor([0, 0]), 1)
    assert float(value.detach()) == pytest.approx(5e-5, rel=1e-3)
    (slopes,) = torch.autograd.grad(value.sum(), pos)
    torch.testing.assert_close(slopes, torch.tensor([[0.5, 0.0, 0.0], [0.5, 0.0, 0.0]]))
