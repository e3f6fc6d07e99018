import numpy as np
import pytest
import torch
from torch_geometric.index import index2ptr

from pyg_schnet.nn.aggregation import sum_to_targets

F64 = torch.float64
INDEX = torch.tensor([0, 0, 0, 2, 2, 5, 5, 5, 5])  # sorted; targets 1, 3, 4 and 6 have no messages
N = 7


def by_loop(src, index, n):
    out = np.zeros((n, *src.shape[1:]))
    for row, target in zip(src, index, strict=True):
        out[target] += row
    return out


@pytest.fixture(params=["scatter", "segment"])
def ptr(request):
    return None if request.param == "scatter" else index2ptr(INDEX, N)


@pytest.mark.parametrize("trailing", [(), (1,), (4,), (2, 3)])
def test_equals_a_loop(ptr, trailing):
    src = torch.randn(len(INDEX), *trailing, dtype=F64)
    expected = by_loop(src.numpy(), INDEX.numpy(), N)
    np.testing.assert_allclose(sum_to_targets(src, INDEX, N, ptr).numpy(), expected, rtol=1e-14, atol=1e-15)


def test_not_contiguous(ptr):
    src = torch.randn(4, len(INDEX), dtype=F64).T
    expected = by_loop(src.numpy(), INDEX.numpy(), N)
    np.testing.assert_allclose(sum_to_targets(src, INDEX, N, ptr).numpy(), expected, rtol=1e-14, atol=1e-15)


def test_any_order_without_ptr():
    order = torch.randperm(len(INDEX))
    src = torch.randn(len(INDEX), 3, dtype=F64)
    torch.testing.assert_close(
        sum_to_targets(src[order], INDEX[order], N), sum_to_targets(src, INDEX, N), rtol=1e-14, atol=1e-14
    )


def test_no_messages():
    index = torch.empty(0, dtype=torch.int64)
    for ptr in (None, index2ptr(index, 3)):
        src = torch.empty(0, 2, requires_grad=True)
        out = sum_to_targets(src, index, 3, ptr)
        assert out.shape == (3, 2)
        assert not out.any()
        out.sum().backward()
        assert src.grad.shape == (0, 2)


def test_derivatives(ptr):
    src = torch.randn(len(INDEX), 2, dtype=F64, requires_grad=True)

    def squares(src):
        return sum_to_targets(src.sin(), INDEX, N, ptr).square()

    assert torch.autograd.gradcheck(squares, (src,))
    assert torch.autograd.gradgradcheck(squares, (src,))


def test_third_derivative(ptr):
    src = torch.linspace(-1, 1, len(INDEX), dtype=F64, requires_grad=True)
    value = sum_to_targets(src**2, INDEX, N, ptr).pow(2).sum()
    for _ in range(3):
        (value,) = torch.autograd.grad(value.sum(), src, create_graph=True)
    # S = sum of x², s = sum of x over n messages: S² -> 4 S x_k -> 8 s x_k + 4 S -> 16 s + 8 n x_k
    x = src.detach()
    same = (INDEX[:, None] == INDEX).to(F64)
    torch.testing.assert_close(value.detach(), 16 * same @ x + 8 * same.sum(1) * x, rtol=1e-12, atol=1e-12)


def test_vmap(ptr):
    src = torch.randn(5, len(INDEX), 3, dtype=F64)
    expected = np.stack([by_loop(one.numpy(), INDEX.numpy(), N) for one in src])
    found = torch.vmap(lambda one: sum_to_targets(one, INDEX, N, ptr))(src)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-14, atol=1e-14)
    found = torch.vmap(lambda one: sum_to_targets(one, INDEX, N, ptr), in_dims=2, out_dims=1)(src.permute(1, 2, 0))
    np.testing.assert_allclose(found.numpy(), expected.swapaxes(0, 1), rtol=1e-14, atol=1e-14)


def test_batched_gradients(ptr):
    src = torch.randn(len(INDEX), dtype=F64, requires_grad=True)

    def function(src):
        return sum_to_targets(src**3, INDEX, N, ptr)

    loop = torch.autograd.functional.jacobian(function, src)
    batched = torch.autograd.functional.jacobian(function, src, vectorize=True)
    expected = torch.nn.functional.one_hot(INDEX, N).T * 3 * src.detach() ** 2
    torch.testing.assert_close(loop, expected)
    torch.testing.assert_close(batched, expected)
    torch.testing.assert_close(torch.func.jacrev(function)(src.detach()), expected)


def test_batched_second_derivative(ptr):
    src = torch.randn(len(INDEX), dtype=F64)

    def function(src):
        return sum_to_targets(src**2, INDEX, N, ptr).square().sum()

    loop = torch.autograd.functional.hessian(function, src)
    batched = torch.autograd.functional.hessian(function, src, vectorize=True)
    torch.testing.assert_close(batched, loop)
    same = (INDEX[:, None] == INDEX).to(F64)
    expected = 8 * same * torch.outer(src, src) + torch.diag(4 * same @ src**2)
    torch.testing.assert_close(loop, expected)


def test_repeatable():
    src, index = torch.randn(20_000, 8), torch.randint(0, 50, (20_000,)).sort().values
    for ptr in (None, index2ptr(index, 50)):
        first = sum_to_targets(src, index, 50, ptr)
        assert all(torch.equal(sum_to_targets(src, index, 50, ptr), first) for _ in range(5))


def test_keeps_precision(ptr):
    for dtype in (torch.float32, torch.float64):
        assert sum_to_targets(torch.ones(len(INDEX), 2, dtype=dtype), INDEX, N, ptr).dtype == dtype
