"""Moves change what they should and nothing else; contacts, fragments and dimers are where they should be."""

import numpy as np
import pytest
from ase.build import molecule
from ase.data import covalent_radii, vdw_radii

from pyg_schnet.data.reference.fragments import fragment
from pyg_schnet.data.reference.internal import Internal
from pyg_schnet.data.reference.moves import stretched, turned
from pyg_schnet.data.reference.pairs import FARTHEST, contact, dimers, random_rotation
from pyg_schnet.data.reference.topology import Topology


def parts_of(name):
    atoms = molecule(name)
    topology = Topology(atoms.numbers, atoms.positions)
    return atoms, topology, Internal.of(topology, atoms.positions)


@pytest.mark.parametrize("name", ["CH3CH2OH", "CH3CONH2"])
@pytest.mark.parametrize("angle", [30.0, -100.0, 180.0])
def test_a_turn_changes_torsions_about_its_bond_alone(name, angle):
    atoms, topology, internal = parts_of(name)
    i, j, part = topology.rotatable_bonds()[0]
    after = turned(atoms.positions, i, j, part, angle)
    change = internal.difference(internal.values(after), internal.values(atoms.positions))
    others, torsions = np.split(change, [sum(internal.sizes[:4])])
    np.testing.assert_allclose(others, 0.0, atol=1e-7)
    about = (np.sort(internal.torsions[:, 1:3], axis=1) == sorted([i, j])).all(1)
    assert about.any()
    np.testing.assert_allclose(torsions[~about], 0.0, atol=1e-7)
    wrong = np.degrees(torsions[about]) - angle
    np.testing.assert_allclose((wrong + 180.0) % 360.0 - 180.0, 0.0, atol=1e-5)


def test_a_turn_is_that_of_ase():
    atoms, topology, _ = parts_of("CH3CH2OH")
    i, j, part = topology.rotatable_bonds()[0]
    first = next(one for one in topology.neighbors[i] if one != j)
    last = next(one for one in topology.neighbors[j] if one != i)
    expected = atoms.copy()
    expected.rotate_dihedral(first, i, j, last, 55.0, indices=part)
    np.testing.assert_allclose(turned(atoms.positions, i, j, part, 55.0), expected.positions, atol=1e-10)


def test_a_stretch_changes_one_bond_alone():
    atoms, topology, internal = parts_of("CH3CH2OH")
    for i, j, part in topology.open_bonds():
        after = internal.values(stretched(atoms.positions, i, j, part, 1.3))
        before = internal.values(atoms.positions)
        own = (topology.bonds == sorted([i, j])).all(1)
        bonds = len(topology.bonds)
        np.testing.assert_allclose(after[:bonds], np.where(own, 1.3, 1.0) * before[:bonds])
        np.testing.assert_allclose(internal.difference(after, before)[bonds:], 0.0, atol=1e-7)


def test_rotations_favour_no_direction():
    random = np.random.default_rng(0)
    found = np.array([random_rotation(random) for _ in range(4000)])
    np.testing.assert_allclose(found @ np.swapaxes(found, 1, 2), np.tile(np.eye(3), (4000, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(found), 1.0)
    np.testing.assert_allclose(found.mean(0), 0.0, atol=0.04)  # 1 / sqrt(3 x 4000) = 0.009 each
    np.testing.assert_allclose((found**2).mean(0), 1 / 3, atol=0.03)


@pytest.mark.parametrize("closeness", [0.65, 1.0, 1.3])
def test_molecules_touch(closeness):
    first, second = molecule("CH3CH2OH"), molecule("H2O")
    for seed in range(20):
        numbers, positions = contact(
            (first.numbers, first.positions), (second.numbers, second.positions), closeness, np.random.default_rng(seed)
        )
        assert numbers.tolist() == [*first.numbers, *second.numbers]
        own = np.linalg.norm(positions[9:, None] - positions[9:], axis=-1)
        np.testing.assert_allclose(own, second.get_all_distances(), atol=1e-12)
        between = np.linalg.norm(positions[:9, None] - positions[9:], axis=-1)
        reach = vdw_radii[numbers[:9], None] + vdw_radii[numbers[9:]]
        assert (between / reach).min() == pytest.approx(closeness)


def test_fragments_are_closed_molecules(parts_of):
    atoms = molecule("CH3CONH2")
    keys = set()
    for seed in range(30):
        numbers, positions = fragment(atoms.numbers, atoms.positions, np.random.default_rng(seed))
        topology = Topology(numbers, positions)
        assert set(parts_of(topology)) == {0}
        assert numbers.sum() % 2 == 0
        cap = np.linalg.norm(positions[:-1] - positions[-1], axis=-1)
        kept = int(cap.argmin())
        assert cap[kept] == pytest.approx(covalent_radii[1] + covalent_radii[numbers[kept]])
        keys.add(topology.key())
    expected = {Topology(one.numbers, one.positions).key() for one in map(molecule, ("CH4", "NH3", "CH3CHO"))}
    assert expected < keys
    assert len(keys) == 4  # two bonds with two sides each; the fourth one is formamide


def test_molecules_without_a_bond_to_cut():
    water = molecule("H2O")
    assert fragment(water.numbers, water.positions, np.random.default_rng(0)) is None
    benzene = molecule("C6H6")
    assert fragment(benzene.numbers, benzene.positions, np.random.default_rng(0)) is None


def test_dimers_are_of_all_pairs():
    found = dimers([8, 1, 6], 5)
    assert len(found) == 6 * 5
    assert {name for name, _ in found} == {"H-H", "H-C", "H-O", "C-C", "C-O", "O-O"}
    lengths = [np.linalg.norm(positions[1] - positions[0]) for name, (_, positions) in found if name == "C-O"]
    assert lengths[0] == pytest.approx(0.5 * (covalent_radii[6] + covalent_radii[8]))
    assert lengths[-1] == pytest.approx(FARTHEST)
    np.testing.assert_allclose(np.diff(np.log(lengths)), np.log(lengths[1] / lengths[0]))
