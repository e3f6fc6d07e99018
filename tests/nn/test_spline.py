import copy
import math

import numpy as np
import pytest
import torch
from torch.func import functional_call
from torch_geometric.nn import MessagePassing

from pyg_schnet.nn import CFConv, CosineCutoff, FilterNetwork, GaussianBasis, HardCutoff, SplineFilter
from pyg_schnet.nn.spline import num_grid_points_for

from .splines import BASES, CUTOFF, F64, make_conv, make_network


def value_and_slope(filters, dist):
    dist = dist.clone().requires_grad_()
    value = filters(dist)
    slopes = [torch.autograd.grad(column.sum(), dist, retain_graph=True)[0] for column in value.unbind(1)]
    return value.detach(), torch.stack(slopes, 1)


def errors(spline, exact, dist=None):
    """Largest errors of values and slopes, relative to the largest value and slope."""
    dist = torch.linspace(0.0, 1.05 * CUTOFF, 1501, dtype=spline.network.lin1.weight.dtype) if dist is None else dist
    pairs = zip(value_and_slope(spline, dist), value_and_slope(exact, dist.to(exact.lin1.weight.dtype)), strict=True)
    return [((a - b).abs().max() / b.abs().max()).item() for a, b in pairs]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("activate_filters", [True, False])
@pytest.mark.parametrize("window", [CosineCutoff, HardCutoff])
@pytest.mark.parametrize("basis", BASES)
def test_equals_the_network(basis, window, activate_filters, training):
    for seed in range(3):
        network = make_network(seed, basis, window, activate_filters=activate_filters).train(training)
        value, slope = errors(SplineFilter(network), network)
        assert 1e-10 < value < (2e-5 if training else 1e-6)
        assert 1e-8 < slope < (5e-4 if training else 5e-5)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("window", [CosineCutoff, HardCutoff])
def test_single_precision(window, training):
    network = make_network(basis="pyg", window=window, dtype=torch.float32).train(training)
    value, slope = errors(SplineFilter(network), copy.deepcopy(network).double())
    assert value < (2e-5 if training else 2e-6)
    # in evaluation the table is made in float64; its rounding errors are divided by the spacing otherwise
    assert slope < (5e-4 if training else 5e-5)


@pytest.mark.parametrize("window", [CosineCutoff, HardCutoff])
def test_order_of_the_error(window):
    network = make_network(basis="chapter", window=window)
    dist = torch.linspace(0.0, CUTOFF, 4001, dtype=F64)[:-1]
    found = np.array([errors(SplineFilter(network, n), network, dist) for n in (101, 201, 401, 801)])
    value, slope = np.log2(found[:-1] / found[1:]).T
    assert ((value > 3.5) & (value < 5.0)).all()
    assert ((slope > 2.5) & (slope < 4.0)).all()


@pytest.mark.parametrize("activate_filters", [True, False])
@pytest.mark.parametrize("window", [CosineCutoff, HardCutoff])
@pytest.mark.parametrize("basis", BASES)
def test_values_alone_are_still_precise_in_training(basis, window, activate_filters):
    for seed in range(3):
        network = make_network(seed, basis, window, activate_filters=activate_filters)
        dist = torch.linspace(0.5, 1.05 * CUTOFF, 1501, dtype=F64)
        spline = SplineFilter(network.train())
        error = (spline(dist) - network(dist)).abs().max() / network(dist).abs().max()
        assert 1e-8 < error < 5e-5  # of filters, not yet summed over neighbours


def test_zero_at_and_beyond_the_cutoff():
    network = make_network()
    value, slope = value_and_slope(SplineFilter(network), torch.tensor([CUTOFF, 5.5, 100.0], dtype=F64))
    assert not value.any()
    assert not slope.any()
    below = torch.tensor([CUTOFF * (1 - 1e-9)], dtype=F64)
    value, slope = value_and_slope(SplineFilter(network), below)
    assert value.abs().max() < 1e-15
    assert slope.abs().max() < 1e-7
    # the hard window ends at full height
    network = make_network(window=HardCutoff)
    torch.testing.assert_close(SplineFilter(network)(below), network(below), rtol=1e-6, atol=1e-6)
    assert network(below).abs().max() > 0.1
    assert not SplineFilter(network)(torch.tensor([CUTOFF], dtype=F64)).any()


def test_second_derivatives_are_continuous():
    spline = SplineFilter(make_network(), 20)
    grid = torch.arange(1, 20, dtype=F64) * spline.spacing
    found = []
    for offset in (-1e-9, 1e-9):
        dist = (grid + offset).requires_grad_()
        derivatives = [spline(dist)[:, 0]]
        for _ in range(3):
            derivatives.append(torch.autograd.grad(derivatives[-1].sum(), dist, create_graph=True)[0])
        found.append(derivatives)
    jumps = [(b - a).abs()[:-1].max().item() for a, b in zip(*found, strict=True)]
    assert max(jumps[:3]) < 1e-6
    assert jumps[3] > 1e-2
    assert found[0][0][-1].abs() < 1e-15  # the last grid point is the cutoff


def test_even_function_at_zero():
    # atoms on top of each other have no direction, but a finite filter
    network = make_network(basis="pyg")
    dist = torch.zeros(1, dtype=F64, requires_grad=True)
    value = SplineFilter(network)(dist)
    torch.testing.assert_close(value, network(dist), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [CosineCutoff, HardCutoff])
@pytest.mark.parametrize("trainable", [False, True])
def test_exact_derivatives(trainable, window):
    torch.manual_seed(0)
    network = FilterNetwork(2, GaussianBasis(4, CUTOFF, trainable=trainable), window(CUTOFF)).to(F64)
    conv = CFConv(network, filters="spline", num_grid_points=9)
    weights = dict(network.named_parameters())
    dist = torch.tensor([0.3, 2.2, 4.9, 6.0], dtype=F64, requires_grad=True)

    def filters_at(dist):
        return conv.spline(dist)

    def grad_weights(*values):
        parameters = {f"filter_network.{key}": value for key, value in zip(weights, values, strict=True)}
        edge_index, x = torch.tensor([[0, 1], [1, 0]]), torch.ones(2, 2, dtype=F64)
        return functional_call(conv, parameters, (x, edge_index, dist.detach()[1:3]))

    assert torch.autograd.gradcheck(filters_at, (dist,))
    assert torch.autograd.gradgradcheck(filters_at, (dist,))
    assert torch.autograd.gradcheck(grad_weights, tuple(weights.values()))
    assert torch.autograd.gradgradcheck(grad_weights, tuple(weights.values()))


def test_window_with_another_cutoff_than_the_basis():
    network = FilterNetwork(4, GaussianBasis(20, 6.0), CosineCutoff(4.0)).to(F64).eval()
    spline = SplineFilter(network)
    assert spline.cutoff == 4.0
    dist = torch.linspace(0.0, 7.0, 300, dtype=F64)
    torch.testing.assert_close(spline(dist), network(dist), rtol=0, atol=1e-6)
    assert not spline(dist)[dist >= 4.0].any()


def test_trainable_gaussians_need_a_number_of_nodes():
    network = FilterNetwork(4, GaussianBasis(10, CUTOFF, trainable=True))
    with pytest.raises(
        ValueError, match=r"has no fixed resolution \(Å\); give num_grid_points, or take the exact filters"
    ):
        SplineFilter(network)
    with pytest.raises(ValueError, match="filters='spline' needs a FilterNetwork whose basis has a fixed resolution"):
        CFConv(network, filters="spline")
    assert CFConv(network).spline is None  # auto takes the exact ones
    conv = CFConv(network.to(F64), filters="spline", num_grid_points=200)
    value, _ = errors(conv.spline, network)
    assert value < 1e-5
    conv.spline(torch.ones(1, dtype=F64)).sum().backward()
    assert network.basis.centers.grad.any()
    assert network.basis.gammas.grad.any()


class Constant(torch.nn.Module):
    """A filter of the user's."""

    cutoff, num_filters = CUTOFF, 4

    def forward(self, dist):
        return torch.ones_like(dist).unsqueeze(-1) * (dist < CUTOFF).unsqueeze(-1).expand(-1, 4)


def test_bad_options():
    with pytest.raises(ValueError, match=r"num_grid_points must be a whole number, at least 8 .* got 7"):
        SplineFilter(make_network(), 7)
    with pytest.raises(ValueError, match=r"num_grid_points must be a whole number, at least 8 .* got 0"):
        CFConv(make_network(), num_grid_points=0)
    with pytest.raises(ValueError, match="filters must be 'auto', 'exact' or 'spline', got 'linear'"):
        CFConv(make_network(), filters="linear")
    conv = make_conv()
    with pytest.raises(ValueError, match="filters must be 'auto', 'exact' or 'spline', got None"):
        conv.filters = None
    assert (conv.filters, conv.spline.num_grid_points) == ("spline", 60)  # as it was
    with pytest.raises(ValueError, match=r"filters='spline' needs a FilterNetwork .* got Constant"):
        CFConv(Constant(), filters="spline")
    assert CFConv(Constant()).spline is None
    for tolerance in (0.0, -1e-5, math.nan):
        with pytest.raises(ValueError, match="tolerance must be a positive relative error of forces"):
            num_grid_points_for(0.1, CUTOFF, tolerance)


def test_number_of_nodes():
    assert num_grid_points_for(0.1, 10.0) > 1.9 * num_grid_points_for(0.1, 5.0)
    assert num_grid_points_for(0.1, 5.0, 1e-6) == pytest.approx(
        10 ** (1 / 3) * num_grid_points_for(0.1, 5.0, 1e-5), rel=0.01
    )
    assert num_grid_points_for(100.0, 1.0) == 8
    spline = SplineFilter(make_network(), 101)
    assert (spline.cutoff, spline.spacing) == (CUTOFF, pytest.approx(0.05))
    network = make_network()
    training, evaluating = SplineFilter(network).num_grid_points, SplineFilter(network.eval()).num_grid_points
    assert evaluating - 1 == pytest.approx(10 ** (1 / 3) * (training - 1), rel=0.01)
    assert (
        SplineFilter(network.train(), 101).num_grid_points == SplineFilter(network.eval(), 101).num_grid_points == 101
    )
    coarse = [SplineFilter(network.train(mode), tolerance=1e-3).num_grid_points for mode in (False, True)]
    assert coarse[0] == coarse[1] < training
    finer = SplineFilter(make_network().eval(), tolerance=1e-7)
    assert errors(finer, finer.network)[1] < 1e-6
    spline = SplineFilter(make_network(), 101)
    assert repr(spline).startswith("SplineFilter(FilterNetwork(6, ")
    assert repr(spline).endswith("num_grid_points=101)")


def test_holds_no_weights_of_its_own():
    conv = make_conv()
    assert isinstance(conv, MessagePassing)
    assert conv.spline.state_dict().keys() == {f"network.{key}" for key in conv.filter_network.state_dict()}
    assert conv.spline not in set(conv.modules())
    exact = CFConv(make_network(), filters="exact")
    assert conv.state_dict().keys() == exact.state_dict().keys()
    assert exact.spline is None
