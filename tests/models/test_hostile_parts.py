"""Parts and weights that are changed in ways that come from outside of a model: patched classes, copies, transforms."""

import copy

import pytest
import torch
from ase import Atoms
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.models.schnet import CFConv as PyGCFConv

from pyg_schnet import DTNN, SchNet, radius_graph
from pyg_schnet.derivatives import energy_forces_stress
from pyg_schnet.engine.frozen import freeze
from pyg_schnet.interfaces import SchNetCalculator
from pyg_schnet.models.convert import like_pyg
from pyg_schnet.models.graph import prepare_edges
from pyg_schnet.nn import CFConv, FilterNetwork, Readout, SumReadout

Z = torch.tensor([8, 1, 1, 6])
POS = torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0], [1.1, 1.2, 1.3]])
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def make(filters="auto", training=False, cls=SchNet):
    torch.manual_seed(0)
    return cls(16, 16, 2, 20, 4.0, filters=filters).train(training)


def no_message(model):
    """The energy where no block hears of neighbours: each gives what its layers make of zero."""
    x = model.embedding(Z)
    for block in model.interactions:
        x = x + block.lin2(block.act(block.lin1(torch.zeros(4, 16))))
    return model.readout(x, Z, POS, torch.zeros_like(Z), 1)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["propagate", "message", "aggregate", "update"])
def test_patched_methods_of_convolutions(name, training, monkeypatch):
    model = make(training=training)
    energy_forces_stress(model, Z, POS)
    before = getattr(CFConv, name)
    monkeypatch.setattr(CFConv, name, lambda *args, **kwargs: 0.0 * before(*args, **kwargs))
    torch.testing.assert_close(model(Z, POS), no_message(model), **CLOSE)
    assert energy_forces_stress(model, Z, POS).forces.abs().max() < 1e-6


def test_propagate_that_pyg_has_written_is_no_patch():
    model = make()
    assert CFConv.propagate is not MessagePassing.propagate
    assert model.energy_and_gradients(Z, POS) is not None


@pytest.mark.parametrize("training", [True, False])
def test_patched_calls_of_all_modules(training, monkeypatch):
    model = make(training=training)
    energy_forces_stress(model, Z, POS)
    called, before = [], nn.Module.__call__

    def call(self, *args, **kwargs):
        called.append(type(self).__name__)
        return before(self, *args, **kwargs)

    monkeypatch.setattr(nn.Module, "__call__", call)
    model(Z, POS)
    assert {"SchNet", "Embedding", "CFConv", "FilterNetwork", "Linear", "AtomNetwork"} <= set(called)
    called.clear()
    energy_forces_stress(model, Z, POS)
    assert "FilterNetwork" in called


def test_patched_classes_of_pyg(monkeypatch):
    model = make(cls=like_pyg.SchNet)
    before = model(Z, POS)
    monkeypatch.setattr(PyGCFConv, "message", lambda self, x_j, W: 0.0 * x_j * W)
    x = model.embedding(Z)
    for block in model.interactions:
        x = x + block.lin(block.act(block.conv.lin2(torch.zeros(4, 16))))
    expected = model.lin2(model.act(model.lin1(x))).sum(0, keepdim=True)
    torch.testing.assert_close(model(Z, POS), expected, **CLOSE)
    assert not torch.allclose(before, expected, **CLOSE)


@pytest.mark.parametrize("training", [True, False])
def test_filter_networks_with_a_forward_on_the_object(training):
    model = make(training=training)
    for block in model.interactions:
        network = block.conv.filter_network
        network.forward = lambda dist: torch.zeros(dist.size(0), 16)
        assert block.conv.spline is None
    torch.testing.assert_close(model(Z, POS), no_message(model), **CLOSE)


def test_patched_atom_values(monkeypatch):
    readout, x, batch = SumReadout(16), torch.randn(4, 16), torch.zeros_like(Z)
    monkeypatch.setattr(SumReadout.__mro__[1], "atom_values", lambda self, x, z: z.unsqueeze(-1).to(x.dtype))
    assert readout(x, Z, POS, batch, 1).tolist() == [[16.0]]


def doubled(part):
    """Set a method on an object that calls the one of before."""
    before = part.forward
    part.forward = lambda *args, **kwargs: 2.0 * before(*args, **kwargs)


@pytest.mark.parametrize("get", [lambda m: m.readout, lambda m: m.readout.network.lin2, lambda m: m])
def test_copies_of_methods_that_call_their_object(get):
    model = make("exact")
    nn.init.constant_(model.readout.network.lin2.bias, 0.3)
    plain = model(Z, POS).item()
    doubled(get(model))
    assert model(Z, POS).item() == pytest.approx(2.0 * plain, rel=1e-5)
    frozen = freeze(model)
    with torch.no_grad():
        model.readout.network.lin2.weight.zero_()
    assert frozen(Z, POS).item() == pytest.approx(2.0 * plain, rel=1e-5)
    assert frozen.double()(Z, POS.double()).item() == pytest.approx(2.0 * plain, rel=1e-5)


def test_calculators_call_methods_of_their_own_copy():
    model = make("exact")
    plain = model(Z, POS).item()
    doubled(model.interactions[0].lin_in)
    doubled(model.readout)
    expected = model(Z, POS).item()
    atoms = Atoms(numbers=Z.numpy(), positions=POS.double().numpy())
    atoms.calc = SchNetCalculator(model, unit="eV")
    assert atoms.get_potential_energy() == pytest.approx(expected, rel=1e-5)
    assert expected != pytest.approx(plain, rel=1e-2)


@pytest.mark.parametrize("training", [True, False])
def test_weights_that_are_results_of_others(training):
    model, factor = make(training=training), torch.tensor(1.1, requires_grad=True)
    weights = {name: factor * value.detach() for name, value in model.named_parameters()}
    out = functional_call(model, weights, (Z, POS))
    (slope,) = torch.autograd.grad(out.sum(), factor)
    exact, found = copy.deepcopy(model), []
    exact.filters = "exact"
    for value in (1.1, 1.101, 1.099):
        scaled = {name: value * weight.detach().double() for name, weight in model.named_parameters()}
        found.append(functional_call(copy.deepcopy(exact).double(), scaled, (Z, POS.double())).item())
    assert out.item() == pytest.approx(found[0], rel=1e-4)
    assert slope.item() == pytest.approx((found[1] - found[2]) / 2e-3, rel=1e-2)


def test_pyg_twins_take_tensors_for_weights():
    model = make(cls=like_pyg.SchNet)
    expected = model(Z, POS)
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    torch.testing.assert_close(functional_call(model, weights, (Z, POS)), expected)
    torch.testing.assert_close(model(Z, POS), expected)


@pytest.mark.parametrize("training", [True, False])
def test_checkpoints_of_a_block(training):
    model, plain = make(training=training), make(training=training)
    for one in model, plain:
        one.filters = "spline"
    block = model.interactions[0]
    before = block.forward
    block.forward = lambda *args: checkpoint(before, *args, use_reentrant=False)
    torch.testing.assert_close(
        energy_forces_stress(model, Z, POS).forces, energy_forces_stress(plain, Z, POS).forces, **CLOSE
    )
    model(Z, POS).sum().backward()
    plain(Z, POS).sum().backward()
    torch.testing.assert_close(model.embedding.weight.grad, plain.embedding.weight.grad, **CLOSE)


@pytest.mark.parametrize("filters", ["exact", "auto"])
def test_several_gradients_at_once(filters):
    model, pos = make(filters), POS.clone().requires_grad_()
    factors = torch.tensor([1.0, -2.0]).view(2, 1, 1)
    (found,) = torch.autograd.grad(model(Z, pos), pos, factors, is_grads_batched=True)
    (slope,) = torch.autograd.grad(model(Z, pos), pos, torch.ones(1, 1))
    torch.testing.assert_close(found, factors * slope, **CLOSE)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:.*torch.jit.script.*")
@pytest.mark.parametrize("cls", [SchNet, DTNN, like_pyg.SchNet])
def test_torchscript_is_refused(cls):
    with pytest.raises(ValueError, match=r"TorchScript cannot express a (SchNet|DTNN), .*torch\.export"):
        torch.jit.script(cls())


def test_edges_of_periodic_structures_say_what_they_cross():
    model, cell, pbc = make(), 6.0 * torch.eye(3).unsqueeze(0), torch.tensor([[True, False, False]])
    edge_index, edge_shift = radius_graph(POS, 4.0, cell=cell, pbc=pbc)
    given = {"edge_index": edge_index, "cell": cell}
    for call in (
        lambda **more: model(Z, POS, **given, **more),
        lambda **more: energy_forces_stress(model, Z, POS, **given, **more),
    ):
        with pytest.raises(ValueError, match="edges of periodic structures need edge_shift"):
            call(pbc=pbc)
        call(pbc=torch.zeros_like(pbc))
        call(pbc=pbc, edge_shift=edge_shift)
    none = prepare_edges(
        Z, POS, torch.zeros_like(Z), 4.0, edge_index=edge_index[:, :0], cell=cell, pbc=pbc, batch_size=1
    )
    assert none.index.shape == (2, 0)
    inside = (edge_shift == 0).all(1)
    open_graph = radius_graph(POS, 4.0)
    zero = torch.zeros(int(inside.sum()), 3, dtype=torch.int64)
    found = model(Z, POS, edge_index=edge_index[:, inside], cell=cell, pbc=pbc, edge_shift=zero)
    torch.testing.assert_close(found, model(Z, POS, edge_index=open_graph), **CLOSE)


def test_methods_that_are_not_closures_are_copied_as_they_are():
    network = FilterNetwork(8)
    network.forward = torch.tanh
    assert freeze(network).model.forward is torch.tanh


class Charges(Readout):
    """A readout of a user's that says nothing but how it is called."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(16, 1)

    def forward(self, x, z, pos, batch, batch_size):
        return torch.zeros(batch_size, 1).index_add(0, batch, self.lin(x))


def test_readouts_that_say_only_how_they_are_called(tmp_path):
    model = SchNet(16, 16, 2, 20, 4.0, readout=Charges()).eval()
    weight = model.readout.lin.weight
    features = []
    handle = model.readout.register_forward_pre_hook(lambda module, args: features.append(args[0]))
    out = model(Z, POS)
    handle.remove()
    expected = (features[0] @ weight.T + model.readout.lin.bias).sum(0, keepdim=True)
    torch.testing.assert_close(out, expected)
    assert "(lin): Linear(in_features=16" in repr(model.readout)
    assert "Charges" in repr(model)
    before = weight.detach().clone()
    model.reset_parameters()
    assert not torch.equal(weight, before)
    with pytest.raises(NotImplementedError, match="Charges has no config, the dict of the arguments that build it"):
        _ = model.readout.config
    with pytest.raises(ValueError, match="a readout of class Charges cannot be stored in a model file"):
        model.save(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="a calculator needs energies"):
        SchNetCalculator(model, unit="eV")


@pytest.mark.parametrize("cls", [SchNet, DTNN, like_pyg.SchNet])
def test_what_is_no_tensor_is_refused(cls):
    model = cls()
    with pytest.raises(ValueError, match=r"pos must be a tensor of positions in Å, \[N, 3\]; got None"):
        model(Z, None)
    with pytest.raises(ValueError, match=r"z must be a tensor of atomic numbers.*got a Proxy"):
        torch.fx.symbolic_trace(model)
