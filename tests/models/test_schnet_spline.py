"""Splined filters against the exact ones: energies, their derivatives, and training."""

import copy
import json
import re

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.func import functional_call

from pyg_schnet import SchNet, load, radius_graph
from pyg_schnet.backends import tuning
from pyg_schnet.data import to_data
from pyg_schnet.derivatives import energy_forces_stress, hessian

F64 = torch.float64
ENERGY_ERROR = 1e-6  # relative
FORCE_ERROR = 1e-5  # relative to the largest force
SIZES = {"hidden_channels": 32, "num_filters": 32, "num_interactions": 3, "num_gaussians": 25, "cutoff": 5.0}
MODELS = {
    "chapter": {"gamma": 10.0, "num_gaussians": 51},
    "pyg": {"activate_filters": False},
    "hard": {"window": "hard", "normalize": True},
    "narrow": {"num_filters": 12, "hidden_channels": 16, "num_gaussians": 20},
}
TINY = {"hidden_channels": 4, "num_filters": 3, "num_interactions": 2, "num_gaussians": 5, "cutoff": 3.0}


def make(seed=0, dtype=F64, **options):
    torch.manual_seed(seed)
    model = SchNet(**{**SIZES, **options})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.2)
    return model.to(dtype)


def exact(model):
    twin = copy.deepcopy(model)
    twin.filters = "exact"
    return twin


def random_molecules(seed, n=4):
    """Batches of 3 to 20 atoms about 1.5 Å apart."""
    random = np.random.default_rng(seed)
    sizes = random.integers(3, 21, n)
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3) * 1.5
    pos = np.concatenate([random.permutation(grid)[:size] for size in sizes])
    pos = pos + random.uniform(-0.3, 0.3, pos.shape)
    z = random.choice([1, 6, 7, 8, 9], len(pos))
    return torch.from_numpy(z), torch.from_numpy(pos), torch.from_numpy(np.repeat(np.arange(n), sizes))


def relative(found, expected):
    """Largest difference, relative to the largest number."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture
def crystal(triclinic):
    return to_data(triclinic, dtype=F64)


def lattice(data, dtype=F64):
    return {"cell": data.cell.to(dtype), "pbc": data.pbc}


@pytest.mark.parametrize("filters", ["auto", "spline"])
@pytest.mark.parametrize("name", MODELS)
def test_errors_are_as_small_as_stated(name, filters):
    for seed in range(3):
        training = filters == "spline"
        model = make(seed, filters=filters, **MODELS[name]).train(training)
        structures = random_molecules(seed)
        found, expected = energy_forces_stress(model, *structures), energy_forces_stress(exact(model), *structures)
        assert 1e-13 < relative(found.energy, expected.energy) < (10 if training else 1) * ENERGY_ERROR
        assert 1e-9 < relative(found.forces, expected.forces) < (10 if training else 1) * FORCE_ERROR


@pytest.mark.parametrize("name", MODELS)
def test_errors_in_single_precision(name):
    for seed in range(3):
        model, (z, pos, batch) = make(seed, torch.float32, **MODELS[name]).eval(), random_molecules(seed)
        expected = energy_forces_stress(exact(model).double(), z, pos, batch)
        found = energy_forces_stress(model, z, pos.float(), batch)
        assert found.energy.dtype == torch.float32
        assert relative(found.energy.double(), expected.energy) < 2 * ENERGY_ERROR
        assert relative(found.forces.double(), expected.forces) < 2 * FORCE_ERROR
        # and no worse than rounding errors of the exact way
        rounded = energy_forces_stress(exact(model), z, pos.float(), batch)
        assert relative(rounded.energy.double(), expected.energy) < 2 * ENERGY_ERROR


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("name", MODELS)
def test_errors_in_a_crystal(name, dtype, crystal):
    model = make(dtype=dtype, **MODELS[name]).eval()
    expected = energy_forces_stress(exact(model).double(), crystal.z, crystal.pos, **lattice(crystal), stress=True)
    found = energy_forces_stress(model, crystal.z, crystal.pos.to(dtype), **lattice(crystal, dtype), stress=True)
    factor = 1 if dtype == F64 else 2
    assert relative(found.energy.to(F64), expected.energy) < factor * ENERGY_ERROR
    assert relative(found.forces.to(F64), expected.forces) < factor * FORCE_ERROR
    assert relative(found.stress.to(F64), expected.stress) < factor * FORCE_ERROR


def test_error_of_trained_weights():
    # larger weights than those that a model starts with, and less smooth filters
    model = make()
    with torch.no_grad():
        for interaction in model.interactions:
            for layer in (interaction.conv.filter_network.lin1, interaction.conv.filter_network.lin2):
                layer.weight.mul_(1.5)
    structures = random_molecules(1)
    found, expected = energy_forces_stress(model.eval(), *structures), energy_forces_stress(exact(model), *structures)
    assert relative(found.energy, expected.energy) < 2 * ENERGY_ERROR
    assert relative(found.forces, expected.forces) < 3 * FORCE_ERROR


@pytest.mark.parametrize("mode", ["auto", "spline"])
def test_forces_are_slopes_of_the_splined_energy(mode, crystal):
    # so few grid points that exact forces would not pass
    model = make(filters=mode, num_grid_points=25).train(mode == "spline")
    found = energy_forces_stress(model, crystal.z, crystal.pos, **lattice(crystal), stress=True)
    assert (
        relative(found.forces, energy_forces_stress(exact(model), crystal.z, crystal.pos, **lattice(crystal)).forces)
        > 1e-4
    )
    step, scale = 1e-4, found.forces.abs().max()
    for atom, axis in [(0, 0), (2, 1), (4, 2)]:
        energies = []
        for sign in (-2, -1, 1, 2):
            pos = crystal.pos.clone()
            pos[atom, axis] += sign * step
            energies.append(model(crystal.z, pos, **lattice(crystal)).item())
        slope = (energies[0] - 8 * energies[1] + 8 * energies[2] - energies[3]) / (12 * step)
        assert abs(found.forces[atom, axis].item() + slope) < 1e-6 * scale


@pytest.mark.parametrize("training", [False, True])
def test_hessian_is_the_slope_of_the_forces(training, crystal):
    model, step = make(filters="spline", **TINY).train(training), 1e-5
    matrix = hessian(model, crystal.z, crystal.pos, **lattice(crystal))
    assert relative(matrix.transpose(0, 2).transpose(1, 3), matrix) < 1e-12
    error = relative(matrix, hessian(exact(model), crystal.z, crystal.pos, **lattice(crystal)))
    assert error < (5e-3 if training else 1e-3)
    for atom, axis in [(0, 1), (3, 2)]:
        forces = []
        for sign in (-1, 1):
            pos = crystal.pos.clone()
            pos[atom, axis] += sign * step
            forces.append(energy_forces_stress(model, crystal.z, pos, **lattice(crystal)).forces)
        slope = (forces[1] - forces[0]) / (2 * step)
        assert (matrix[atom, axis] + slope).abs().max() < 1e-6 * matrix.abs().max()


def loss_of(model, structures, forces):
    """A loss on energies, or on energies and forces."""
    z, pos, batch = structures
    target = torch.linspace(-1.0, 1.0, int(batch.max()) + 1, dtype=pos.dtype)
    response = energy_forces_stress(model, z, pos, batch, forces=forces, create_graph=True)
    loss = (response.energy - target).square().mean()
    return loss + 0.1 * (response.forces - pos.sin()).square().mean() if forces else loss


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("forces", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_weights(name, forces, training):
    model, structures = make(filters="spline", **MODELS[name]).train(training), random_molecules(2)
    model(*structures)  # in evaluation, the table is there before
    twin = exact(model)
    loss, expected = loss_of(model, structures, forces), loss_of(twin, structures, forces)
    assert relative(loss, expected) < 1e-4
    gradients = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
    wanted = torch.autograd.grad(expected, list(twin.parameters()), materialize_grads=True)
    for (key, _), a, b in zip(model.named_parameters(), gradients, wanted, strict=True):
        assert b.any(), key
        assert relative(a, b) < 1e-4, key


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_derivatives_by_everything(training, shared, tensors, ethanol):
    model = make(filters="spline", num_grid_points=12, shared_weights=shared, **TINY).train(training)
    given = tensors(ethanol[[0, 1, 2, 3]])
    weights = dict(model.named_parameters())
    directions = {key: torch.randn_like(weight) for key, weight in weights.items()}  # one for each parameter

    def energy(pos, steps):
        moved = {key: weights[key].detach() + step * directions[key] for key, step in zip(weights, steps, strict=True)}
        return functional_call(model, moved, (given["z"], pos))

    inputs = given["pos"].requires_grad_(), torch.zeros(len(weights), dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(energy, inputs)
    assert torch.autograd.gradgradcheck(energy, inputs)


def test_config_keeps_the_filters(tmp_path):
    default = make()
    assert (default.config["filters"], default.config["num_grid_points"]) == ("auto", None)
    model = make(filters="spline", num_grid_points=77)
    assert (model.config["filters"], model.config["num_grid_points"]) == ("spline", 77)
    assert SchNet(**model.config).config == model.config
    again = load(model.save(tmp_path / "model.safetensors"))
    assert (again.filters, again.num_grid_points) == ("spline", 77)
    assert all(interaction.conv.spline.num_grid_points == 77 for interaction in again.interactions)
    structures = random_molecules(0)
    torch.testing.assert_close(again(*structures), model.eval()(*structures), rtol=1e-13, atol=0)
    model.filters = "exact"
    assert load(model.save(tmp_path / "model.safetensors")).filters == "exact"


def test_files_from_before_splines(tmp_path):
    model = make()
    path = model.save(tmp_path / "model.safetensors")
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["pyg_schnet"])
    for key in ("filters", "num_grid_points"):
        del header["hyper_parameters"][key]
    save_file(load_file(path), path, metadata={"pyg_schnet": json.dumps(header)})
    again = load(path)
    assert (again.filters, again.num_grid_points) == ("auto", None)
    structures = random_molecules(0)
    torch.testing.assert_close(again(*structures), model.eval()(*structures), rtol=1e-13, atol=0)


def test_filters_can_be_changed():
    model, structures = make(num_grid_points=30).eval(), random_molecules(0)
    splined = model(*structures)
    model.filters = "exact"
    assert model.filters == "exact"
    assert all(interaction.conv.spline is None for interaction in model.interactions)
    plain = model(*structures)
    assert relative(splined, plain) > 1e-7
    model.filters = "spline"
    assert torch.equal(model(*structures), splined)
    assert all(interaction.conv.spline.num_grid_points == 30 for interaction in model.interactions)
    with pytest.raises(ValueError, match="filters must be 'auto', 'exact' or 'spline', got 'none'"):
        model.filters = "none"
    assert torch.equal(model(*structures), splined)
    with pytest.raises(ValueError, match="filters must be"):
        make(filters="table")
    with pytest.raises(ValueError, match="needs a FilterNetwork whose basis has a fixed resolution"):
        make(filters="spline", trainable_gaussians=True)
    assert make(trainable_gaussians=True).filters == "auto"


def test_blocks_may_differ():
    structures, weights = random_molecules(0), make().state_dict()
    outputs = {}
    for ways in [("exact", "spline", "auto"), ("spline", "exact", "exact"), ("auto", "exact", "spline")]:
        model = make().eval()
        model.load_state_dict(weights)
        for interaction, way in zip(model.interactions, ways, strict=True):
            interaction.conv.filters = way
        outputs[ways] = model(*structures)
    first, *others = outputs.values()
    for other in others:
        assert 0 < relative(other, first) < ENERGY_ERROR


def test_shared_weights():
    shared, structures = make(shared_weights=True, filters="spline"), random_molecules(0)
    assert len(shared.interactions) == 1
    unrolled = make(filters="spline")
    state = shared.state_dict()
    for key in list(state):
        if key.startswith("interactions.0."):
            state |= {key.replace(".0.", f".{t}.", 1): state[key] for t in (1, 2)}
    unrolled.load_state_dict(state)
    for training in (True, False):
        found, expected = shared.train(training)(*structures), unrolled.train(training)(*structures)
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)
        gradients = torch.autograd.grad(found.sum(), list(shared.parameters()))
        totals = dict.fromkeys(dict(shared.named_parameters()), 0.0)
        parts = torch.autograd.grad(expected.sum(), list(unrolled.parameters()))
        for (key, _), part in zip(unrolled.named_parameters(), parts, strict=True):
            totals[re.sub(r"interactions\.\d", "interactions.0", key)] += part
        for gradient, total in zip(gradients, totals.values(), strict=True):
            torch.testing.assert_close(gradient, total, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_edges_in_any_order(dtype):
    model, (z, pos, batch) = make(dtype=dtype).eval(), random_molecules(3)
    pos = pos.to(dtype).requires_grad_()
    edge_index = radius_graph(pos, 5.0, batch)
    tol = 1e-12 if dtype == F64 else 1e-5
    expected = energy_forces_stress(model, z, pos, batch)
    wide = radius_graph(pos, 8.0, batch)
    for edges in (edge_index, edge_index[:, torch.randperm(edge_index.size(1))], wide, wide.flip(1)):
        found = energy_forces_stress(model, z, pos, batch, edge_index=edges)
        assert relative(found.energy, expected.energy) < tol
        assert relative(found.forces, expected.forces) < 10 * tol


def test_energies_do_not_depend_on_the_number_of_edges_in_evaluation():
    model, (z, pos, batch) = make(dtype=F64).eval(), random_molecules(3, n=8)
    together = energy_forces_stress(model, z, pos, batch)
    for k in range(8):
        own = batch == k
        alone = energy_forces_stress(model, z[own], pos[own])
        assert relative(alone.energy, together.energy[k : k + 1]) < 1e-12
        assert relative(alone.forces, together.forces[own]) < 1e-11


@pytest.mark.parametrize("threads", [1, 2])
def test_training_can_be_repeated_bit_by_bit(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    z, pos, batch = random_molecules(4, n=70)
    assert radius_graph(pos, 5.0, batch).size(1) * SIZES["num_filters"] > tuning.current.serial_work
    try:
        results = []
        for _ in range(2):
            model = make(dtype=torch.float32, filters="spline")
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
            for forces in (False, True):
                optimizer.zero_grad()
                loss_of(model, (z, pos.float(), batch), forces).backward()
                optimizer.step()
            results.append([parameter.detach().clone() for parameter in model.parameters()])
    finally:
        torch.set_num_threads(before)
    start = make(dtype=torch.float32, filters="spline")
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(results[0], start.parameters(), strict=True))


def test_evaluation_between_steps_sees_the_new_weights():
    model, structures = make(filters="spline"), random_molecules(5)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    energies = []
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(model.train(), structures, forces=True).backward()
        optimizer.step()
        with torch.inference_mode():
            energies.append(model.eval()(*structures))
            assert relative(energies[-1], exact(model)(*structures)) < 1e-5
    assert not torch.equal(energies[0], energies[1])
    assert not torch.equal(energies[1], energies[2])
