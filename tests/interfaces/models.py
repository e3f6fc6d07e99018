"""Models for tests of engines."""

import torch

from pyg_schnet import SchNet


def soft_model(seed=3):
    """A network of random weights and weak forces, so that atoms oscillate, in float64."""
    torch.manual_seed(seed)
    model = SchNet(16, 16, 2, 12, 4.0).double().eval()
    model.readout.scale.fill_(0.05)
    return model
