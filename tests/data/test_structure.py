"""Structures far out, atoms in the same place, disordered crystals."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bcc100, bulk, fcc100, fcc111, molecule
from torch_geometric.data import Batch

from pyg_schnet.data import AtomsDataset, StructureLoader, StructureStore, to_atoms, to_data
from pyg_schnet.data.split import fingerprint


def moved(atoms, vector):
    atoms = atoms.copy()
    atoms.positions += vector
    return atoms


@pytest.mark.parametrize("far", [2e4, 2e5, 1e7, -1e6])
def test_distances_far_out_are_those_near_zero(far):
    atoms = moved(molecule("CH3CH2OH"), [far, 0.37, -3 * far])
    exact = torch.pdist(torch.tensor(atoms.positions))
    data = to_data(atoms)
    assert (torch.pdist(data.pos.double()) - exact).abs().max() < 1e-6
    assert data.origin.dtype == torch.float64
    assert data.origin[0].tolist() == [far, 0.0, -3 * far]
    np.testing.assert_allclose(to_atoms(data).positions, atoms.positions, rtol=0, atol=2e-7)


def test_structures_near_zero_stay_where_they_are():
    for atoms in (molecule("H2O"), moved(molecule("H2O"), 99.0), bulk("NaCl", "rocksalt", a=5.64) * (30, 1, 1)):
        data = to_data(atoms)
        assert not data.origin.any()
        assert torch.equal(data.pos, torch.tensor(atoms.positions, dtype=torch.float32))
    far = to_data(moved(molecule("H2O"), 1e6), dtype=torch.float64)
    assert not far.origin.any()
    assert far.pos.tolist() == moved(molecule("H2O"), 1e6).positions.tolist()


def test_near_and_far_share_batches_and_stores(tmp_path):
    near, far = molecule("H2O"), moved(molecule("CH4"), 1e6)
    for pair in ((near, far), (far, near)):
        batch = Batch.from_data_list([to_data(atoms) for atoms in pair])
        collated = next(iter(StructureLoader(AtomsDataset(pair), batch_size=2)))
        store = StructureStore.create(tmp_path / str(len(pair[0])), [to_data(atoms) for atoms in pair])
        for structures in (batch.to_data_list(), collated.to_data_list(), store):
            for data, atoms in zip(structures, pair, strict=True):
                np.testing.assert_allclose(to_atoms(data).positions, atoms.positions, rtol=0, atol=2e-7)
        store.close()
        assert torch.equal(batch.pos, collated.pos)


def test_fingerprints_do_not_depend_on_precision_far_out():
    structures = [molecule("H2O"), moved(molecule("CH4"), 1e5)]
    single, double = (AtomsDataset(structures, dtype=dtype) for dtype in (torch.float32, torch.float64))
    assert fingerprint(single) == fingerprint(double)


def test_atoms_that_wandered_over_cells_come_back():
    crystal = bulk("NaCl", "rocksalt", a=5.64) * (2, 2, 2)
    crystal.rattle(0.05, seed=1)
    wandered = crystal.copy()
    wandered.positions += 30_000.0 * (np.arange(16) % 3)[:, None] * crystal.cell.array[0]
    pos = to_data(wandered).pos.double().numpy()
    back = Atoms(crystal.numbers, pos, cell=crystal.cell, pbc=True)
    expected = crystal.get_all_distances(mic=True)
    np.testing.assert_allclose(back.get_all_distances(mic=True), expected, atol=2e-6)


def test_what_float32_cannot_hold_is_refused():
    apart = Atoms("H2", [[0, 0, 0], [1e5, 0, 0]])
    with pytest.raises(ValueError, match=r"rounded by 0\.006 Å in float32; .* dtype=torch\.float64"):
        to_data(apart)
    assert to_data(apart, dtype=torch.float64).pos[1, 0] == 1e5
    with pytest.raises(ValueError, match=r"position of atom 1 is .* Å, where float64 itself is rounded"):
        to_data(Atoms("H2", [[0, 0, 0], [1e300, 0, 0]]))
    with pytest.raises(ValueError, match=r"the cell is .* Å, which torch\.float32 does not hold"):
        to_data(Atoms("H", cell=[1e39, 1.0, 1.0], pbc=True))


@pytest.mark.parametrize(
    "atoms",
    [
        Atoms("OH", [[0, 0, 0], [0, 0, 1.0]], cell=[3, 3, 0], pbc=[1, 1, 0]),
        Atoms("OH", [[0, 0, 0], [1.0, 0, 0]], cell=[0, 0, 5], pbc=[0, 0, 1]),
        Atoms("OH", [[0, 0, 0], [0, 0, 4.0]], cell=[4, 4, 4], pbc=[1, 1, 0]),
        Atoms("OH", [[0, 0, 0], [0, 0, -4.0]], cell=[[4, 0, 0], [0, 4, 0], [4, 4, 0]], pbc=[1, 1, 0]),  # flat cell
        fcc100("Cu", (1, 1, 3), vacuum=0.0),
        bcc100("Fe", (2, 2, 3), vacuum=0.0),
        fcc111("Cu", (1, 1, 4), vacuum=0.0),
        Atoms("H2", [[0, 0, 0], [2e-4, 0, 0]], cell=[5000, 5000, 5000], pbc=True),  # apart, in a large cell
    ],
)
def test_atoms_at_both_ends_of_an_open_direction_are_apart(atoms):
    assert to_data(atoms).num_nodes == len(atoms)


@pytest.mark.parametrize(
    ("positions", "pbc"), [([[0, 0, 0], [0, 0, 4.0]], [0, 0, 1]), ([[0, 0, 1], [4.0, 4.0, 1]], [1, 1, 0])]
)
def test_atoms_at_both_ends_of_a_periodic_direction_are_one(positions, pbc):
    with pytest.raises(ValueError, match="atoms 0 and 1 are in the same place"):
        to_data(Atoms("OH", positions, cell=[4, 4, 4], pbc=pbc))


def test_dependent_cell_vectors_are_refused():
    with pytest.raises(ValueError, match="cell vectors of these directions are linearly dependent"):
        to_data(Atoms("OH", [[0, 0, 0], [0, 0, 1]], cell=[[4, 0, 0], [8, 0, 0], [0, 0, 4]], pbc=True))


@pytest.mark.parametrize(
    "occupancy",
    [{"0": {"Cu": 0.6, "Au": 0.4}}, {0: {"Cu": 0.5}}, {"0": {"Cu": 1.0}, "1": {"Cl": 0.25}}, {"0": {"Cu": 1, "Au": 0}}],
)
def test_disordered_sites_are_refused(occupancy):
    crystal = bulk("Cu")
    crystal.info["occupancy"] = occupancy
    with pytest.raises(ValueError, match="a site is shared by several elements or partly empty"):
        to_data(crystal)


def test_columns_of_occupancies():
    atoms = molecule("H2O")
    for column in ([1.0, 1.0, 1.0], [0.0, 0.0, 0.0]):  # the latter: not stated
        atoms.arrays["occupancy"] = np.array(column)
        assert to_data(atoms).num_nodes == 3
    atoms.info["occupancy"] = {"0": {"O": 1.0}, "1": {"H": "?"}}
    assert to_data(atoms).num_nodes == 3
    atoms.arrays["occupancy"] = np.array([1.0, 0.5, 0.5])
    with pytest.raises(ValueError, match="partly empty"):
        to_data(atoms)


def test_cells_in_another_unit_are_refused():
    atoms = Atoms("Cu", cell=[0.36, 0.36, 0.036], pbc=True)
    with pytest.raises(ValueError, match=r"cell vectors of 0\.36, 0\.36, 0\.036 Å, expected at least 0\.1 Å in per"):
        to_data(atoms)
    atoms.pbc = (True, True, False)
    assert to_data(atoms).z.tolist() == [29]


@pytest.mark.parametrize("pbc", ["TTF", [True, False], [1, 2, 0], [0.5] * 3, ["T", "T", "F"]])
def test_directions_that_are_none(pbc):
    with pytest.raises(ValueError, match="pbc must be True, False, or three of them, got"):
        to_data(bulk("Cu"), pbc=pbc)
    assert to_data(bulk("Cu"), pbc=[1, 0, True]).pbc.tolist() == [[True, False, True]]
