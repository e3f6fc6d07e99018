"""Norms of many tensors, and rows of concatenated structures."""

import numpy as np
import pytest
import torch

from pyg_schnet.backends.numba import norm, rows_of

DTYPES = [torch.float32, torch.float64]


def draw(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


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
