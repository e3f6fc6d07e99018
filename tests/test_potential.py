"""Potentials: units, element energies in float64, batches, derivatives, and that they are frozen."""

import numpy as np
import pytest
import torch
from torch import nn
from torch_geometric.data import Batch
from torch_geometric.nn.models import SchNet as PyGSchNet

from pyg_schnet import DTNN, InteractionGraph, SchNet, radius_graph
from pyg_schnet import testing as contract
from pyg_schnet.data import to_data
from pyg_schnet.derivatives import hessian
from pyg_schnet.engine.frozen import freeze
from pyg_schnet.models.domain import ENTRY, Coverage, Domain
from pyg_schnet.nn import SumReadout
from pyg_schnet.potential import Potential
from pyg_schnet.units import factor

STRUCTURES = ["ethanol", "slab", "triclinic", "small_cell"]
REFERENCES = -13.6 * torch.arange(100).double() ** 2.4  # as total energies: 1e4 eV and more


def schnet(cls=SchNet, **options):
    torch.manual_seed(0)
    model = cls(16, 16, 2, 12, 4.0, **options).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        model.readout.scale.fill_(1.7)
        model.readout.shift.fill_(-0.3)
    model.readout.set_references(REFERENCES)
    return model.eval()


def inputs(*structures):
    """Batch of several structures, or one without ``batch``."""
    data = [to_data(atoms, dtype=torch.float64) for atoms in structures]
    if len(data) == 1:
        return data[0].z, data[0].pos, None, {"cell": data[0].cell, "pbc": data[0].pbc}
    batch = Batch.from_data_list(data)
    return batch.z, batch.pos, batch.batch, {"cell": batch.cell, "pbc": batch.pbc}


@pytest.fixture
def structures(request):
    found = [request.getfixturevalue(name) for name in STRUCTURES]
    for atoms in found:
        atoms.rattle(0.05, seed=3)
    return found


@pytest.mark.parametrize("readout", ["sum", "mean"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", STRUCTURES)
def test_energy_is_the_networks_plus_sums_in_float64(name, dtype, readout, request):
    z, pos, _, lattice = inputs(request.getfixturevalue(name))
    model = schnet(readout=readout)
    potential = Potential(model, "kcal/mol" if readout == "sum" else "meV/atom", dtype=dtype)
    to_ev = factor("kcal/mol", "eV") if readout == "sum" else 1e-3
    bare = schnet(readout=readout)
    bare.readout.set_references(torch.zeros(100))
    with torch.no_grad():
        bare.readout.shift.zero_()
        network = bare.to(dtype)(z, pos.to(dtype), **{**lattice, "cell": lattice["cell"].to(dtype)}).double().item()
    atoms = sum(model.readout.atomref[number, 0].item() - 0.3 for number in z.tolist())
    expected = to_ev * (network * (len(z) if readout == "mean" else 1) + atoms)
    found = potential(z, pos, **lattice, forces=False)
    assert found.energy.dtype == torch.float64
    assert found.forces is None
    assert found.energy.item() == pytest.approx(expected, rel=1e-12 if dtype == torch.float64 else 1e-10)


@pytest.mark.parametrize("filters", ["exact", "auto"])
@pytest.mark.parametrize("readout", ["sum", "mean"])
def test_batches_equal_single_structures(readout, filters, structures):
    potential = Potential(schnet(readout=readout, filters=filters), "eV" if readout == "sum" else "eV/atom")
    crystals = structures[2:]
    for stress, chosen in ((False, structures), (True, crystals)):
        z, pos, batch, lattice = inputs(*chosen)
        together = potential(z, pos, batch, **lattice, stress=stress)
        parts = [inputs(atoms) for atoms in chosen]
        alone = [potential(z, pos, **lattice, stress=stress) for z, pos, _, lattice in parts]
        for name in ("energy", "forces", "stress") if stress else ("energy", "forces"):
            expected = torch.cat([getattr(one, name) for one in alone])
            torch.testing.assert_close(getattr(together, name), expected, rtol=1e-12, atol=1e-10)
            assert getattr(together, name).dtype == torch.float64


@pytest.mark.parametrize("readout", ["sum", "mean"])
def test_forces_and_stress_are_finite_differences(readout, triclinic):
    triclinic.rattle(0.05, seed=3)
    z, pos, _, lattice = inputs(triclinic)
    potential = Potential(schnet(readout=readout), "kcal/mol" if readout == "sum" else "meV/atom")
    found, step = potential(z, pos, **lattice, stress=True), 1e-4

    def slope(moved):
        energies = [moved(sign * step).item() for sign in (-2, -1, 1, 2)]
        return (energies[0] - 8 * energies[1] + 8 * energies[2] - energies[3]) / (12 * step)

    def along(direction, size):
        return potential(z, pos + size * direction, **lattice, forces=False).energy

    def strained(strain, size):
        deform = torch.eye(3, dtype=torch.float64) + size * strain
        graph = {**lattice, "cell": lattice["cell"] @ deform}
        return potential(z, pos @ deform, **graph, forces=False).energy

    direction = torch.zeros_like(pos)
    direction[1, 2] = 1.0
    scale = 1e-6 * found.forces.abs().max()
    assert abs(found.forces[1, 2] + slope(lambda size: along(direction, size))) < scale
    for a, b in ((0, 0), (1, 2)):
        strain = torch.zeros(3, 3, dtype=torch.float64)
        strain[a, b] += 0.5
        strain[b, a] += 0.5
        expected = slope(lambda size, strain=strain: strained(strain, size)) / triclinic.get_volume()
        assert abs(found.stress[0, a, b] - expected) < 1e-6 * found.stress.abs().max()


def test_float32_loses_no_digit_of_total_energies(ethanol):
    z, pos, _, _ = inputs(ethanol)
    exact, single = (Potential(schnet(), "eV", dtype=dtype) for dtype in (torch.float64, torch.float32))
    difference = (single(z, pos).energy - exact(z, pos).energy).abs().item()
    assert abs(exact(z, pos).energy.item()) > 1e3
    assert difference < 1e-5
    model = schnet().float()
    assert abs(model(z, pos.float()).double() - exact(z, pos).energy).item() > 3 * difference


@pytest.mark.parametrize("edit", ["weight", "references", "part", "hook"])
def test_later_edits_of_the_source_are_not_seen(edit, ethanol):
    z, pos, _, _ = inputs(ethanol)
    model = schnet()
    potential = Potential(model, "eV")
    before = potential(z, pos)
    with torch.no_grad():
        if edit == "weight":
            model.interactions[0].lin1.weight.data[0] = 1.0
        elif edit == "references":
            model.readout.set_references(torch.zeros(100))
        elif edit == "part":
            model.interactions[1] = nn.Identity()
        else:
            model.readout.register_forward_hook(lambda module, args, out: 2 * out)
    after = potential(z, pos)
    assert torch.equal(before.energy, after.energy)
    assert torch.equal(before.forces, after.forces)
    assert torch.equal(model.readout.atomref[6, 0], REFERENCES[6] * (edit != "references"))


def test_frozen_models_are_models(ethanol):
    z, pos, _, _ = inputs(ethanol)
    expected, found = Potential(schnet(), "eV"), Potential(freeze(schnet()), "eV")
    assert found.element_energies is not None
    assert torch.equal(found(z, pos).energy, expected(z, pos).energy)
    assert torch.equal(found.atom_energies(z, pos), expected.atom_energies(z, pos))
    with pytest.raises(ValueError, match=r"energies \(SumReadout\) or energies per atom"):
        Potential(freeze(schnet()), "eV/atom")


def test_models_stay_as_they_were(ethanol):
    model = schnet().train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    Potential(model, "eV", dtype=torch.float32)(*inputs(ethanol)[:2])
    assert model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_padding_adds_nothing(ethanol):
    z, pos, _, _ = inputs(ethanol)
    padded = torch.cat([z, torch.zeros(2, dtype=torch.int64)]), torch.cat([pos, torch.zeros(2, 3)])
    for readout, unit in (("sum", "eV"), ("mean", "eV/atom")):
        potential = Potential(schnet(readout=readout), unit)
        found, expected = potential(*padded), potential(z, pos)
        torch.testing.assert_close(found.energy, expected.energy, rtol=1e-12, atol=0)
        torch.testing.assert_close(found.forces[:-2], expected.forces, rtol=0, atol=1e-10)


@pytest.mark.parametrize("readout", ["sum", "mean"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_energies_of_atoms_add_up(dtype, readout, structures):
    z, pos, batch, lattice = inputs(*structures)
    potential = Potential(schnet(readout=readout), "eV" if readout == "sum" else "eV/atom", dtype=dtype)
    atoms, total = potential.atom_energies(z, pos, batch, **lattice), potential(z, pos, batch, **lattice).energy
    assert atoms.dtype == torch.float64
    found = torch.zeros_like(total).index_add(0, batch, atoms)
    torch.testing.assert_close(found, total, rtol=1e-12 if dtype == torch.float64 else 1e-9, atol=0)


def test_given_edges_are_used_whatever_is_their_integer_type(triclinic):
    z, pos, _, lattice = inputs(triclinic)
    potential = Potential(schnet(), "eV")
    edge_index, edge_shift = radius_graph(pos, 4.0, **lattice)
    expected = potential(z, pos, **lattice, stress=True)
    for shift in (edge_shift, edge_shift.to(torch.int8)):
        found = potential(z, pos, **lattice, edge_index=edge_index, edge_shift=shift, stress=True)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-10)
    nothing = torch.zeros(2, 0, dtype=torch.int64)
    assert potential(z, pos, edge_index=nothing).forces.abs().max() == 0


def test_energy_can_be_differentiated_further(ethanol):
    ethanol.rattle(0.05, seed=3)
    z, pos, _, _ = inputs(ethanol)
    potential, step = Potential(schnet(), "kcal/mol"), 1e-4
    matrix = hessian(potential.energy, z, pos)
    moved = []
    for sign in (-1, 1):
        other = pos.clone()
        other[2, 1] += sign * step
        moved.append(potential(z, other).forces)
    expected = (moved[0] - moved[1]) / (2 * step)
    torch.testing.assert_close(matrix[2, 1], expected, rtol=0, atol=1e-5 * matrix.abs().max().item())


@pytest.fixture(params=["sum", "mean"])
def energy(request):
    """Differentiable energies of a potential, of energies and of energies per atom."""
    model = schnet(readout=request.param)
    model.readout.set_references(torch.linspace(-3.0, 0.0, 100))
    return Potential(model, "eV" if request.param == "sum" else "eV/atom").energy


def test_physics_of_molecules(energy, molecules, tensors, ethanol):
    for check in (contract.check_rotation, contract.check_translation, contract.check_permutation):
        check(energy, **molecules)
    contract.check_batching(energy, **molecules)
    contract.check_extensivity(energy, **molecules)  # energies per atom are multiplied by the number of atoms
    contract.check_finite_gradients(energy, **molecules)
    contract.check_derivatives(energy, **tensors(ethanol[[0, 1, 2, 3]]))


@pytest.mark.parametrize("name", ["triclinic", "slab", "small_cell"])
def test_physics_of_crystals(name, energy, request, periodic_tensors):
    crystal = periodic_tensors(request.getfixturevalue(name))
    del crystal["batch"]
    contract.check_supercell(energy, **crystal)
    contract.check_rewrapping(energy, **crystal)
    contract.check_rotation(energy, **crystal)


class Twice(SchNet):
    def forward(self, *args, **kwargs):
        return 2.0 * super().forward(*args, **kwargs)


class Shifted(SumReadout):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs).clamp(max=-5.0)


def hooked():
    model = schnet()
    model.register_forward_hook(lambda module, args, out: 0.5 * out)
    return model


@pytest.mark.parametrize(
    "make", [lambda: schnet(Twice), lambda: schnet(readout=Shifted(16)), hooked], ids=["model", "readout", "hook"]
)
def test_overridden_parts_see_element_energies(make, ethanol):
    z, pos, _, _ = inputs(ethanol)
    model = make()
    expected = model(z, pos)[:, 0]
    potential = Potential(model, "eV")
    assert potential.element_energies is None
    torch.testing.assert_close(potential(z, pos).energy, expected, rtol=1e-12, atol=0)


def test_other_models_and_functions(ethanol, water):
    z, pos, batch, _ = inputs(ethanol, water)
    theirs = PyGSchNet(16, 16, 2, 12, 4.0, interaction_graph=InteractionGraph(4.0), atomref=torch.randn(100, 1))
    found = Potential(theirs, "kcal/mol")(z, pos, batch)
    expected = factor("kcal/mol", "eV") * theirs.double()(z, pos, batch)[:, 0]
    torch.testing.assert_close(found.energy, expected, rtol=1e-12, atol=1e-12)
    assert found.forces.shape == pos.shape

    def springs(z, pos, batch):
        return torch.zeros(2, dtype=pos.dtype).index_add(0, batch, pos.square().sum(1))

    found = Potential(springs, "meV/atom")(z, pos, batch)
    n_atoms = batch.bincount().double()
    torch.testing.assert_close(found.energy, 1e-3 * n_atoms * springs(z, pos, batch), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.forces, -2e-3 * n_atoms[batch].unsqueeze(1) * pos, rtol=1e-12, atol=0)
    with pytest.raises(TypeError, match=r"of atoms are those of models of this package .* got function"):
        Potential(springs, "eV").atom_energies(z, pos, batch)


def test_files_and_other_classes(ethanol, tmp_path):
    z, pos, _, _ = inputs(ethanol)
    model = DTNN(8, 6, 2, 12, 4.0)
    path = model.save(tmp_path / "model.safetensors", unit="kcal/mol")
    found = Potential(path)(z, pos)
    expected = Potential(model, "kcal/mol")(z, pos)
    assert torch.equal(found.energy, expected.energy)
    assert found.energy.item() == pytest.approx(factor("kcal/mol", "eV") * model.double()(z, pos).item(), rel=1e-12)


def test_results_in_inference_mode_are_the_same(ethanol):
    z, pos, _, _ = inputs(ethanol)
    expected = Potential(schnet(), "eV")(z, pos)
    with torch.inference_mode():
        found = Potential(schnet(), "eV")(*inputs(ethanol)[:2])
    torch.testing.assert_close(found.forces, expected.forces, rtol=1e-12, atol=1e-12)


def test_forces_of_models_that_saw_none_are_refused(water):
    z, pos, _, _ = inputs(water)
    model = schnet()
    domain = Domain("none", False, {"molecule": Coverage(10, (3, 3), ("H2O",), {"H": (2, 2), "O": (1, 1)})}, {})
    model.card[ENTRY] = domain.as_json()
    with pytest.raises(ValueError, match="forces and stress are refused"):
        Potential(model, "eV")(z, pos)
    assert Potential(model, "eV")(z, pos, forces=False).forces is None
    assert np.isfinite(Potential(model, "eV", untrained_forces=True)(z, pos).forces.numpy()).all()


@pytest.mark.parametrize(
    ("make", "unit", "error", "message"),
    [
        (lambda: 5, "eV", TypeError, "expected a model, the path of a model file, or a function"),
        (schnet, None, ValueError, "state it, for example unit="),
        (schnet, "D", ValueError, r"energies \(SumReadout\) or energies per atom"),
        (schnet, "eV/atom", ValueError, r"energies \(SumReadout\) or energies per atom"),
        (lambda: SchNet(16, 16, 2, out_channels=2), "eV", ValueError, r"energies \(SumReadout\) or energies per atom"),
        (lambda: len, "D", ValueError, "the unit 'D' is one of dipole"),
    ],
)
def test_what_does_not_fit_is_refused(make, unit, error, message):
    with pytest.raises(error, match=message):
        Potential(make(), unit)


def test_half_precision_is_refused():
    with pytest.raises(ValueError, match=r"float64 or torch.float32, got torch.float16"):
        Potential(schnet(), "eV", dtype=torch.float16)
