"""A kept value is computed again when any bit of what it was computed from has changed."""

import copy
import math

import pytest
import torch

from pyg_schnet.nn.versioned_cache import VersionedCache


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (5, 3), (0,)])
def test_every_element(shape, dtype):
    value = torch.arange(1, 1 + math.prod(shape)).reshape(shape).to(dtype)
    kept, calls = VersionedCache(), []
    get = lambda: kept.get([value], "key", lambda: calls.append(len(calls)) or len(calls))  # noqa: E731
    assert (get(), get()) == (1, 1)
    for k in range(value.numel()):
        value.data.view(-1)[k] += 1
        assert (get(), get()) == (2 + k, 2 + k)


def test_layout_and_bits():
    value = torch.tensor([[math.nan, 0.0], [1.0, 2.0]]).t()  # columns
    kept = VersionedCache()
    results = iter(range(9))
    get = lambda: kept.get([value], None, lambda: next(results))  # noqa: E731
    assert (get(), get()) == (0, 0)  # NaN is what it was
    value.data[1, 0] = -0.0
    assert (get(), get()) == (1, 1)
    value.data[0, 1], value.data[1, 1] = 2.0, 1.0  # exchanged
    assert (get(), get()) == (2, 2)


def test_copies_are_empty():
    kept = VersionedCache()
    value = torch.zeros(3)
    assert kept.get([value], None, lambda: "first") == "first"
    twin = copy.deepcopy(kept)
    assert twin.get([value], None, lambda: "second") == "second"
    assert kept.get([value], None, lambda: "third") == "first"
    value.add_(1.0)
    assert kept.get([value], None, lambda: "fourth") == "fourth"
