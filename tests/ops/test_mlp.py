"""Two layers in one step against torch's own operations."""

import math

import pytest
import torch

from pyg_schnet.backends import tuning
from pyg_schnet.nn import AtomNetwork, MeanReadout, SumReadout
from pyg_schnet.ops.mlp import Pool, mlp

F64 = torch.float64


def draw(n_atoms=70, n_features=7, n_hidden=5, n_outputs=3, dtype=F64):
    random = torch.Generator().manual_seed(0)
    shapes = [(n_atoms, n_features), (n_hidden, n_features), (n_hidden,), (n_outputs, n_hidden), (n_outputs,)]
    return [torch.randn(*shape, generator=random, dtype=F64).to(dtype).requires_grad_() for shape in shapes]


def pool_of(n_atoms, n_outputs, dtype=F64, mean=False):
    random = torch.Generator().manual_seed(1)
    scale, shift = torch.rand(2, n_outputs, generator=random, dtype=F64).to(dtype)
    z = torch.randint(0, 4, (n_atoms,), generator=random)
    batch = torch.randint(0, 5, (n_atoms,), generator=random).sort()[0]
    return Pool(scale, shift, torch.rand(4, n_outputs, generator=random, dtype=F64).to(dtype), z, batch, 6, mean)


def by_torch(x, w1, b1, w2, b2, pool=None):
    inner = x @ w1.T + b1  # torch's softplus is linear above 20
    values = (torch.logaddexp(inner, torch.zeros_like(inner)) - math.log(2.0)) @ w2.T + b2
    if pool is None:
        return values
    values = (pool.scale * values + pool.shift + pool.atomref[pool.z]) * (pool.z > 0)[:, None]
    total = torch.stack([values[pool.batch == k].sum(0) for k in range(pool.batch_size)])
    counts = [max(int(((pool.batch == k) & (pool.z > 0)).sum()), 1) for k in range(pool.batch_size)]
    return total / torch.tensor(counts)[:, None] if pool.mean else total


@pytest.mark.parametrize("pooled", [None, "sum", "mean"])
@pytest.mark.parametrize(
    "shape", [(70, 7, 5, 3), (200, 128, 64, 1), (1300, 9, 5, 2), (1, 3, 1, 1), (0, 4, 2, 1)], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_values_and_gradients(shape, dtype, pooled):
    inputs, exact = draw(*shape, dtype=dtype), draw(*shape)
    pools = [pool_of(shape[0], shape[3], real, pooled == "mean") if pooled else None for real in (dtype, F64)]
    found, expected = mlp(*inputs, pools[0]), by_torch(*exact, pools[1])
    tolerance = {torch.float32: 1e-4, F64: 1e-11}[dtype]
    torch.testing.assert_close(found.to(F64), expected, rtol=tolerance, atol=tolerance)
    along = torch.linspace(-1.0, 2.0, expected.numel(), dtype=F64).view_as(expected)
    gradients = torch.autograd.grad(found, inputs, along.to(dtype))
    for a, b in zip(gradients, torch.autograd.grad(expected, exact, along), strict=True):
        torch.testing.assert_close(a.to(F64), b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("pooled", [None, "sum", "mean"])
def test_derivatives_of_any_order(pooled):
    inputs = draw(6)
    pool = pool_of(6, 3, mean=pooled == "mean") if pooled else None
    assert torch.autograd.gradcheck(lambda *x: mlp(*x, pool), inputs)
    assert torch.autograd.gradgradcheck(lambda *x: mlp(*x, pool), inputs)


def test_gradient_by_inputs_alone_can_be_differentiated():
    inputs, pool = draw(), pool_of(70, 3)

    def squared_slope(function):
        (slope,) = torch.autograd.grad(function(*inputs, pool).square().sum(), inputs[0], create_graph=True)
        return torch.autograd.grad(slope.square().sum(), inputs)

    for a, b in zip(squared_slope(mlp), squared_slope(by_torch), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_atoms_of_no_structure_or_element_are_refused():
    inputs, pool = draw(), pool_of(70, 3)
    for wrong in (
        pool._replace(batch=pool.batch + 4),
        pool._replace(batch=pool.batch - 1),
        pool._replace(z=pool.z + 1),
    ):
        with pytest.raises(IndexError, match=r"z must lie between 0 and 3 and batch between 0 and 5; got z from"):
            mlp(*inputs, wrong)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_threads_change_nothing(dtype):
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        inputs = draw(1100, 40, 20, 2, dtype)
        with tuning.changed(serial_work=0):
            out = mlp(*inputs)
            found.append([out, *torch.autograd.grad(out.square().sum(), inputs)])
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, found[0], strict=True))


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
