"""The calculator far from the origin, and at both ends of an open direction."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc100, molecule

from pyg_schnet import SchNet
from pyg_schnet.interfaces import SchNetCalculator
from pyg_schnet.nn import DipoleReadout


def calculator(dtype=torch.float32, unit="eV", **options):
    torch.manual_seed(0)
    return SchNetCalculator(SchNet(16, 16, 2, 20, 5.0, **options), unit=unit, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("far", [1e5, 1e6])
@pytest.mark.parametrize("kind", ["molecule", "crystal", "slab"])
def test_forces_far_out_are_those_near_zero(dtype, far, kind):
    near = {
        "molecule": molecule("CH3CH2OH"),
        "crystal": bulk("NaCl", "rocksalt", a=5.64) * (2, 2, 2),
        "slab": fcc100("Cu", (2, 2, 3), vacuum=5.0, periodic=False),
    }[kind]
    near.rattle(0.05, seed=1)
    there = near.copy()
    there.positions += [far, -2 * far, 0.25]
    near.calc, there.calc = calculator(dtype), calculator(dtype)
    assert there.get_potential_energy() == pytest.approx(near.get_potential_energy(), abs=1e-5)
    np.testing.assert_allclose(there.get_forces(), near.get_forces(), rtol=0, atol=2e-6)


def test_a_structure_that_moves_far_out_keeps_right_neighbours():
    atoms = molecule("CH3CH2OH") + Atoms("H60", np.random.default_rng(0).uniform(5, 20, (60, 3)))  # more: a kept list
    atoms.calc = calculator()
    energy = atoms.get_potential_energy()
    for _ in range(6):
        atoms.positions += [30.0, 7.0, 1.0]  # across the distance from which positions are centred
        assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-5)


def test_dipoles_of_ions_far_out_are_right_or_refused():
    far = molecule("H2O")
    far.positions += 1e5
    about_mass = far.copy()
    about_mass.calc = calculator(unit="e·Å", readout=DipoleReadout(16, magnitude=False, neutralize=False))
    near = molecule("H2O")
    near.calc = about_mass.calc
    expected = near.get_dipole_moment()
    np.testing.assert_allclose(about_mass.get_dipole_moment(), expected, atol=1e-5)
    about_zero = DipoleReadout(16, magnitude=False, neutralize=False, origin="zero")
    far.calc = calculator(unit="e·Å", readout=about_zero)
    with pytest.raises(ValueError, match="the dipole of this model is about the origin of the coordinates"):
        far.get_dipole_moment()
    near = molecule("H2O")
    near.calc, far.calc = (calculator(torch.float64, "e·Å", readout=about_zero) for _ in range(2))
    moved = [near.get_dipole_moment(), far.get_dipole_moment()]
    assert np.ptp(moved[1] - moved[0]) < 1e-3  # charge times 1e5 Å in each direction
    assert abs(moved[1] - moved[0]).max() > 1.0


def test_both_ends_of_an_open_direction():
    slab = fcc100("Cu", (1, 1, 3), vacuum=0.0)
    padded = fcc100("Cu", (1, 1, 3), vacuum=20.0)
    slab.pbc = padded.pbc = (True, True, False)
    for atoms in (slab, padded):
        atoms.rattle(0.05, seed=3)
        atoms.calc = calculator(torch.float64)
    assert slab.get_potential_energy() == pytest.approx(padded.get_potential_energy(), abs=1e-9)
    np.testing.assert_allclose(slab.get_forces(), padded.get_forces(), atol=1e-9)
