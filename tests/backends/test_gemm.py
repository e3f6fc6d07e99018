"""Matrix products and sums of the kernels against numpy's."""

import numpy as np
import pytest
import torch

from pyg_schnet.backends import tuning
from pyg_schnet.backends.numba import gemm, gemm_tn
from pyg_schnet.backends.numba.lib import gemm as dense
from pyg_schnet.backends.numba.lib.buffers import empty, stacked, zeros
from pyg_schnet.backends.numba.lib.transpose import transposes

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-14}
# rows, summands, columns: less than a tile, ragged in all three, several passes, nothing at all
SHAPES = [(1, 1, 1), (5, 3, 2), (48, 64, 64), (61, 50, 85), (100, 300, 131), (0, 4, 5), (7, 4, 0)]


def draw(n_rows, n_columns, dtype, seed=0):
    return torch.randn(n_rows, n_columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def assert_equal(found, expected, dtype, n_summands):
    assert found.dtype == dtype
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.double().numpy(), expected, rtol=0, atol=TOLERANCE[dtype] * max(n_summands, 1))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products(shape, dtype):
    n_rows, n_summands, n_columns = shape
    a, w = draw(n_rows, n_summands, dtype), draw(n_summands, n_columns, dtype, seed=1)
    assert_equal(gemm(a, w), a.double().numpy() @ w.double().numpy(), dtype, n_summands)
    strided = w.t().contiguous().t()
    assert torch.equal(gemm(a, strided), gemm(a, w))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_of_rows(shape, dtype):
    n_summed, n_rows, n_columns = shape
    a, b = draw(n_summed, n_rows, dtype), draw(n_summed, n_columns, dtype, seed=1)
    assert_equal(gemm_tn(a, b), a.double().numpy().T @ b.double().numpy(), dtype, n_summed)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("first", "last"), [(0, 70), (33, 69), (5, 6), (7, 7)])
@pytest.mark.parametrize(("begin", "end"), [(0, 37), (16, 32), (3, 4), (5, 5)])
def test_some_rows_of_a_product_and_the_sums_of_columns(begin, end, first, last, dtype):
    random = np.random.default_rng(0)
    a, b = random.normal(size=(70, 37)).astype(dtype), random.normal(size=(70, 20)).astype(dtype)
    out, sums = np.full((37, 20), 7.0, dtype), np.full(37, 7.0, dtype)
    dense.gemm_tn_rows(begin, end, first, last, a, b, out, sums)
    inside = np.zeros(37, bool)
    inside[begin:end] = True
    np.testing.assert_allclose(out[inside], (a[first:last].T @ b[first:last])[inside], rtol=0, atol=1e-4)
    np.testing.assert_allclose(sums[inside], a[first:last].sum(0)[inside], rtol=0, atol=1e-4)
    assert (out[~inside] == 7.0).all()
    assert (sums[~inside] == 7.0).all()


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_threads_change_nothing(dtype):
    a, b, w = draw(501, 100, dtype), draw(501, 90, dtype, seed=1), draw(100, 90, dtype, seed=2)
    assert a.numel() * 90 > tuning.current.serial_work
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        found.append((gemm(a, w), gemm_tn(a, b)))
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(x, y) for x, y in zip(other, found[0], strict=True))


@pytest.mark.parametrize("shape", [(1, 1), (3, 50), (16, 16), (33, 17), (0, 4)], ids=str)
def test_transposes(shape):
    x = draw(*shape, torch.float32)
    np.testing.assert_array_equal(transposes(x.numpy()[None])[0], x.t().numpy())
    many = np.random.default_rng(0).normal(size=(3, *shape))
    np.testing.assert_array_equal(transposes(many), many.transpose(0, 2, 1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(3, 16), (1, 1), (0, 5), (2, 7, 33), (1000,)], ids=str)
def test_arrays_begin_with_a_line_of_the_cache(shape, dtype):
    for make in (empty, zeros):
        values = make(shape, np.dtype(dtype))
        assert values.shape == shape
        assert values.dtype == dtype
        assert values.flags.c_contiguous
        assert values.nbytes < 64 or values.ctypes.data % 64 == 0
    assert (values == 0).all()
    tile = dense.aligned(7, 5, np.zeros(1, dtype))
    assert (tile.shape, tile.dtype, tile.ctypes.data % 64) == ((7, 5), dtype, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stacked(dtype):
    tensors = [draw(3, 5, dtype, seed=t) for t in range(4)]
    np.testing.assert_array_equal(stacked(tensors), torch.stack(tensors).numpy())
    np.testing.assert_array_equal(stacked(torch.stack(tensors)), torch.stack(tensors).numpy())


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("rows", [0, 1, 48, 101])
def test_dense_softplus_dense(rows, dtype):
    x, w1, w2 = draw(rows, 20, dtype), draw(20, 33, dtype, seed=1), draw(33, 7, dtype, seed=2)
    b1, b2 = draw(1, 33, dtype, seed=3)[0], draw(1, 7, dtype, seed=4)[0]
    residual = draw(rows, 7, dtype, seed=5)
    hidden, slope, out = (torch.empty(rows, n, dtype=dtype) for n in (33, 33, 7))
    dense.dense_softplus_dense(0, rows, *(v.numpy() for v in (x, w1, b1, w2, b2, residual, hidden, slope, out)))
    inner = (x @ w1 + b1).double()
    expected = torch.nn.functional.softplus(inner) - np.log(2.0)
    assert_equal(hidden, expected.numpy(), dtype, 20)
    assert_equal(slope, inner.sigmoid().numpy(), dtype, 20)
    assert_equal(out, (expected @ w2.double() + b2 + residual).numpy(), dtype, 99)
