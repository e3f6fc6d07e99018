"""A kept value is computed again when any bit of what it was computed from has changed."""

import copy
import math

import pytest
import torch

from pyg_schnet.nn.versioned_cache import VersionedCache
from tests.reads import Reads, elsewhere


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


def test_elsewhere_weights_are_not_compared_and_constants_by_their_versions(monkeypatch):
    """On devices nothing is read: a change of weights by any way is seen, that of constants by torch's operations."""
    elsewhere(monkeypatch)
    weight, constant = torch.ones(3), torch.ones(3)
    kept, fixed, calls = VersionedCache(), VersionedCache(), []
    with Reads() as reads:
        for _ in range(3):
            weight.data.add_(1.0)
            assert torch.allclose(kept.get([weight], None, lambda: 2.0 * weight), 2.0 * weight)
            fixed.get([constant], "key", lambda: calls.append(1) or 2.0 * constant, constants=True)
    assert reads.found == ["allclose"] * 3  # of this test
    assert len(calls) == 1
    constant += 1.0
    for key in ("key", "key", "another"):
        found = fixed.get([constant], key, lambda: calls.append(1) or 2.0 * constant, constants=True)
    assert len(calls) == 3
    assert found.tolist() == [4.0] * 3
    with torch.inference_mode():
        loose = torch.ones(3)
    for _ in range(2):
        fixed.get([loose], "key", lambda: calls.append(1) or loose, constants=True)
    assert len(calls) == 5  # there is no version counter


def test_copies_are_empty():
    kept = VersionedCache()
    value = torch.zeros(3)
    assert kept.get([value], None, lambda: "first") == "first"
    twin = copy.deepcopy(kept)
    assert twin.get([value], None, lambda: "second") == "second"
    assert kept.get([value], None, lambda: "third") == "first"
    value.add_(1.0)
    assert kept.get([value], None, lambda: "fourth") == "fourth"
