import numpy as np
import pytest
import torch

from pyg_schnet.neighbors.lattice import Lattice, complete_cell, images_within, open_lattice

from .structures import random_cell


@pytest.mark.parametrize("pbc", torch.cartesian_prod(*[torch.tensor([False, True])] * 3).tolist())
def test_completed_rows_are_unit_vectors_perpendicular_to_the_rest(pbc):
    rng = np.random.default_rng(0)
    pbc = torch.tensor([pbc])
    for _ in range(20):
        cell = torch.from_numpy(random_cell(rng))[None]
        cell = torch.where(pbc[:, :, None] | (torch.rand(3, 1) < 0.5), cell, 0.0)
        full = complete_cell(cell, pbc)
        assert torch.equal(full[pbc], cell[pbc])
        gram = (full @ full.mT)[0]
        for k in torch.nonzero(~pbc[0]).flatten():
            torch.testing.assert_close(gram[k], torch.eye(3, dtype=gram.dtype)[k], atol=1e-12, rtol=0)


def test_completion_leaves_its_input_alone():
    cell, pbc = torch.zeros(1, 3, 3), torch.tensor([[True, False, False]])
    cell[0, 0, 0] = 2.0
    before = cell.clone()
    complete_cell(cell, pbc)
    assert torch.equal(cell, before)


def test_dual_vectors_heights_and_orthogonality():
    cell = torch.from_numpy(random_cell(np.random.default_rng(1)))[None]
    lattice = Lattice.from_cell(cell, torch.tensor([[True, True, True]]))
    torch.testing.assert_close(lattice.dual @ cell.mT, torch.eye(3, dtype=cell.dtype)[None])
    volume = torch.linalg.det(cell).abs()
    torch.testing.assert_close(lattice.height[0, 2], volume[0] / torch.linalg.cross(cell[0, 0], cell[0, 1]).norm())
    torch.testing.assert_close(lattice.orthogonality, volume / cell.norm(dim=2).prod(1))
    pos, batch = torch.rand(4, 3, dtype=cell.dtype), torch.zeros(4, dtype=torch.long)
    torch.testing.assert_close(lattice.cartesian(lattice.fractional(pos, batch), batch), pos)


def test_large_cell_gets_few_images_and_open_axes_none():
    torch.manual_seed(0)
    pos, batch = torch.rand(1000, 3) * 100, torch.zeros(1000, dtype=torch.long)
    ptr = torch.tensor([0, 1000])
    lattice = Lattice.from_cell(100 * torch.eye(3)[None], torch.tensor([[True, True, True]]))
    images = images_within(pos, batch, ptr, lattice, 5.0)
    assert 1000 < len(images.points) < 1.1**3 * 1000 * 1.05
    torch.testing.assert_close(images.points[images.own], images.wrapped)
    torch.testing.assert_close(images.points, pos[images.atom] + 100.0 * images.shift)
    assert len(images_within(pos, batch, ptr, open_lattice(1, pos), 5.0).points) == 1000


@pytest.mark.parametrize("pbc", [[True, True, True], [True, False, True], [False, False, False]])
def test_atoms_are_wrapped_into_the_cell_along_periodic_axes(pbc):
    rng = np.random.default_rng(5)
    cell, pbc = torch.from_numpy(random_cell(rng))[None], torch.tensor([pbc])
    lattice = Lattice.from_cell(cell, pbc)
    pos = torch.from_numpy(rng.uniform(-3.0, 4.0, (30, 3))) @ cell[0]
    batch, ptr = torch.zeros(30, dtype=torch.long), torch.tensor([0, 30])
    images = images_within(pos, batch, ptr, lattice, 2.0)
    frac = torch.linalg.solve(lattice.cell[0].T, images.wrapped.T).T[:, pbc[0]]
    assert ((frac > -1e-9) & (frac < 1 + 1e-9)).all()
    torch.testing.assert_close(images.wrapped, pos + images.wrap.double() @ lattice.cell[0])
    assert not images.wrap[:, ~pbc[0]].any()
    torch.testing.assert_close(images.points, pos[images.atom] + images.shift.double() @ lattice.cell[0])
