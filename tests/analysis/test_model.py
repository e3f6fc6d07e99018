"""What all analyses share: precision, devices and units of the models they are given."""

import pytest
import torch
from torch import nn
from torch_geometric.nn.models import SchNet as PyGSchNet

from pyg_schnet import InteractionGraph, SchNet
from pyg_schnet.analysis._model import Potential, structure_for, structure_of, to_numpy
from pyg_schnet.interfaces import SchNetCalculator


@pytest.mark.parametrize("readout", ["sum", "mean"])
def test_energies_are_those_of_the_calculator(readout, water, ethanol, tensors):
    torch.manual_seed(0)
    model = SchNet(16, 16, 2, 12, 4.0, readout=readout)
    model.readout.set_references(torch.linspace(-30.0, 0.0, 100))
    unit = "kcal/mol" if readout == "sum" else "meV/atom"
    expected = [SchNetCalculator(model, unit=unit).get_potential_energy(atoms) for atoms in (water, ethanol)]
    potential = Potential(model, unit)
    found = potential(**tensors(water, ethanol)).energy
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
    alone = potential.energy(*structure_for(potential, water)[:2])
    assert alone.item() == pytest.approx(expected[0], rel=1e-12)


def test_copies_are_in_float64_and_without_training():
    model = PyGSchNet(16, 16, 2, 12, 4.0, interaction_graph=InteractionGraph(4.0)).train()
    copied = Potential(model, "eV").model
    assert copied is not model
    assert {parameter.dtype for parameter in copied.parameters()} == {torch.float64}
    assert not any(parameter.requires_grad for parameter in copied.parameters())
    assert not copied.training
    assert model.training
    assert Potential(len, "eV").model is len


def test_a_module_without_tensors_lives_on_the_cpu(water):
    class Repulsion(nn.Module):
        def forward(self, z, pos, batch):
            return torch.pdist(pos).reciprocal().sum().view(1)

    potential = Potential(Repulsion(), "eV")
    assert potential.device == torch.device("cpu")
    z, pos, lattice = structure_for(potential, water)
    assert potential.energy(z, pos).dtype == torch.float64
    assert lattice == {}


def test_periodic_structures_bring_their_cell(slab):
    z, _, lattice = structure_of(slab, torch.device("cpu"), torch.float32)
    assert z.tolist() == slab.numbers.tolist()
    assert lattice["cell"].dtype == torch.float32
    assert lattice["pbc"].tolist() == [[True, True, False]]


def test_arrays_are_in_float64_or_whole_numbers():
    assert to_numpy(torch.ones(2, requires_grad=True)).dtype == "float64"
    assert to_numpy(torch.ones(2, dtype=torch.int64)).dtype == "int64"
    assert to_numpy(torch.ones(2, dtype=torch.bool)).dtype == "bool"
