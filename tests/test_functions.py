"""Every autograd function of the package: both branches of its backward pass, and derivatives up to the third.

``gradcheck`` compares a branch with itself only, and starts from leaves. Here arguments depend on each other, as
positions do that were moved along forces, and third derivatives are compared with differences of second ones.
"""

import importlib
import math
import pkgutil

import pytest
import torch

import pyg_schnet
from pyg_schnet import SchNet, ops
from pyg_schnet.ops import (
    bspline,
    edge_lengths,
    mlp,
    pool_atoms,
    shifted_softplus,
    softplus,
    spline_basis,
    spline_conv,
    spline_conv_grad_basis,
    spline_conv_grad_table,
    spline_graph,
    spline_table,
)
from pyg_schnet.ops.linear import _Linear

sums = importlib.import_module("pyg_schnet.ops.segment_sum")  # the package has a function of that name

F64 = torch.float64
GRAPH = torch.tensor([[1, 2, 0, 2, 0], [0, 0, 1, 1, 2]])
BINS = torch.tensor([0, 3, 1, 4, 2])


def draw(*shapes, seed=0):
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=random, dtype=F64).requires_grad_() for shape in shapes]


def graph():
    return spline_graph(BINS, GRAPH, 3).with_sources(3).with_intervals(5)


def pooled(values):
    z, batch = torch.tensor([1, 0, 3, 2]), torch.tensor([0, 0, 1, 1])
    statistics = (value.detach() for value in draw((2,), (2,), (4, 2), seed=3))
    return pool_atoms(torch.tanh(values), z, batch, 2, *statistics, mean=True)


def lengths(pos, cell):
    shift, batch = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 0, 0], [0, -1, 1], [0, 0, 0]]), torch.tensor([0, 0, 1])
    return edge_lengths(pos, GRAPH, shift, cell, batch, loop_length=4.0)


def model_of(training):
    """Energies of a splined model as a function of its weights and of positions."""
    torch.manual_seed(0)
    options = {"num_gaussians": 6, "cutoff": 4.0, "filters": "spline", "num_grid_points": 20, "normalize": True}
    model = SchNet(4, 3, 2, **options).double().train(training)
    z = torch.tensor([8, 1, 1, 6])
    pos = torch.tensor([[0.0, 0.0, 0.0], [0.9, 0.1, 0.0], [-0.3, 0.8, 0.2], [0.3, -0.6, 1.3]], dtype=F64)
    names, weights = zip(*model.named_parameters(), strict=True)
    weights = [(value + 0.1 * torch.randn_like(value)).detach().requires_grad_() for value in weights]

    def energies(pos, *weights):
        return torch.func.functional_call(model, dict(zip(names, weights, strict=True)), (z, pos))

    return energies, [pos.requires_grad_(), *weights]


def forces_of(training):
    """Forces, made in the same way."""
    energies, inputs = model_of(training)

    def forces(pos, *weights):
        return -torch.autograd.grad(energies(pos, *weights).sum(), pos, create_graph=True)[0]

    return forces, inputs


def by_index(kernel, *tensors):
    return lambda *inputs: kernel.apply(*inputs, *tensors)


PTR, INDEX = torch.tensor([0, 2, 2, 5]), torch.tensor([0, 0, 2, 2, 2])
CASES = {  # of each function of autograd: a function in which it acts, and what that is a function of
    "ops.bspline._Prefilter": lambda: (lambda s: spline_table(s, True), draw((9, 2))),
    "ops.bspline._PrefilterTransposed": lambda: (
        lambda grad: bspline._PrefilterTransposed.apply(grad, True),
        draw((7, 2)),
    ),
    "ops.edge_lengths._EdgeLengths": lambda: (lengths, draw((3, 3), (2, 3, 3))),
    "ops.edge_lengths._Backward": lambda: (lengths, draw((3, 3), (2, 3, 3))),
    "ops.spline_basis._SplineBasis": lambda: (lambda x: spline_basis(2.0 + torch.tanh(x), 4.0, 10)[1], draw((6,))),
    "ops.spline_conv._Conv": lambda: (lambda x, c, h: spline_conv(x, c, h, graph()), draw((3, 2), (8, 2), (5, 4))),
    "ops.spline_conv._GradTable": lambda: (
        lambda g, x, h: spline_conv_grad_table(g, x, h, 8, graph()),
        draw((3, 2), (3, 2), (5, 4)),
    ),
    "ops.spline_conv._GradBasis": lambda: (
        lambda g, x, c: spline_conv_grad_basis(g, x, c, graph()),
        draw((3, 2), (3, 2), (8, 2)),
    ),
    "ops.linear._Linear": lambda: (_Linear.apply, draw((3, 2), (4, 2), (4,))),
    "ops.softplus._ShiftedSoftplus": lambda: (shifted_softplus, draw((5,))),
    "ops.softplus._Logistic": lambda: (
        lambda x: softplus._Logistic.apply(x, torch.sigmoid(x).detach()),
        draw((5,)),
    ),
    "ops.segment_sum._SegmentSum": lambda: (by_index(sums._SegmentSum, PTR, INDEX), draw((5, 2))),
    "ops.segment_sum._SegmentGather": lambda: (by_index(sums._SegmentGather, PTR, INDEX), draw((3, 2))),
    "ops.mlp._MLP": lambda: (mlp, draw((4, 3), (5, 3), (5,), (2, 5), (2,))),
    "ops.pool_atoms._Pool": lambda: (pooled, draw((4, 2))),
    "ops.filter_table.FilterTableFunction": lambda: model_of(True),
    "ops.interactions.InteractionsFunction": lambda: model_of(True),
    "ops.interactions.GradBasisFunction": lambda: forces_of(True),
}
MORE_CASES = CASES | {  # weights are packed once, and gradients with respect to them from a second forward pass
    "energies in evaluation": lambda: model_of(False),
    "forces in evaluation": lambda: forces_of(False),
}


APART = (".backends.triton", ".interfaces.lammps")
"""Functions that need triton, and one that is differentiated once, over ranks: tests/interfaces/test_exchange.py."""


def own_functions():
    """All functions of autograd that the package defines, by where they are."""
    for module in pkgutil.walk_packages(pyg_schnet.__path__, "pyg_schnet."):
        if not module.name.endswith("__main__") and not any(name in module.name for name in APART):
            importlib.import_module(module.name)
    found, waiting = {}, [torch.autograd.Function]
    while waiting:
        for each in waiting.pop().__subclasses__():
            waiting.append(each)
            if each.__module__.startswith("pyg_schnet.") and not any(name in each.__module__ for name in APART):
                found[f"{each.__module__.removeprefix('pyg_schnet.')}.{each.__qualname__}"] = each
    return found


def used_by(*tensors):
    """Functions of autograd behind tensors."""
    seen, waiting, found = set(), [x.grad_fn for x in tensors if x.grad_fn is not None], set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        waiting += [after for after, _ in node.next_functions if after is not None]
        found.add(getattr(type(node), "_forward_cls", None))
    return found


def coupled(leaves):
    """Values that lie near to those of the leaves, and all depend on all of them."""
    shift = 0.2 * torch.sin(sum(leaf.sum() for leaf in leaves))
    return [leaf + shift * torch.linspace(-1.0, 1.0, leaf.numel(), dtype=F64).view_as(leaf) for leaf in leaves]


def scalar(function, inputs):
    """A sum over what a function gives, with different weights."""
    out = function(*inputs)
    return (out * torch.linspace(0.5, 1.5, out.numel(), dtype=F64).view_as(out)).sum()


def directional(value, inputs, along, create_graph):
    """Derivative along a direction, with or without a graph to differentiate it again."""
    options = {"create_graph": create_graph, "retain_graph": True, "materialize_grads": True, "allow_unused": True}
    if not value.requires_grad:
        return torch.zeros((), dtype=F64)
    gradients = torch.autograd.grad(value, inputs, **options)
    return sum((gradient * direction).sum() for gradient, direction in zip(gradients, along, strict=True))


def derivative(function, inputs, along, order, create_graph=False):
    """Derivative of some order along a direction, of arguments that depend on each other; by autograd."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    value = scalar(function, coupled(leaves))
    for k in range(order):
        value = directional(value, leaves, along, create_graph or k + 1 < order)
    return value.detach()


def test_all_are_tested():
    assert own_functions().keys() == CASES.keys()


@pytest.mark.parametrize("name", CASES)
def test_case_is_what_it_says(name):
    function, inputs = CASES[name]()
    value = scalar(function, inputs)
    slopes = torch.autograd.grad(value, inputs, create_graph=True, materialize_grads=True)
    assert own_functions()[name] in used_by(value, *slopes)


@pytest.mark.parametrize("name", MORE_CASES)
def test_both_branches_agree(name):
    function, inputs = MORE_CASES[name]()
    for order in (1, 2, 3):
        along = [torch.ones_like(x) / (1 + k) for k, x in enumerate(inputs)]
        without, with_graph = (derivative(function, inputs, along, order, again) for again in (False, True))
        torch.testing.assert_close(with_graph, without, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("name", MORE_CASES)
def test_derivatives_are_those_of_differences(name, order):
    function, inputs = MORE_CASES[name]()
    along, step = [torch.cos(x.detach() + k) for k, x in enumerate(inputs)], 1e-5
    above, below = (
        derivative(function, [x + s * v for x, v in zip(inputs, along, strict=True)], along, order - 1)
        for s in (step, -step)
    )
    found = derivative(function, inputs, along, order)
    torch.testing.assert_close(found, (above - below) / (2 * step), rtol=1e-6, atol=1e-6)


OF_MODELS = (
    "ops.filter_table.FilterTableFunction",
    "ops.interactions.InteractionsFunction",
    "ops.interactions.GradBasisFunction",
)


@pytest.mark.parametrize("name", [name for name in CASES if name not in OF_MODELS])
def test_all_elements_of_first_and_second_derivatives(name):
    function, inputs = CASES[name]()
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_softplus_of_large_numbers_is_right_to_rounding(backend):
    x = torch.linspace(15.0, 45.0, 61, dtype=torch.float64)
    exact = torch.logaddexp(x, torch.zeros_like(x)) - math.log(2.0)
    torch.testing.assert_close(ops.shifted_softplus(x, backend=backend), exact, rtol=1e-15, atol=0)
