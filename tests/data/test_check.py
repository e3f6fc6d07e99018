"""Structures are compared with what a model was trained on: in calculators, analyses and batches."""

import warnings

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from torch_geometric.data import Batch

from pyg_schnet import SchNet
from pyg_schnet.analysis import (
    atom_contributions,
    dimer_scan,
    locality,
    normal_modes,
    probe_potential,
    trajectory_dipoles,
)
from pyg_schnet.data import to_data
from pyg_schnet.data.check import StructureCheck
from pyg_schnet.derivatives import energy_forces_stress, hessian
from pyg_schnet.interfaces import SchNetCalculator
from pyg_schnet.models.domain import Coverage, Domain, renew
from pyg_schnet.nn import DipoleReadout

ETHANOL = Coverage(10, (9, 9), ("C2H6O",), {"H": (6, 6), "C": (2, 2), "O": (1, 1)})
DIAMOND = Coverage(10, (2, 8), ("C",), {"C": (1, 1)})
SHORTEST = {(1, 1): 1.6, (1, 6): 1.0, (1, 8): 0.9, (6, 6): 1.4, (6, 8): 1.3}


def trained(gradients="none", systems=None, readout="sum", unit="eV", seed=0):
    torch.manual_seed(seed)
    model = SchNet(16, 16, 2, 12, 4.0, readout=readout).eval()
    model.card["unit"] = unit
    renew(model.card, Domain(gradients, False, systems or {"molecule": ETHANOL}, SHORTEST))
    return model


def close_pair(atoms, first, second, dist):
    """The second atom at that distance in Å of the first."""
    atoms = atoms.copy()
    atoms.set_distance(first, second, dist, fix=0)
    return atoms


REFUSED = {
    "forces": lambda model, atoms, **options: SchNetCalculator(model, **options).get_forces(atoms),
    "normal_modes": normal_modes,
    "dimer_scan": lambda model, atoms, **options: dimer_scan(model, "C", "O", [1.2, 2.0], **options),
}


@pytest.mark.parametrize("analyse", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize(("gradients", "why"), [("none", "energies alone"), ("relaxed", "relaxed structures")])
@pytest.mark.filterwarnings("ignore:the structure has")
def test_derivatives_need_a_model_of_forces(analyse, gradients, why):
    atoms = molecule("CH3CH2OH")
    with pytest.raises(
        ValueError, match=f"refused: the model was not trained on forces but on {why}.*untrained_forces"
    ):
        analyse(trained(gradients), atoms)
    analyse(trained(gradients), atoms, untrained_forces=True)
    analyse(trained("forces"), atoms)


def test_one_untrained_model_of_an_ensemble_is_enough():
    atoms = molecule("CH3CH2OH")
    atoms.calc = SchNetCalculator([trained("forces"), trained("none", seed=1)])
    assert np.isfinite(atoms.get_potential_energy())
    with pytest.raises(ValueError, match="not trained on forces"):
        atoms.get_forces()


def test_derivatives_as_such_are_mathematics():
    model, data = trained("none"), to_data(molecule("CH3CH2OH"))
    assert energy_forces_stress(model, data.z, data.pos).forces.shape == (9, 3)
    assert hessian(model, data.z, data.pos).shape == (9, 3, 9, 3)


def test_models_without_facts_are_taken_as_they_are():
    model = SchNet(16, 16, 2, 12, 4.0)
    atoms = molecule("C6H6")
    atoms.calc = SchNetCalculator(model, unit="eV")
    atoms.get_forces()
    normal_modes(lambda z, pos, batch: (pos**2).sum().view(1), atoms, unit="eV")


DIPOLES = DipoleReadout(16, magnitude=False)
UNKNOWN = {
    "calculator": lambda atoms: SchNetCalculator(trained()).get_potential_energy(atoms),
    "normal_modes": lambda atoms: normal_modes(trained("forces"), atoms),
    "dimer_scan": lambda atoms: dimer_scan(trained("forces"), "Si", "Si", [2.0, 3.0]),
    "atom_contributions": lambda atoms: atom_contributions(trained(), atoms),
    "locality": lambda atoms: locality(trained(), atoms, [3.0]),
    "probe_potential": lambda atoms: probe_potential(trained(), atoms, points=[[0.0, 0.0, 5.0]]),
    "its probe": lambda _: probe_potential(trained(), molecule("CH3CH2OH"), "Si", points=[[0.0, 0.0, 5.0]]),
    "trajectory_dipoles": lambda atoms: trajectory_dipoles(trained(readout=DIPOLES, unit="D"), [atoms]),
}


@pytest.mark.parametrize("analyse", UNKNOWN.values(), ids=UNKNOWN)
def test_unknown_elements_are_refused_everywhere(analyse):
    with pytest.raises(ValueError, match="the model was not trained on Si; it knows H, C, O"):
        analyse(molecule("SiH4"))


WARNED = {name: analyse for name, analyse in UNKNOWN.items() if name not in ("dimer_scan", "its probe")}


@pytest.mark.parametrize("analyse", WARNED.values(), ids=WARNED)
def test_other_compositions_are_said_everywhere(analyse):
    with pytest.warns(UserWarning, match="the composition CH4O, but the model was trained on C2H6O"):
        analyse(molecule("CH3OH"))


@pytest.mark.parametrize("analyse", WARNED.values(), ids=WARNED)
def test_short_distances_are_said_everywhere(analyse):
    with pytest.warns(UserWarning, match=r"H and O 0\.80 Å apart|O and H 0\.80 Å apart"):
        analyse(close_pair(molecule("CH3CH2OH"), 2, 3, 0.80))


def test_known_structures_pass_in_silence():
    for analyse in WARNED.values():
        analyse(molecule("CH3CH2OH"))


def test_calculators_say_each_kind_once():
    atoms = molecule("CH3OH")
    atoms.calc = SchNetCalculator([trained("forces"), trained("forces", seed=1)])
    with pytest.warns(UserWarning, match="the composition CH4O") as caught:
        atoms.get_potential_energy()
    assert len(caught) == 1
    atoms.rattle(0.01)
    atoms.get_forces()  # warnings are errors here
    with pytest.warns(UserWarning, match=r"C and O 1\.00 Å apart, but .* closer than 1\.30 Å") as caught:
        atoms.calc.get_potential_energy(close_pair(atoms, 0, 1, 1.0))
    assert len(caught) == 1
    atoms.calc.get_potential_energy(close_pair(atoms, 0, 1, 0.9))
    with pytest.warns(UserWarning, match="periodic boundaries, pbc=.* trained on molecules"):
        atoms.calc.get_potential_energy(bulk("C", cubic=True))


@pytest.mark.parametrize("supercell", [1, 2, 3])
def test_supercells_are_the_same_crystal(supercell):
    atoms = bulk("C", cubic=True).repeat(supercell)
    atoms.calc = SchNetCalculator(trained("forces", {"crystal": DIAMOND}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atoms.get_stress()
    strained = atoms.copy()
    strained.set_cell(0.8 * atoms.cell, scale_atoms=True)  # bonds of 1.236 Å, through the boundaries too
    with pytest.warns(UserWarning, match=r"C and C 1\.24 Å apart, but .* closer than 1\.40 Å"):
        atoms.calc.get_stress(strained)


def test_large_molecules_are_looked_at_through_their_neighbour_list():
    coverage = Coverage(10, (60, 80), None, {"C": (60, 80)})
    atoms = molecule("C60")
    atoms.calc = SchNetCalculator(trained("forces", {"molecule": coverage}))
    atoms.positions *= 0.92  # the shortest bond, 1.38 Å, becomes 1.27 Å
    with pytest.warns(UserWarning, match=r"C and C 1\.27 Å apart, but .* closer than 1\.40 Å"):
        atoms.get_forces()


def test_batches_are_checked_as_structures_are():
    check = StructureCheck([trained().card])
    check.batch(Batch.from_data_list([to_data(molecule("CH3CH2OH"))] * 2))
    batch = Batch.from_data_list([to_data(molecule(name)) for name in ("CH3CH2OH", "CH3OH")])
    with pytest.warns(UserWarning, match="the composition CH4O"):
        check.batch(batch)
    broken = Batch.from_data_list([to_data(close_pair(molecule("CH3CH2OH"), 0, 1, 1.1))])
    with pytest.warns(UserWarning, match=r"C and C 1\.10 Å apart"):
        check.batch(broken)
    with pytest.raises(ValueError, match="not trained on Si"):
        check.batch(Batch.from_data_list([to_data(molecule("SiH4"))]))
