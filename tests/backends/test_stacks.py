"""Many small tensors in one call, against torch's own stacks, transposes and norms."""

import numpy as np
import pytest
import torch

from pyg_schnet.backends.numba import Stacks, norm, rows_of

DTYPES = [torch.float32, torch.float64]


def draw(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def make_kinds(dtype, n=3):
    shapes = (33, 16), (16,), (1, 50)
    return [[draw(*shape, dtype=dtype, seed=10 * k + t) for t in range(n)] for k, shape in enumerate(shapes)]


def assert_stacked(stacks, kinds, turned):
    stacked, transposed = stacks()
    for values, tensors in zip(stacked, kinds, strict=True):
        np.testing.assert_array_equal(values, torch.stack(list(tensors)).numpy())
        assert values.flags.c_contiguous
    for k, values in zip(turned, transposed, strict=True):
        np.testing.assert_array_equal(values, torch.stack(list(kinds[k])).mT.numpy())
        assert values.flags.c_contiguous


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_stacks_follow_their_tensors(dtype, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    kinds, turned = make_kinds(dtype), (0, 2)
    stacks = Stacks(kinds, turned)
    assert_stacked(stacks, kinds, turned)
    kinds[0][1].mul_(2.0)  # in place
    assert_stacked(stacks, kinds, turned)
    kinds[1][2].data = draw(16, dtype=dtype, seed=99)  # elsewhere
    assert_stacked(stacks, kinds, turned)
    kinds[0][0].data = draw(16, 33, dtype=dtype, seed=98).t()  # not in rows
    assert_stacked(stacks, kinds, turned)
    kinds[0][0].mul_(2.0)
    assert_stacked(stacks, kinds, turned)
    torch.set_num_threads(before)


def test_tensors_that_are_not_alike_are_not_read():
    kinds = make_kinds(torch.float32)
    stacks = Stacks(kinds)
    stacks()
    whole = kinds[0][1].data
    kinds[0][1].data = draw(3, 16)
    with pytest.raises(ValueError, match=r"of one shape; got .*3, 16"):
        stacks()
    kinds[0][1].data = whole.double()
    with pytest.raises(ValueError, match=r"of one type; got .*float32.*float64"):
        stacks()
    kinds[0][1].data = whole
    assert_stacked(stacks, kinds, ())


def test_stacks_of_large_tensors_by_several_threads():
    kinds = [[draw(300, 301, seed=t) for t in range(5)]]
    assert_stacked(Stacks(kinds, (0,)), kinds, (0,))


def test_what_was_stacked_stays_as_it_was():
    kinds = make_kinds(torch.float32)
    stacks = Stacks(kinds)
    first = stacks()[0][0].copy()
    kept = stacks()[0][0]
    kinds[0][0].zero_()
    stacks()
    np.testing.assert_array_equal(kept, first)


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm(dtype):
    tensors = [
        draw(7, 3, dtype=dtype),
        draw(dtype=dtype, seed=1),
        draw(1000, dtype=dtype, seed=2),
        draw(0, dtype=dtype),
    ]
    expected = torch.cat([tensor.double().reshape(-1) for tensor in tensors]).norm().item()
    assert norm(tensors) == pytest.approx(expected, rel=1e-13)
    assert norm(tensors[-1:]) == 0.0


def test_norm_of_infinity_and_nan():
    assert norm([torch.tensor([1.0, torch.inf])]) == np.inf
    assert np.isnan(norm([torch.tensor([1.0]), torch.tensor([torch.nan])]))


@pytest.mark.parametrize("index", [[0], [3, 1, 1, 2], [2, 2]])
def test_rows_of_structures(index):
    bounds = torch.tensor([0, 2, 5, 5, 9])
    rows, owner, ptr = rows_of(bounds, torch.tensor(index))
    expected = [range(int(bounds[k]), int(bounds[k + 1])) for k in index]
    assert rows.tolist() == [row for one in expected for row in one]
    assert owner.tolist() == [place for place, one in enumerate(expected) for _ in one]
    assert ptr.diff().tolist() == [len(one) for one in expected]
    assert ptr[0] == 0
