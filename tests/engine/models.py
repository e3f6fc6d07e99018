"""A small model, a structure, and the numbers that every program has to give."""

import copy

import torch

from pyg_schnet import SchNet
from pyg_schnet.derivatives import energy_forces_stress

F64 = torch.float64
Z = torch.tensor([6, 8, 1, 1, 1, 1])
POS = torch.tensor(
    [
        [-0.05, 0.67, 0.0],
        [-0.05, -0.76, 0.0],
        [-1.09, 0.98, 0.0],
        [0.88, -1.06, 0.0],
        [0.44, 1.07, 0.9],
        [0.44, 1.07, -0.9],
    ],
    dtype=F64,
)


def make(cls=SchNet, dtype=F64, **options):
    """A model with biases and statistics that are not zero, in evaluation mode."""
    torch.manual_seed(0)
    model = cls(16, 12, 3, 20, 4.0, **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.3)
        if hasattr(model.readout, "atomref"):
            model.readout.atomref.normal_()
    return model.to(dtype).eval()


def by_layers(model):
    """The same model with every layer called, by operations of torch."""
    twin = copy.deepcopy(model)
    twin.backend = "reference"
    return twin


def assert_right(model, rtol=1e-9, **given):
    """Energies and forces are those that the layers give."""
    arguments = {"z": Z, "pos": POS, **given}
    found, expected = energy_forces_stress(model, **arguments), energy_forces_stress(by_layers(model), **arguments)
    torch.testing.assert_close(found.energy, expected.energy, rtol=rtol, atol=1e-9)
    torch.testing.assert_close(found.forces, expected.forces, rtol=rtol, atol=1e-9)
