"""Normal modes against ASE's finite differences, formulas for small molecules, and what symmetry demands."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase import units as ase_units
from ase.build import bulk, molecule
from ase.optimize import BFGS
from ase.vibrations import Vibrations
from torch_geometric.nn.models import SchNet as PyGSchNet

from pyg_schnet import InteractionGraph, SchNet
from pyg_schnet.analysis import normal_modes
from pyg_schnet.interfaces import SchNetCalculator
from pyg_schnet.testing import random_rotation

WAVENUMBER = ase_units._hbar * 1e10 / np.sqrt(ase_units._e * ase_units._amu) / ase_units.invcm
"""Wave number in cm⁻¹ of an eigenvalue of 1 eV/(Å² u), from ASE's constants."""


def schnet(seed=0, **options):
    torch.manual_seed(seed)
    return SchNet(16, 16, 2, 12, 4.0, **options).double().eval()


def relaxed(name, model, fmax=1e-5):
    atoms = molecule(name)
    atoms.calc = SchNetCalculator(model, unit="eV")
    assert BFGS(atoms, logfile=None).run(fmax=fmax, steps=300)
    return atoms


def by_ase(atoms, folder, delta=1e-3):
    """Frequencies in cm⁻¹ from finite differences of forces, imaginary ones negative, in ascending order."""
    # ASE's default of 0.01 Å errs by 0.2 cm⁻¹
    vibrations = Vibrations(atoms, name=str(folder / "vib"), delta=delta, nfree=4)
    vibrations.run()
    found = vibrations.get_frequencies()
    return np.sort(found.real - found.imag), vibrations


def test_light_masses_vibrate_faster():
    """Frequencies go with the root of one over the mass, for masses below that of hydrogen as well."""
    model, atoms = schnet(0), molecule("H2O")
    known = normal_modes(model, atoms, unit="eV").frequencies
    atoms.set_masses(atoms.get_masses() / 100.0)  # 0.01 and 0.16 u
    np.testing.assert_allclose(normal_modes(model, atoms, unit="eV").frequencies, 10.0 * known, rtol=1e-6)


@pytest.mark.parametrize(("name", "seed"), [("H2O", 0), ("CH3OH", 2)])
def test_frequencies_are_those_of_ase(name, seed, tmp_path):
    model = schnet(seed)
    atoms = relaxed(name, model)
    modes = normal_modes(model, atoms, unit="eV")
    n_modes = 3 * len(atoms) - 6
    assert modes.frequencies.shape == (n_modes,)
    assert modes.residual_force < 1e-5
    expected, vibrations = by_ase(atoms, tmp_path)
    vibrating = np.sort(np.argsort(abs(expected))[-n_modes:])
    np.testing.assert_allclose(modes.frequencies, expected[vibrating], atol=0.05)
    np.testing.assert_array_equal(modes.imaginary, expected[vibrating] < 0)
    assert modes.imaginary.any() == (name == "CH3OH")  # that one stops at a saddle point
    assert modes.zero_point_energy == pytest.approx(vibrations.get_zero_point_energy(), abs=1e-5)
    if name == "H2O":
        for k, index in enumerate(vibrating):
            theirs = vibrations.get_mode(index)
            overlap = abs(np.vdot(modes.modes[k], theirs)) / np.linalg.norm(theirs)
            assert overlap == pytest.approx(1.0, abs=1e-4)


def test_kept_rigid_motions_are_marked_and_do_not_count():
    model = schnet()
    atoms = relaxed("CH3CH2OH", model, fmax=1e-3)
    projected, kept = normal_modes(model, atoms, unit="eV"), normal_modes(model, atoms, unit="eV", rigid="keep")
    assert kept.frequencies.shape == (27,)
    assert kept.rigid.sum() == 6
    assert not projected.rigid.any()
    assert abs(kept.frequencies[kept.rigid]).max() < 10.0
    np.testing.assert_allclose(kept.frequencies[~kept.rigid], projected.frequencies, atol=0.1)
    assert not kept.imaginary[kept.rigid].any()
    assert kept.zero_point_energy == pytest.approx(projected.zero_point_energy, rel=1e-4)
    assert projected.zero_point_energy == pytest.approx(0.5 * 1.239841984e-4 * projected.frequencies.sum(), rel=1e-8)


def test_modes_solve_the_eigenvalue_problem(ethanol):
    """Away from a minimum as well, where rotations are no eigenvectors."""
    modes = normal_modes(schnet(), ethanol, unit="eV")
    masses = ethanol.get_masses()
    np.testing.assert_allclose(np.linalg.norm(modes.modes.reshape(21, -1), axis=1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(
        modes.reduced_masses, np.einsum("kia,i->k", modes.modes**2, masses), rtol=1e-10
    )  # the mean of the masses, weighted by squared displacements
    curvature = np.einsum("kia,iajb,kjb->k", modes.modes, modes.hessian, modes.modes)
    squared = np.sign(modes.frequencies) * (modes.frequencies / WAVENUMBER) ** 2
    np.testing.assert_allclose(curvature / modes.reduced_masses, squared, rtol=1e-6, atol=1e-9)
    momentum = np.einsum("kia,i->ka", modes.modes, masses)
    arm = ethanol.positions - ethanol.get_center_of_mass()
    spin = np.einsum("kia,i->kia", modes.modes, masses)
    assert abs(momentum).max() < 1e-10
    assert abs(np.cross(arm, spin).sum(1)).max() < 1e-9
    assert modes.residual_force > 0.01
    calculator = SchNetCalculator(schnet(), unit="eV")
    assert modes.residual_force == pytest.approx(np.linalg.norm(calculator.get_forces(ethanol), axis=1).max())


def carbon_dioxide(stiffness, bending):
    """Springs of the two bonds and a penalty on r₁ + r₃ - 2 r₂, in eV/Å²."""

    def energy(z, pos, batch):
        bonds = torch.stack([pos[1] - pos[0], pos[2] - pos[1]]).norm(dim=1)
        bend = (pos[0] + pos[2] - 2 * pos[1]).square().sum()
        return (0.5 * stiffness * (bonds - 1.16).square().sum() + 0.5 * bending * bend).view(1)

    direction = np.array([[1.0, 2.0, -0.5]]) / np.linalg.norm([1.0, 2.0, -0.5])
    return energy, Atoms("OCO", positions=1.16 * np.array([[-1.0], [0.0], [1.0]]) * direction)


def test_a_linear_molecule_has_four_vibrations():
    stiffness, bending = 90.0, 3.0
    energy, atoms = carbon_dioxide(stiffness, bending)
    atoms.positions += 7.0
    modes = normal_modes(energy, atoms, unit="eV")
    oxygen, carbon = atoms.get_masses()[:2]
    inverse = 2 / oxygen + 4 / carbon  # of r₁ + r₃ - 2 r₂
    expected = [bending * inverse] * 2 + [stiffness / oxygen, (stiffness / 2 + bending) * inverse]
    np.testing.assert_allclose(modes.frequencies, WAVENUMBER * np.sqrt(expected), rtol=1e-6)
    assert normal_modes(energy, atoms, unit="eV", rigid="keep").rigid.sum() == 5
    bent = atoms.copy()
    bent.rotate(2.0, "x", center=bent.positions[1], rotate_cell=False)
    bent.positions[1] += np.cross([1.0, 2.0, -0.5], [0.0, 0.0, 0.03])
    assert len(normal_modes(energy, bent, unit="eV").frequencies) == 3


def test_one_spring():
    """k / μ, with masses that the structure states."""
    atoms = Atoms("CO", positions=[[0, 0, 0], [0, 0, 1.1]], masses=[13.003, 17.999])
    modes = normal_modes(
        lambda z, pos, batch: 60.0 * ((pos[1] - pos[0]).norm() - 1.1).square().view(1), atoms, unit="eV"
    )
    reduced = 13.003 * 17.999 / (13.003 + 17.999)
    np.testing.assert_allclose(modes.frequencies, [WAVENUMBER * np.sqrt(120.0 / reduced)], rtol=1e-6)
    assert modes.residual_force == pytest.approx(0.0, abs=1e-12)
    turned = atoms.copy()
    turned.positions = atoms.positions @ random_rotation(3).numpy()
    same = normal_modes(
        lambda z, pos, batch: 60.0 * ((pos[1] - pos[0]).norm() - 1.1).square().view(1), turned, unit="eV"
    )
    np.testing.assert_allclose(same.frequencies, modes.frequencies, rtol=1e-10)


def test_one_atom_does_not_vibrate(isolated_atom):
    modes = normal_modes(schnet(), isolated_atom, unit="eV")
    assert modes.frequencies.shape == (0,)
    assert modes.modes.shape == (0, 1, 3)
    assert modes.zero_point_energy == 0.0
    kept = normal_modes(schnet(), isolated_atom, unit="eV", rigid="keep")
    assert kept.rigid.tolist() == [True] * 3
    assert not kept.frequencies.any()


def test_crystals_slabs_and_wires_have_fewer_rigid_motions(small_cell, slab):
    for atoms, count in ((small_cell, 3), (slab, 3), (bulk("Cu"), 3)):
        kept = normal_modes(schnet(), atoms, unit="eV", rigid="keep")
        assert kept.rigid.sum() == count
        assert abs(kept.frequencies[kept.rigid]).max() < 1e-3
        assert len(normal_modes(schnet(), atoms, unit="eV").frequencies) == 3 * len(atoms) - count
    zigzag = Atoms("C2", [[1.0, 1.0, 0.5], [1.8, 1.4, 1.9]], cell=[0.0, 0.0, 2.8], pbc=[False, False, True])
    wire = normal_modes(schnet(), zigzag, unit="eV", rigid="keep")
    assert wire.rigid.sum() == 4
    assert len(normal_modes(schnet(), zigzag, unit="eV").frequencies) == 2
    zigzag.positions[:, :2] = 1.0  # a straight chain: turning it changes nothing
    assert len(normal_modes(schnet(), zigzag, unit="eV").frequencies) == 3


def test_phonons_at_gamma_are_those_of_ase(tmp_path):
    model = schnet(seed=3)
    atoms = bulk("NaCl", "rocksalt", a=4.4)
    atoms.calc = SchNetCalculator(model, unit="eV")
    modes = normal_modes(model, atoms, unit="eV")
    assert modes.residual_force < 1e-10  # by symmetry
    expected, _ = by_ase(atoms, tmp_path)
    np.testing.assert_allclose(modes.frequencies, expected[np.sort(np.argsort(abs(expected))[-3:])], atol=0.05)
    np.testing.assert_allclose(modes.frequencies, modes.frequencies[0], rtol=1e-6)  # threefold, as the cell is cubic


def test_models_files_and_units(water, tmp_path):
    model = schnet()
    expected = normal_modes(model, water, unit="eV").frequencies
    path = model.save(tmp_path / "model.safetensors", target="energy", unit="kcal/mol")
    scaled = normal_modes(path, water).frequencies
    np.testing.assert_allclose(scaled, expected * 0.0433641039**0.5, rtol=1e-8)
    mean = schnet(readout="mean")
    np.testing.assert_allclose(normal_modes(mean, water, unit="eV/atom").frequencies, expected, rtol=1e-9)


def test_other_energy_models(water):
    theirs = PyGSchNet(16, 16, 2, 12, 4.0, interaction_graph=InteractionGraph(4.0))
    ours = SchNet.from_pyg(theirs)
    ours.filters = "exact"
    found = [normal_modes(model, water, unit="eV").frequencies for model in (theirs, ours)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-9)


def test_the_given_model_does_not_change(water):
    model = schnet().float().train()
    normal_modes(model, water, unit="eV")
    assert model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_bad_input_is_refused(water):
    with pytest.raises(ValueError, match="rigid must be 'project'"):
        normal_modes(schnet(), water, unit="eV", rigid="remove")
    with pytest.raises(ValueError, match="state it, for example unit="):
        normal_modes(schnet(), water)
    with pytest.raises(ValueError, match=r"energies \(SumReadout\) or energies per atom"):
        normal_modes(schnet(), water, unit="eV/atom")
    with pytest.raises(ValueError, match="the unit 'D' is one of dipole"):
        normal_modes(lambda z, pos, batch: pos.sum().view(1), water, unit="D")
    with pytest.raises(TypeError, match=r"function of \(z, pos, batch\); got int"):
        normal_modes(3, water, unit="eV")
    with pytest.raises(FileNotFoundError, match="no model file at"):
        normal_modes("nothing.safetensors", water)
    model = schnet()
    model.card["unit"] = "kcal/mol"
    with pytest.raises(ValueError, match="unit='eV' contradicts the model"):
        normal_modes(model, water, unit="eV")
    water.set_masses([16.0, 1.0, 0.0])
    with pytest.raises(ValueError, match="masses must be positive"):
        normal_modes(schnet(), water, unit="eV")
