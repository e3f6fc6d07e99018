"""Readouts on the operators mlp and pool_atoms: parts that are hooked, exchanged or learned."""

import pytest
import torch

from pyg_schnet.nn import AtomNetwork, MeanReadout, SumReadout
from pyg_schnet.ops import mlp, pool_atoms

F64 = torch.float64


@pytest.mark.parametrize(("z", "batch"), [([1, 4], [0, 1]), ([1, 3], [0, 2]), ([1, -1], [0, 1]), ([1, 3], [-1, 1])])
def test_atoms_of_no_structure_or_element_are_refused(z, batch):
    one = torch.ones(1)
    with pytest.raises(IndexError, match=r"z must lie between 0 and 3 and batch between 0 and 1; got z from"):
        pool_atoms(torch.ones(2, 1), torch.tensor(z), torch.tensor(batch), 2, one, one, torch.zeros(4, 1))


def test_gradient_by_inputs_alone_can_be_differentiated():
    shapes = (6, 3), (4, 3), (4,), (2, 4), (2,)
    inputs = [torch.randn(shape, dtype=F64, requires_grad=True) for shape in shapes]

    def squared_slope(backend):
        out = mlp(*inputs, backend=backend).square().sum()
        (slope,) = torch.autograd.grad(out, inputs[0], create_graph=True)
        return torch.autograd.grad(slope.square().sum(), inputs)

    for a, b in zip(squared_slope("numba"), squared_slope("reference"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("cls", [SumReadout, MeanReadout])
def test_hooks_are_called(cls):
    readout = cls(8).double()
    x, z, batch = torch.randn(5, 8, dtype=F64), torch.tensor([1, 6, 0, 8, 1]), torch.tensor([0, 0, 0, 1, 1])
    expected = readout(x, z, x, batch, 2)
    for part in (readout.network, readout.network.lin1, readout.network.act, readout.network.lin2):
        seen = []
        handle = part.register_forward_hook(lambda *_, seen=seen: seen.append(True))
        torch.testing.assert_close(readout(x, z, x, batch, 2), expected, rtol=1e-13, atol=1e-13)
        assert seen == [True]
        handle.remove()


@pytest.mark.parametrize("name", ["network", "network.lin1", "network.lin2"])
def test_hooks_of_gradients_are_called(name):
    readout, seen = SumReadout(4).double(), []
    readout.get_submodule(name).register_full_backward_hook(lambda *_: seen.append(True))
    x, z, batch = torch.randn(3, 4, dtype=F64, requires_grad=True), torch.tensor([1, 6, 8]), torch.tensor([0, 0, 1])
    readout(x, z, x, batch, 2).sum().backward()
    assert seen == [True]


def test_layers_without_bias():
    network = AtomNetwork(4).double()
    network.lin2.bias = None
    x = torch.randn(3, 4, dtype=F64)
    torch.testing.assert_close(network(x), network.act(network.lin1(x)) @ network.lin2.weight.T)


def test_exchanged_parts_act():
    network = AtomNetwork(4).double()
    x = torch.randn(3, 4, dtype=F64)
    network.act = torch.nn.Tanh()
    torch.testing.assert_close(network(x), network.lin2(torch.tanh(network.lin1(x))))


def test_statistics_that_are_learned_get_gradients():
    readout = SumReadout(4).double()
    readout.shift = torch.nn.Parameter(readout._buffers.pop("shift"))
    x, z, batch = torch.randn(3, 4, dtype=F64), torch.tensor([1, 6, 8]), torch.tensor([0, 0, 1])
    readout(x, z, x, batch, 2).sum().backward()
    assert readout.shift.grad.item() == 3.0
