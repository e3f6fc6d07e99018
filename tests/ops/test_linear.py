"""Dense layers on many rows against torch's own."""

import pytest
import torch
import torch.nn.functional as F

from pyg_schnet.ops.linear import _is_faster, linear


def draw(rows, n_in, n_out, dtype=torch.float32):
    random = torch.Generator().manual_seed(0)
    shapes = (rows, n_in), (n_out, n_in), (n_out,)
    return [torch.randn(shape, generator=random, dtype=dtype).requires_grad_() for shape in shapes]


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.detach().abs().max()))


@pytest.mark.parametrize("shape", [(2048, 16, 24), (3000, 128, 64), (5, 32, 32), (2500, 8, 8)], ids=str)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("create_graph", [False, True])
def test_values_and_gradients(shape, with_bias, create_graph):
    inputs = draw(*shape)[: 2 + with_bias]
    assert _is_faster(*inputs[:2]) == (shape[0] >= 2048 and shape[1] >= 16)
    found, expected = linear(*inputs), F.linear(*inputs)
    close(found, expected)
    along = torch.cos(expected.detach())
    gradients = (torch.autograd.grad(out, inputs, along, create_graph=create_graph) for out in (found, expected))
    for one, known in zip(*gradients, strict=True):
        close(one, known)


def test_second_derivatives():
    inputs = draw(2048, 16, 20)

    def squared_slopes(function):
        slopes = torch.autograd.grad(function(*inputs).square().sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(slope.sum() for slope in slopes), inputs, allow_unused=True)

    for one, known in zip(squared_slopes(linear), squared_slopes(F.linear), strict=True):
        close(one, known)


def test_memory_layout_does_not_matter():
    x, weight, bias = draw(2048, 16, 20)
    strided = x.t().contiguous().t(), weight.t().contiguous().t(), bias.repeat_interleave(2)[::2]
    close(linear(*strided), F.linear(x, weight, bias))


def test_torch_func_gets_values():
    x, weight, bias = (value.detach() for value in draw(2048, 16, 20))
    slope = torch.func.grad(lambda x: linear(x, weight, bias).square().sum())(x)
    close(slope, 2.0 * F.linear(x, weight, bias) @ weight)
    close(torch.func.jvp(lambda x: linear(x, weight, bias), (x,), (x,))[1], F.linear(x, weight))
