"""Internal coordinates against ASE and finite differences."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from pyg_schnet.data.reference.internal import Internal
from pyg_schnet.data.reference.topology import Topology

NAMES = ["H2O", "CH3CH2OH", "C6H6", "HCN", "H2CO", "C2H2", "CH3CONH2", "C3H4_C3v"]


def moved(name, seed=0):
    atoms = molecule(name)
    internal = Internal.of(Topology(atoms.numbers, atoms.positions), atoms.positions)
    atoms.positions += np.random.default_rng(seed).normal(scale=0.03, size=atoms.positions.shape)
    return atoms, internal


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_are_those_of_finite_differences(name):
    atoms, internal = moved(name)
    values, slopes = internal.gradients(atoms.positions)
    assert values.shape == slopes.shape[:1] == (sum(internal.sizes),)
    step = 1e-5 * np.eye(3 * len(atoms)).reshape(-1, len(atoms), 3)
    ends = [internal.values(atoms.positions + sign * step) for sign in (1, -1)]
    np.testing.assert_allclose(internal.difference(*ends).T / 2e-5, slopes, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_ase(name):
    atoms, internal = moved(name)
    bonds, angles, _, _, torsions = np.split(internal.values(atoms.positions), np.cumsum(internal.sizes)[:-1])
    np.testing.assert_allclose(bonds, [atoms.get_distance(*pair) for pair in internal.bonds])
    np.testing.assert_allclose(np.degrees(angles), [atoms.get_angle(*three) for three in internal.angles])
    wrong = np.degrees(torsions) - [atoms.get_dihedral(*four) for four in internal.torsions]
    np.testing.assert_allclose((wrong + 180.0) % 360.0 - 180.0, 0.0, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_they_hold_every_vibration_and_nothing_else(name):
    atoms = molecule(name)
    internal = Internal.of(Topology(atoms.numbers, atoms.positions), atoms.positions)
    rank = np.linalg.matrix_rank(internal.gradients(atoms.positions)[1], tol=1e-6)
    linear = name in ("HCN", "C2H2")
    assert rank == 3 * len(atoms) - (5 if linear else 6)


def test_they_do_not_change_when_the_molecule_turns():
    atoms, internal = moved("CH3CH2OH")
    before = internal.values(atoms.positions)
    atoms.rotate(50.0, (1.0, 2.0, 3.0))
    atoms.translate((1.0, -2.0, 0.5))
    np.testing.assert_allclose(internal.values(atoms.positions), before, atol=1e-12)


def test_planes_tell_on_which_side_an_atom_is():
    def height(z):
        positions = np.array([[0, 0, z], [1.0, 0, 0], [-0.5, 0.87, 0], [-0.5, -0.87, 0]])
        internal = Internal.of(Topology(np.array([6, 1, 1, 1]), positions), positions)
        assert internal.sizes == [3, 3, 0, 1, 0]
        return internal.values(positions)[-1]

    assert height(0.0) == pytest.approx(0.0, abs=1e-12)
    assert height(0.2) == pytest.approx(-height(-0.2))
    assert abs(height(0.2)) > 0.1


def test_several_geometries_at_once():
    atoms, internal = moved("CH3CH2OH")
    many = np.stack([atoms.positions, moved("CH3CH2OH", 1)[0].positions])
    values, slopes = internal.gradients(many)
    for k in range(2):
        one, slope = internal.gradients(many[k])
        np.testing.assert_array_equal(values[k], one)
        np.testing.assert_array_equal(slopes[k], slope)


def test_molecules_that_fall_apart_and_single_atoms(parts_of):
    two = molecule("H2O")
    two.positions += [10.0, 0.0, 0.0]
    both = Atoms(np.concatenate([molecule("H2O").numbers, two.numbers]), [*molecule("H2O").positions, *two.positions])
    topology = Topology(both.numbers, both.positions)
    assert parts_of(topology) == [0, 0, 0, 1, 1, 1]
    assert Internal.of(topology, both.positions).sizes == [4, 2, 0, 0, 0]
    assert Internal.of(Topology(np.array([6]), np.zeros((1, 3))), np.zeros((1, 3))).sizes == [0] * 5
