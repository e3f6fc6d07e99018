"""Derivatives of what was computed from forces: by autograd with and without a graph, and by differences."""

import pytest
import torch

from pyg_schnet import DTNN, SchNet
from pyg_schnet.derivatives import energy_forces_stress
from pyg_schnet.nn import DipoleReadout, MeanReadout, SumReadout

F64 = torch.float64
Z = torch.tensor([8, 1, 1, 6])
POS = torch.tensor([[0.0, 0.0, 0.0], [0.93, 0.1, 0.0], [-0.31, 0.87, 0.2], [0.3, -0.6, 1.3]], dtype=F64)
OPTIONS = {"num_gaussians": 8, "cutoff": 4.0}
MODELS = {
    "spline": lambda: SchNet(6, 5, 2, **OPTIONS, filters="spline", num_grid_points=40),
    "spline, normalized": lambda: SchNet(6, 5, 2, **OPTIONS, filters="spline", num_grid_points=40, normalize=True),
    "spline, one block twice": lambda: SchNet(
        6, 5, 2, **OPTIONS, filters="spline", num_grid_points=40, shared_weights=True
    ),
    "spline, Gaussians learned": lambda: SchNet(
        6, 5, 1, **OPTIONS, filters="spline", num_grid_points=40, trainable_gaussians=True
    ),
    "auto": lambda: SchNet(6, 5, 2, **OPTIONS, filters="auto"),
    "exact": lambda: SchNet(6, 5, 2, **OPTIONS, filters="exact"),
    "exact, normalized": lambda: SchNet(6, 5, 2, **OPTIONS, filters="exact", normalize=True),
    "silu": lambda: SchNet(6, 5, 1, **OPTIONS, readout=SumReadout(6, activation="silu")),
    "mean, tanh": lambda: SchNet(6, 5, 1, **OPTIONS, readout=MeanReadout(6, activation="tanh")),
    "mean": lambda: SchNet(6, 5, 1, **OPTIONS, readout=MeanReadout(6), activate_filters=False),
    "dipole": lambda: SchNet(6, 5, 1, **OPTIONS, readout=DipoleReadout(6)),
    "DTNN": lambda: DTNN(6, 5, 1, cutoff=4.0),
}


def make(name, training):
    torch.manual_seed(0)
    model = MODELS[name]().double().train(training)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def forces_along(model, pos):
    forces = energy_forces_stress(model, Z, pos, create_graph=True).forces
    return (forces * torch.linspace(-1.0, 1.0, 12, dtype=F64).view(4, 3)).sum()


def relaxed(model, pos):
    return model(Z, pos + 0.3 * energy_forces_stress(model, Z, pos, create_graph=True).forces).sum()


def strained(model, pos):
    """Energy in a cell that is stretched by the forces, stress included."""
    cell = (
        torch.eye(3, dtype=F64) * 5.0 + 0.2 * energy_forces_stress(model, Z, pos, create_graph=True).forces[:3]
    ).unsqueeze(0)
    pbc = torch.ones(1, 3, dtype=torch.bool)
    response = energy_forces_stress(model, Z, pos, cell=cell, pbc=pbc, stress=True, create_graph=True)
    return response.energy.sum() + 10.0 * response.stress.square().sum() + response.forces.square().sum()


FUNCTIONS = {"forces": forces_along, "step": relaxed, "strain": strained}


def derivative(model, function, along, order, create_graph=False):
    """Derivative of some order with respect to positions and weights in a direction."""
    pos = POS.clone().requires_grad_()
    leaves, value = [pos, *model.parameters()], function(model, pos)
    for k in range(order):
        gradients = torch.autograd.grad(
            value, leaves, create_graph=create_graph or k + 1 < order, materialize_grads=True, allow_unused=True
        )
        value = sum((gradient * direction).sum() for gradient, direction in zip(gradients, along, strict=True))
    return value.detach()


def directions(model):
    random = torch.Generator().manual_seed(1)
    return [torch.randn(x.shape, generator=random, dtype=F64) * 0.3 for x in (POS, *model.parameters())]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", MODELS)
def test_first_derivatives(name, training, function):
    if function == "strain" and name in ("dipole", "DTNN"):
        pytest.skip("nothing that has a stress")
    model, function, step = make(name, training), FUNCTIONS[function], 1e-5
    along, values = directions(model), []
    for sign in (1, -1):
        moved = make(name, training)
        with torch.no_grad():
            for weight, direction in zip(moved.parameters(), along[1:], strict=True):
                weight.add_(sign * step * direction)
        values.append(function(moved, (POS + sign * step * along[0]).requires_grad_()).detach())
    expected = (values[0] - values[1]) / (2 * step)
    for create_graph in (False, True):
        found = derivative(model, function, along, 1, create_graph)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", ["spline", "exact", "spline, normalized", "mean"])
def test_third_derivatives_of_energies(name, training):
    model, step = make(name, training), 1e-5
    along, values = directions(model), []
    for sign in (1, -1):
        moved = make(name, training)
        with torch.no_grad():
            for weight, direction in zip(moved.parameters(), along[1:], strict=True):
                weight.add_(sign * step * direction)
        start = POS + sign * step * along[0]
        values.append(
            derivative(moved, lambda model, pos, start=start: forces_along(model, pos - POS + start), along, 1)
        )
    found = derivative(model, forces_along, along, 2)  # of forces, which are first derivatives
    torch.testing.assert_close(found, (values[0] - values[1]) / (2 * step), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(derivative(model, forces_along, along, 2, True), found, rtol=1e-9, atol=1e-9)


def test_gradients_by_some_weights_only():
    """Those that are asked for are those that all would be, whatever else is left out."""
    model = make("spline", False)
    pos, weights = POS.clone().requires_grad_(), list(model.parameters())
    every = torch.autograd.grad(relaxed(model, pos), weights)
    for k in (0, 3, len(weights) - 1):
        torch.testing.assert_close(torch.autograd.grad(relaxed(model, pos), weights[k])[0], every[k])
    for weight in weights[::2]:
        weight.requires_grad_(False)
    chosen = torch.autograd.grad(relaxed(model, pos), weights[1::2])
    torch.testing.assert_close(chosen, every[1::2])


def test_weights_frozen_after_the_forward_pass():
    model = make("spline", False)
    pos = POS.clone().requires_grad_()
    weights = list(model.parameters())
    expected = torch.autograd.grad(relaxed(model, pos), weights[-1])[0]
    energy = relaxed(model, pos)
    model.interactions[0].lin1.weight.requires_grad_(False)
    torch.testing.assert_close(torch.autograd.grad(energy, weights[-1])[0], expected)
