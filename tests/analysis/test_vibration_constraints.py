"""Normal modes with atoms that are held: ASE's partial finite differences, and motions that are left of the whole."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixAtoms, FixBondLength, FixCartesian
from ase.optimize import BFGS
from ase.vibrations import Vibrations

from pyg_schnet import SchNet
from pyg_schnet.analysis import normal_modes
from pyg_schnet.interfaces import SchNetCalculator


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SchNet(16, 16, 2, 12, 4.0).double().eval()


@pytest.fixture(scope="module")
def ethanol(model):
    atoms = molecule("CH3CH2OH")
    atoms.calc = SchNetCalculator(model, unit="eV")
    BFGS(atoms, logfile=None).run(fmax=1e-4, steps=300)
    return atoms


def test_modes_of_free_atoms_are_those_of_ase(model, ethanol, tmp_path):
    held = [0, 1, 2, 5]
    atoms = ethanol.copy()
    atoms.set_constraint(FixAtoms(held))
    modes = normal_modes(model, atoms, unit="eV")
    atoms = ethanol.copy()
    atoms.calc = SchNetCalculator(model, unit="eV")
    free = [k for k in range(len(atoms)) if k not in held]
    vibrations = Vibrations(atoms, indices=free, name=str(tmp_path / "vib"), delta=1e-3, nfree=4)
    vibrations.run()
    expected = vibrations.get_frequencies()
    np.testing.assert_allclose(modes.frequencies, np.sort(expected.real - expected.imag), atol=0.1)
    assert modes.frequencies.shape == (3 * len(free),)
    assert (modes.modes[:, held] == 0).all()
    np.testing.assert_allclose(np.linalg.norm(modes.modes, axis=(1, 2)), 1.0, rtol=1e-12)


@pytest.mark.parametrize(("held", "turns"), [([0], 3), ([0, 1], 1), ([0, 1, 2], 0)])
def test_turns_about_what_is_held_are_left_out(model, ethanol, held, turns):
    atoms = ethanol.copy()
    atoms.set_constraint(FixAtoms(held))
    n_free = 3 * (len(atoms) - len(held))
    modes = normal_modes(model, atoms, unit="eV")
    assert modes.frequencies.shape == (n_free - turns,)
    kept = normal_modes(model, atoms, unit="eV", rigid="keep")
    assert kept.frequencies.shape == (n_free,)
    assert kept.rigid.sum() == turns


def test_one_spring_against_a_wall():
    """A hydrogen atom on a spring to a fixed one has its own mass, √2 times slower than the pair; along z alone."""
    spring = lambda z, pos, batch: 15.0 * ((pos[1] - pos[0]).norm() - 0.75).square().view(1)  # noqa: E731
    pair = Atoms("H2", [[0, 0, 0], [0, 0, 0.75]])
    free = normal_modes(spring, pair, unit="eV")
    pair.set_constraint([FixAtoms([0]), FixCartesian([1], (True, True, False))])
    held = normal_modes(spring, pair, unit="eV")
    np.testing.assert_allclose(held.frequencies, free.frequencies / np.sqrt(2), rtol=1e-12)
    np.testing.assert_allclose(held.modes, [[[0, 0, 0], [0, 0, 1]]], atol=1e-12)
    np.testing.assert_allclose(held.reduced_masses, 1.008, rtol=1e-12)


def test_forces_on_held_atoms_do_not_count(model):
    atoms = molecule("CH3CH2OH")
    atoms.calc = SchNetCalculator(model, unit="eV")
    atoms.set_constraint(FixAtoms([0, 3]))
    expected = np.linalg.norm(atoms.get_forces(), axis=1).max()
    assert normal_modes(model, atoms, unit="eV").residual_force == pytest.approx(expected, rel=1e-9)


def test_other_constraints_are_refused(model):
    atoms = molecule("H2O")
    atoms.set_constraint(FixBondLength(0, 1))
    with pytest.raises(ValueError, match=r"FixAtoms and FixCartesian, but the structure has a FixBondLength"):
        normal_modes(model, atoms, unit="eV")
    atoms.set_constraint(FixAtoms([0, 1, 2]))
    with pytest.raises(ValueError, match="all atoms are fixed"):
        normal_modes(model, atoms, unit="eV")
