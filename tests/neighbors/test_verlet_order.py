"""A list that is built again for the structure of another one has its edges in the same order."""

import pytest
import torch

from pyg_schnet.neighbors import VerletList


@pytest.mark.parametrize("pbc", [None, (True, True, True), (True, True, False)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_list_goes_on_as_the_one_before(pbc, dtype):
    generator = torch.Generator().manual_seed(0)
    pos = 8.0 * torch.rand(60, 3, generator=generator, dtype=dtype)
    cell = torch.tensor([[[8.0, 0.0, 0.0], [1.0, 8.0, 0.0], [0.0, 2.0, 8.0]]], dtype=dtype)
    lattice = {} if pbc is None else {"cell": cell, "pbc": torch.tensor([pbc])}
    first, fresh = VerletList(3.0, 1.0), VerletList(3.0, 1.0)
    assert first.built_for is None
    first(pos, **lattice)
    moved = pos + 0.1 * torch.rand(60, 3, generator=generator, dtype=dtype) + (8.0 * torch.eye(3, dtype=dtype))[0]
    before = first(moved, **lattice)
    assert first.n_rebuilds == 1
    pos += 1.0  # what a list was built for is its own
    fresh(**first.built_for)
    after = fresh(moved, **lattice)
    assert fresh.n_rebuilds == 1
    if pbc is None:
        before, after = (before,), (after,)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
