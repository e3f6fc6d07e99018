"""What is asked of a model: predictions or steps of training; the same for all peers, and checked to be equal."""

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F

TOLERANCES = {"energy": 1e-5, "forces": 1e-4, "gradients": 1e-3}  # relative, float32


class Task(NamedTuple):
    """What is computed of a batch.

    Attributes:
        training: Whether it is a step of training: gradients, loss by squared errors, Adam.
        forces: Whether forces belong to it, beside energies.
    """

    training: bool = False
    forces: bool = False


def predict(task, peer):
    """Energies, and forces where the task has them."""
    if task.forces:
        return dict(zip(("energy", "forces"), peer.energy_and_forces(create_graph=task.training), strict=True))
    with torch.set_grad_enabled(task.training):
        return {"energy": peer.energy(peer.system.pos)}


def loss_of(predicted, system):
    """Sum of the mean squared errors."""
    return sum(F.mse_loss(value, getattr(system, name)) for name, value in predicted.items())


def make_step(task, peer):
    """Function that does the task once."""
    peer.model.train(task.training)
    if not task.training:
        return partial(predict, task, peer)
    optimizer, weights = peer.optimizer(), list(peer.model.parameters())

    def step():
        optimizer.zero_grad()
        loss_of(predict(task, peer), peer.system).backward(
            inputs=weights
        )  # no gradient with respect to positions, which is not used
        optimizer.step()

    return step


def outcome(task, peer):
    """All that a task computes: what is predicted, and the gradients of weights in training."""
    peer.model.train(task.training)
    predicted = predict(task, peer)
    gradients = {}
    if task.training:
        peer.model.zero_grad()
        loss_of(predicted, peer.system).backward()
        gradients = peer.gradients()
    return {name: value.detach() for name, value in predicted.items()}, gradients


def check(task, peers, tolerances=TOLERANCES):
    """Stop unless all peers compute the same as the first one; returns the deviations by peer and kind."""
    expected = outcome(task, peers[0])
    return {
        peer.name: check_outcome(peer.name, outcome(task, peer), peers[0].name, expected, tolerances)
        for peer in peers[1:]
    }


def check_outcome(name, found, reference, expected, tolerances=TOLERANCES):
    """Stop unless two outcomes are equal.

    Energies and forces are compared by the largest deviation over the largest value, the gradient of each weight by the
    norm of the deviation over its norm.

    Args:
        name: Whose outcome it is.
        found: The outcome, see :func:`outcome`.
        reference: Whose outcome is expected.
        expected: That one.
        tolerances: Largest relative deviation allowed of ``energy``, ``forces`` and ``gradients``.

    Returns:
        The deviations by kind.
    """
    deviations = compare(found, expected)
    wrong = {kind: value for kind, value in deviations.items() if not value <= tolerances[kind]}
    if wrong:
        raise SystemExit(f"{name} differs from {reference} by {wrong}, relative; allowed: {tolerances}")
    return deviations


def compare(found, expected):
    """Relative deviation of two outcomes, by kind."""
    deviations = {name: deviation(found[0][name], value) for name, value in expected[0].items()}
    if expected[1]:
        deviations["gradients"] = max(
            float((found[1][name] - value).norm() / value.norm()) for name, value in expected[1].items()
        )
    return deviations


def deviation(found, expected):
    """Largest deviation over the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())
