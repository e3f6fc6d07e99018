"""Forces, stress and Hessian against finite differences, and what they must obey."""

import inspect
import math

import numpy as np
import pytest
import torch
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch_geometric.data import Batch
from torch_geometric.nn.models import SchNet as PyGSchNet

from pyg_schnet import InteractionGraph, SchNet
from pyg_schnet.backends import numba as kernels
from pyg_schnet.data import to_data
from pyg_schnet.derivatives import energy_forces_stress, hessian
from pyg_schnet.testing import random_rotation

STRUCTURES = ["ethanol", "slab", "triclinic", "small_cell"]


def schnet(**options):
    torch.manual_seed(0)
    model = SchNet(16, 16, 2, 12, 4.0, **options).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(params=STRUCTURES)
def structure(request):
    """A structure off its minimum, in float64."""
    atoms = request.getfixturevalue(request.param)
    atoms.rattle(0.05, seed=3)
    return to_data(atoms, dtype=torch.float64)


def energy_of(model, data, pos=None, cell=None):
    pos, cell = data.pos if pos is None else pos, data.cell if cell is None else cell
    with torch.no_grad():
        return model(data.z, pos, cell=cell, pbc=data.pbc).item()


def lattice(data):
    return {"cell": data.cell, "pbc": data.pbc}


def test_forces_are_finite_differences(structure):
    model, step = schnet(), 1e-4
    forces = energy_forces_stress(model, structure.z, structure.pos, **lattice(structure)).forces
    scale = forces.abs().max()
    for atom, axis in [(0, 0), (1, 2), (len(structure.z) - 1, 1)]:
        moved = []
        for sign in (-2, -1, 1, 2):
            pos = structure.pos.clone()
            pos[atom, axis] += sign * step
            moved.append(energy_of(model, structure, pos))
        slope = (moved[0] - 8 * moved[1] + 8 * moved[2] - moved[3]) / (12 * step)  # fourth order
        assert abs(forces[atom, axis] + slope) < 1e-6 * scale


@pytest.mark.parametrize("name", ["triclinic", "small_cell", "slab", "wire", "molecule in a box"])
@pytest.mark.parametrize("hand", [1, -1])
def test_stress_is_a_finite_difference(name, hand, request):
    given = {"wire": "slab", "molecule in a box": "ethanol"}.get(name, name)
    atoms = request.getfixturevalue(given)
    if name == "wire":
        atoms.pbc = (False, True, False)
    elif given == "ethanol":
        atoms.cell = [[7.0, 1.0, 0.0], [0.0, 8.0, 1.0], [0.5, 0.0, 9.0]]
    atoms.cell[2] *= hand  # a left-handed cell of the same lattice
    data = to_data(atoms, dtype=torch.float64)
    model, step = schnet(), 1e-4
    stress = energy_forces_stress(model, data.z, data.pos, **lattice(data), stress=True).stress[0]
    assert torch.equal(stress, stress.T)
    for a, b in [(0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (0, 2)]:
        strain = np.zeros((3, 3))
        strain[a, b] += 0.5
        strain[b, a] += 0.5
        energies = []
        for size in (-2 * step, -step, step, 2 * step):
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ (np.eye(3) + size * strain), scale_atoms=True)
            pos, cell = torch.from_numpy(strained.positions), torch.from_numpy(strained.cell.array[None])
            energies.append(energy_of(model, data, pos, cell))
        slope = (energies[0] - 8 * energies[1] + 8 * energies[2] - energies[3]) / (12 * step)
        assert abs(stress[a, b] - slope / atoms.get_volume()) < 1e-6 * stress.abs().max()


def test_hessian_is_a_finite_difference_of_forces(structure):
    model, step = schnet(), 1e-4
    matrix = hessian(model, structure.z, structure.pos, **lattice(structure))
    n = len(structure.z)
    flat = matrix.reshape(3 * n, 3 * n)
    assert (flat - flat.T).abs().max() < 1e-10 * flat.abs().max()
    for atom, axis in [(0, 1), (n - 1, 2)]:
        moved = []
        for sign in (-2, -1, 1, 2):
            pos = structure.pos.clone()
            pos[atom, axis] += sign * step
            moved.append(energy_forces_stress(model, structure.z, pos, **lattice(structure)).forces)
        slope = (moved[0] - 8 * moved[1] + 8 * moved[2] - moved[3]) / (12 * step)
        assert (matrix[atom, axis] + slope).abs().max() < 1e-6 * matrix.abs().max()


def test_forces_add_up_to_nothing_and_translation_is_free(structure):
    forces = energy_forces_stress(schnet(), structure.z, structure.pos, **lattice(structure)).forces
    assert forces.sum(0).abs().max() < 1e-10
    matrix = hessian(schnet(), structure.z, structure.pos, **lattice(structure))
    assert matrix.sum(2).abs().max() < 1e-9


def test_forces_and_stress_rotate_with_the_structure(triclinic):
    data, model, rotation = to_data(triclinic, dtype=torch.float64), schnet(), random_rotation(1)
    still = energy_forces_stress(model, data.z, data.pos, **lattice(data), stress=True)
    turned = energy_forces_stress(
        model, data.z, data.pos @ rotation, cell=data.cell @ rotation, pbc=data.pbc, stress=True
    )
    torch.testing.assert_close(turned.forces, still.forces @ rotation, rtol=0, atol=1e-10)
    torch.testing.assert_close(turned.stress, rotation.T @ still.stress @ rotation, rtol=0, atol=1e-10)


def test_batch_equals_single_structures(triclinic, small_cell):
    model, parts = schnet(), [to_data(atoms, dtype=torch.float64) for atoms in (triclinic, small_cell)]
    batch = Batch.from_data_list(parts)
    together = energy_forces_stress(model, batch.z, batch.pos, batch.batch, **lattice(batch), stress=True)
    alone = [energy_forces_stress(model, data.z, data.pos, **lattice(data), stress=True) for data in parts]
    for name in ("energy", "forces", "stress"):
        expected = torch.cat([getattr(part, name) for part in alone])
        torch.testing.assert_close(getattr(together, name), expected, rtol=0, atol=1e-10)


def test_molecules_slabs_and_crystals_share_a_batch(ethanol, slab, triclinic, isolated_atom):
    model = schnet()
    parts = [to_data(atoms, dtype=torch.float64) for atoms in (ethanol, slab, isolated_atom, triclinic)]
    batch = Batch.from_data_list(parts)
    together = energy_forces_stress(model, batch.z, batch.pos, batch.batch, **lattice(batch))
    alone = [energy_forces_stress(model, data.z, data.pos, **lattice(data)) for data in parts]
    torch.testing.assert_close(together.energy, torch.cat([part.energy for part in alone]), rtol=1e-12, atol=0)
    torch.testing.assert_close(together.forces, torch.cat([part.forces for part in alone]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["ethanol", "small_cell"])
def test_second_derivatives_flow_to_weights_and_positions(name, request):
    data, model = to_data(request.getfixturevalue(name), dtype=torch.float64), schnet()
    stress = bool(data.pbc.all())
    weights = dict(model.named_parameters())
    directions = {key: torch.randn_like(weight) for key, weight in weights.items()}  # one for each parameter

    def derivatives(pos, steps):
        moved = {key: weights[key].detach() + step * directions[key] for key, step in zip(weights, steps, strict=True)}

        def energy(*args, **keywords):
            return functional_call(model, moved, args, keywords)

        response = energy_forces_stress(energy, data.z, pos, **lattice(data), stress=stress, create_graph=True)
        return (response.forces[:2], response.stress) if stress else response.forces[:2]

    steps = torch.zeros(len(weights), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(derivatives, (data.pos.clone().requires_grad_(True), steps), atol=1e-6)
    forces = derivatives(data.pos, steps)
    forces = forces[0] if stress else forces
    (gradient,) = torch.autograd.grad(forces.square().sum(), steps)
    # every parameter acts on the forces, but for the constant that is added to the energy of each atom
    assert [key for key, slope in zip(weights, gradient, strict=True) if slope == 0] == ["readout.network.lin2.bias"]


def test_a_loss_of_forces_can_be_differentiated_twice(small_cell):
    data, model = to_data(small_cell, dtype=torch.float64), schnet()

    def loss(pos):
        return energy_forces_stress(model, data.z, pos, **lattice(data), create_graph=True).forces.square().sum()

    assert torch.autograd.gradgradcheck(loss, data.pos.clone().requires_grad_(True), atol=1e-5)


def test_results_are_detached_unless_asked_for(ethanol):
    data = to_data(ethanol, dtype=torch.float64)
    response = energy_forces_stress(schnet(), data.z, data.pos)
    assert not response.energy.requires_grad
    assert not response.forces.requires_grad
    assert response.stress is None
    assert not data.pos.requires_grad


def scan(model, distances):
    """Energy and force along the approach of two atoms, and both as they jump from one step to the next."""
    z = torch.tensor([6, 8])
    energies, forces = [], []
    for distance in distances:
        pos = torch.tensor([[0.0, 0.0, 0.0], [float(distance), 0.0, 0.0]], dtype=torch.float64)
        response = energy_forces_stress(model, z, pos)
        energies.append(response.energy)
        forces.append(response.forces[1, 0].view(1))
    return torch.cat(energies).diff().abs(), torch.cat(forces).diff().abs()


def test_forces_are_continuous_across_the_cutoff():
    near = torch.linspace(3.99, 4.01, 401, dtype=torch.float64)  # 5e-5 Å apart, the cutoff in the middle
    energy, force = scan(schnet(), near)
    # the cosine window ends like d², so energies change by curvature · step and forces by their slope · step
    assert energy.max() < 1e-5
    assert force.max() < 20 * force[:100].max()
    assert force.max() < 1e-3
    energy, _ = scan(schnet(window="hard"), near)
    assert energy.max() > 1e-3


def test_stress_without_a_volume_is_an_error(ethanol, slab):
    data = to_data(ethanol, dtype=torch.float64)
    with pytest.raises(ValueError, match="cell with a volume; structure 0 has"):
        energy_forces_stress(schnet(), data.z, data.pos, **lattice(data), stress=True)
    with pytest.raises(ValueError, match="pass cell"):
        energy_forces_stress(schnet(), data.z, data.pos, stress=True)
    slab.cell[2] = slab.cell[0] + slab.cell[1]
    data = to_data(slab, dtype=torch.float64, pbc=False)
    with pytest.raises(ValueError, match="give three independent vectors"):
        energy_forces_stress(schnet(), data.z, data.pos, **lattice(data), stress=True)


@pytest.mark.parametrize("pbc", [(True, True, False), (True, False, False), (False, False, False)])
@pytest.mark.parametrize("filters", ["auto", "exact"])
def test_stress_times_height_does_not_depend_on_the_vacuum(filters, pbc, slab):
    slab.pbc = pbc
    found = []
    for height in (1.0, 1.7):
        atoms = slab.copy()
        atoms.cell[2] *= height
        data = to_data(atoms, dtype=torch.float64)
        options = {**lattice(data), "stress": True}
        stress = energy_forces_stress(schnet(filters=filters), data.z, data.pos, **options).stress[0]
        found.append(stress * atoms.cell.volume)
    assert found[0][:2, :2].abs().max() > 1e-3
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-10)


def test_virial_is_minus_stress_times_volume(triclinic):
    data = to_data(triclinic, dtype=torch.float64)
    response = energy_forces_stress(schnet(), data.z, data.pos, **lattice(data), stress=True)
    size = abs(math.prod(torch.linalg.svdvals(data.cell[0]).tolist()))
    torch.testing.assert_close(response.virial(data.cell), -response.stress * size)
    with pytest.raises(ValueError, match="pass stress=True"):
        response._replace(stress=None).virial(data.cell)


def test_atoms_without_neighbours_feel_nothing():
    z, pos = torch.tensor([6, 8]), torch.tensor([[0.0, 0.0, 0.0], [50.0, 0.0, 0.0]], dtype=torch.float64)
    assert torch.equal(energy_forces_stress(schnet(), z, pos).forces, torch.zeros_like(pos))
    assert not hessian(schnet(), z, pos).any()


def test_any_energy_model_will_do(ethanol):
    data = to_data(ethanol, dtype=torch.float64)
    theirs = PyGSchNet(16, 16, 2, 12, 4.0, interaction_graph=InteractionGraph(4.0)).double()
    ours = SchNet.from_pyg(theirs)
    ours.filters = "exact"
    forces = [energy_forces_stress(model, data.z, data.pos).forces for model in (theirs, ours)]
    torch.testing.assert_close(forces[0], forces[1], rtol=0, atol=1e-10 * float(forces[0].abs().max()))
    with pytest.raises(ValueError, match="one energy for each structure"):
        energy_forces_stress(lambda z, pos, batch: pos, data.z, data.pos)


def test_given_edges_are_used(triclinic):
    from pyg_schnet import radius_graph

    data, model = to_data(triclinic, dtype=torch.float64), schnet()
    edge_index, edge_shift = radius_graph(data.pos, 4.0, cell=data.cell, pbc=data.pbc)
    graph = {"edge_index": edge_index, "edge_shift": edge_shift}
    built = energy_forces_stress(model, data.z, data.pos, **lattice(data), stress=True)
    given = energy_forces_stress(model, data.z, data.pos, **lattice(data), **graph, stress=True)
    for one, other in zip(built, given, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


class Products(TorchDispatchMode):
    """Shapes of all matrix products of torch."""

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm):
            self.shapes.add(tuple(out.shape[-2:]))
        return out


@pytest.fixture
def weight_gradients(monkeypatch):
    """Kernels that were asked for gradients with respect to weights or tables, whether these were used or not."""
    seen = []
    for name in ("interactions_backward", "mlp_backward", "filter_table_backward", "spline_conv_grad_table"):
        kernel = getattr(kernels, name)
        asked = inspect.signature(kernel).parameters.get("grad_weights")

        def counted(*args, name=name, kernel=kernel, asked=asked, **options):
            if asked is None or options.get("grad_weights", asked.default) or options.get("grad_embedding"):
                seen.append(name)
            return kernel(*args, **options)

        monkeypatch.setattr(kernels, name, counted)
    return seen


@pytest.mark.parametrize("mode", [False, True])
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("filters", ["exact", "auto"])
def test_forces_alone_compute_no_gradients_with_respect_to_weights(filters, backend, mode, molecules, weight_gradients):
    torch.manual_seed(0)
    model = SchNet(17, 19, 2, 12, 4.0, filters=filters).double().train(mode)
    model.backend = backend
    if mode is False:  # large structures go by autograd also in evaluation
        model.readout.register_forward_hook(lambda *_: None)
    rows = {
        (17, 19),
        (19, 17),
        (17, 17),
        (19, 12),
        (12, 19),
        (19, 19),
        (8, 17),
        (17, 8),
    }  # of weights, and turned round
    assert not {n for shape in rows for n in shape} & {len(molecules["z"])}
    with Products() as products:
        energy_forces_stress(model, **molecules)
    assert weight_gradients == []
    assert not products.shapes & rows
    with Products() as products:
        energy_forces_stress(model, **molecules, create_graph=True).forces.square().sum().backward()
    assert weight_gradients or products.shapes & rows  # where they are needed, these are what is seen


def test_gradients_with_respect_to_weights_after_forces_alone(molecules):
    model = schnet()
    expected = torch.autograd.grad(model(**molecules).sum(), model.interactions[0].lin1.weight)
    energy_forces_stress(model, **molecules)
    found = torch.autograd.grad(model(**molecules).sum(), model.interactions[0].lin1.weight)
    assert torch.equal(found[0], expected[0])
