import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch.func import functional_call
from torch_geometric.nn import MessagePassing

from pyg_schnet.nn import (
    CFConv,
    CosineCutoff,
    FilterNetwork,
    GaussianBasis,
    HardCutoff,
    SplineFilter,
    num_nodes_for,
)

F64 = torch.float64
CUTOFF = 5.0
BASES = {
    "chapter": lambda: GaussianBasis.from_spacing(0.1, CUTOFF),
    "pyg": lambda: GaussianBasis(50, CUTOFF),
    "coarse": lambda: GaussianBasis(10, CUTOFF),
}


def make_network(seed=0, basis="coarse", window=CosineCutoff, num_filters=6, dtype=F64, **options):
    torch.manual_seed(seed)
    network = FilterNetwork(num_filters, BASES[basis](), window(CUTOFF), **options)
    with torch.no_grad():
        for bias in (network.lin1.bias, network.lin2.bias):
            bias.normal_(std=0.2)
    return network.to(dtype)


def make_conv(seed=0, dtype=F64, num_nodes=60, **options):
    return CFConv(make_network(seed, dtype=dtype), filters="spline", num_nodes=num_nodes, **options)


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
    nodes = torch.arange(1, 20, dtype=F64) * spline.spacing
    found = []
    for offset in (-1e-9, 1e-9):
        dist = (nodes + offset).requires_grad_()
        derivatives = [spline(dist)[:, 0]]
        for _ in range(3):
            derivatives.append(torch.autograd.grad(derivatives[-1].sum(), dist, create_graph=True)[0])
        found.append(derivatives)
    jumps = [(b - a).abs()[:-1].max().item() for a, b in zip(*found, strict=True)]
    assert max(jumps[:3]) < 1e-6
    assert jumps[3] > 1e-2
    assert found[0][0][-1].abs() < 1e-15  # the last node is the cutoff


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
    conv = CFConv(network, filters="spline", num_nodes=9)
    weights = dict(network.named_parameters())
    dist = torch.tensor([0.3, 2.2, 4.9, 6.0], dtype=F64, requires_grad=True)

    def by_distance(dist):
        return conv.spline(dist)

    def by_weights(*values):
        parameters = {f"filter_network.{key}": value for key, value in zip(weights, values, strict=True)}
        edge_index, x = torch.tensor([[0, 1], [1, 0]]), torch.ones(2, 2, dtype=F64)
        return functional_call(conv, parameters, (x, edge_index, dist.detach()[1:3]))

    assert torch.autograd.gradcheck(by_distance, (dist,))
    assert torch.autograd.gradgradcheck(by_distance, (dist,))
    assert torch.autograd.gradcheck(by_weights, tuple(weights.values()))
    assert torch.autograd.gradgradcheck(by_weights, tuple(weights.values()))


def fresh(network, num_nodes=60):
    """Coefficients computed anew."""
    return SplineFilter(copy.deepcopy(network), num_nodes).coefficients()


def is_kept(spline):
    """Whether the coefficients are not computed again, and are the right ones."""
    first, second = spline.coefficients(), spline.coefficients()
    assert torch.equal(first, fresh(spline.network, spline.num_nodes))
    return first.data_ptr() == second.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_coefficients_are_kept_in_evaluation_only(dtype):
    spline = make_conv(dtype=dtype).eval().spline
    assert is_kept(spline)
    with torch.no_grad():
        assert is_kept(spline)
    assert spline.coefficients().dtype == dtype
    assert spline.coefficients().shape == (spline.num_nodes + 2, 6)
    assert not is_kept(make_conv(dtype=dtype).train().spline)


def train_a_step(conv, make=lambda p: torch.optim.SGD(p, lr=0.1)):
    optimizer = make(conv.parameters())
    conv.spline(torch.tensor([1.0, 2.0], dtype=conv.filter_network.lin1.weight.dtype)).square().sum().backward()
    optimizer.step()


def in_inference_mode(conv):
    with torch.inference_mode():
        conv.filter_network.lin2.bias.add_(1.0)


def step_in_place(conv):
    with torch.no_grad():
        conv.filter_network.lin1.weight[0, 0] += 1.0


def average_in_place(conv):
    other = make_network(seed=7)
    with torch.no_grad():
        torch._foreach_lerp_(list(conv.filter_network.parameters()), list(other.parameters()), 0.5)


CHANGES = {
    "gradient descent": train_a_step,
    "adam": lambda conv: train_a_step(conv, torch.optim.Adam),
    "fused adam": lambda conv: train_a_step(conv, lambda p: torch.optim.Adam(p, fused=True)),
    "lbfgs": lambda conv: train_a_step_of_lbfgs(conv),
    "load_state_dict": lambda conv: conv.load_state_dict(make_conv(seed=7).state_dict()),
    "load_state_dict by assignment": lambda conv: conv.load_state_dict(make_conv(seed=7).state_dict(), assign=True),
    "one element": step_in_place,
    "inference mode": in_inference_mode,
    "moving average": average_in_place,
    "data": lambda conv: conv.filter_network.lin1.weight.data.copy_(make_network(seed=7).lin1.weight),
    "other data": lambda conv: setattr(conv.filter_network.lin1.weight, "data", make_network(seed=7).lin1.weight.data),
    "other parameter": lambda conv: setattr(conv.filter_network.lin1, "weight", make_network(seed=7).lin1.weight),
    "other layer": lambda conv: setattr(conv.filter_network, "lin2", make_network(seed=7).lin2),
    "reset_parameters": lambda conv: conv.reset_parameters(),
    "a buffer": lambda conv: conv.filter_network.basis.centers.add_(0.1),
    "activation": lambda conv: setattr(conv.filter_network, "activate_filters", False),
}


def train_a_step_of_lbfgs(conv):
    optimizer = torch.optim.LBFGS(conv.parameters(), max_iter=2)

    def closure():
        optimizer.zero_grad()
        loss = conv.spline(torch.tensor([1.0, 2.0], dtype=F64)).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)


@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights_are_noticed(change):
    conv = make_conv().eval()
    before = conv.spline.coefficients().detach().clone()
    CHANGES[change](conv)
    after = conv.spline.coefficients()
    assert not torch.equal(after, before)
    torch.testing.assert_close(after, fresh(conv.filter_network), rtol=0, atol=1e-14)


def test_precision_follows_the_weights():
    conv = make_conv().eval()
    for dtype in (F64, torch.float32, F64):
        assert conv.to(dtype).spline.coefficients().dtype == dtype
        assert torch.equal(conv.spline.coefficients(), fresh(conv.filter_network))


def test_modes_and_forget():
    conv = make_conv().eval()
    for change in (lambda: conv.train().eval(), conv.spline.forget):
        conv.spline.coefficients()
        # one element behind autograd's back, which nobody can see
        conv.filter_network.lin1.weight.data[0, 0] += 1.0
        change()
        assert torch.equal(conv.spline.coefficients(), fresh(conv.filter_network))


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda conv: pickle.loads(pickle.dumps(conv))])
@pytest.mark.parametrize("wrapped", [False, True])
def test_copies_do_not_share(twin_of, wrapped):
    conv = make_conv().eval()
    before = conv.spline.coefficients().detach().clone()
    twin = twin_of(torch.nn.ModuleList([conv]))[0] if wrapped else twin_of(conv)
    assert twin.spline.network is twin.filter_network
    assert twin.spline is not conv.spline
    with torch.no_grad():
        twin.filter_network.lin1.weight.add_(1.0)
    assert torch.equal(conv.spline.coefficients(), before)
    assert torch.equal(twin.spline.coefficients(), fresh(twin.filter_network))
    assert not torch.equal(twin.spline.coefficients(), before)


def test_many_networks_in_turn_at_the_same_place_in_memory():
    # a new weight may get the memory of one that is gone
    conv = make_conv().eval()
    conv.spline.coefficients()
    for seed in range(1, 6):
        for name in ("lin1", "lin2"):
            layer = getattr(conv.filter_network, name)
            layer.weight = None
            layer.weight = torch.nn.Parameter(getattr(make_network(seed), name).weight.detach().clone())
        assert torch.equal(conv.spline.coefficients(), fresh(conv.filter_network))


def gradients(spline, order):
    """Gradients by weights of a value (order 1), and of a loss on slopes that was differentiated before (order 2)."""
    dist = torch.tensor([0.7, 1.9, 3.3], dtype=F64, requires_grad=True)
    parameters = list(spline.network.parameters())
    value = spline(dist).square().sum()
    if order == 1:
        return torch.autograd.grad(value, parameters)
    (slope,) = torch.autograd.grad(value, dist, create_graph=True)
    first = torch.autograd.grad(value + slope.square().sum(), [dist, *parameters], create_graph=True)
    return torch.autograd.grad(sum(entry.square().sum() for entry in first), [dist, *parameters])


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("before", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_kept_coefficients_have_the_same_gradients(before, order):
    spline = make_conv().eval().spline
    with before():
        spline.coefficients()
    found = gradients(spline, order)
    spline.network.train()
    for a, b in zip(found, gradients(spline, order), strict=True):
        assert b.any()
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


def test_gradients_of_some_weights_only():
    network = make_network().eval()
    network.lin1.requires_grad_(False)
    network.lin2.weight.requires_grad_(False)
    spline = SplineFilter(network, 60)
    spline.coefficients()
    (found,) = torch.autograd.grad(spline(torch.ones(1, dtype=F64)).sum(), network.lin2.bias)
    network.train()
    (expected,) = torch.autograd.grad(spline(torch.ones(1, dtype=F64)).sum(), network.lin2.bias)
    torch.testing.assert_close(found, expected)
    network.requires_grad_(False).eval()
    assert not spline.coefficients().requires_grad


EDGES = torch.tensor([[0, 1, 2], [1, 2, 0]]), torch.tensor([1.0, 2.0, 4.0], dtype=F64)


def call(conv, parameters, x):
    return functional_call(conv, parameters, (x, *EDGES))


def shifted(conv):
    return {key: value.detach() + 0.1 for key, value in conv.named_parameters()}


# what may be put in the place of a network's weights, and the weights that makes
REPLACEMENTS = {
    "other tensors": lambda conv: {key: value.requires_grad_() for key, value in shifted(conv).items()},
    "other parameters": lambda conv: {key: torch.nn.Parameter(value) for key, value in shifted(conv).items()},
    "parameters of another layer": lambda conv: dict(make_conv(seed=7).named_parameters()),
    "the same data": lambda conv: {key: value.detach().requires_grad_() for key, value in conv.named_parameters()},
    "the same data as parameters": lambda conv: {
        key: torch.nn.Parameter(value.detach()) for key, value in conv.named_parameters()
    },
}


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", REPLACEMENTS)
def test_functional_calls_use_the_given_weights(kind, training, order):
    conv, x = make_conv().train(training), torch.randn(3, 6, dtype=F64, generator=torch.Generator().manual_seed(0))
    conv(x, *EDGES)  # so that there is a table to be confused with
    given = REPLACEMENTS[kind](conv)
    twin = make_conv().train()
    twin.load_state_dict({**twin.state_dict(), **given})

    def derivatives(out, weights):
        first = torch.autograd.grad(out.square().sum(), weights, create_graph=order == 2)
        return first if order == 1 else torch.autograd.grad(sum(g.square().sum() for g in first), weights)

    out, expected = call(conv, given, x), twin(x, *EDGES)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-13)
    found, wanted = derivatives(out, list(given.values())), derivatives(expected, list(twin.parameters()))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    again = make_conv().train()(x, *EDGES)  # the layer itself has not changed
    torch.testing.assert_close(conv(x, *EDGES), again, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("filters", ["auto", "spline"])
@pytest.mark.parametrize("training", [False, True])
def test_function_transforms(filters, training):
    conv, x = make_conv(num_nodes=150).train(training), torch.randn(3, 6, dtype=F64)
    conv.filters = filters
    conv(x, *EDGES)
    weights = {key: value.detach() for key, value in conv.named_parameters()}
    dist = EDGES[1].clone().requires_grad_()

    def loss(weights, dist):
        return functional_call(conv, weights, (x, EDGES[0], dist)).square().sum()

    found = torch.func.grad(loss, argnums=(0, 1))(weights, dist.detach())
    expected = torch.autograd.grad(conv(x, EDGES[0], dist).square().sum(), [*conv.parameters(), dist])
    for a, b in zip([*found[0].values(), found[1]], expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)  # whichever filters it takes
    curvature = torch.func.hessian(lambda dist: loss(weights, dist))(dist.detach())
    expected = torch.autograd.functional.hessian(lambda dist: loss(weights, dist), dist.detach())
    torch.testing.assert_close(curvature, expected, rtol=1e-2, atol=1e-2)


def test_inference_mode_first_and_training_afterwards():
    conv, x = make_conv().eval(), torch.randn(3, 6, dtype=F64, requires_grad=True)
    with torch.inference_mode():
        plain = conv(x.detach().clone(), *EDGES)
    out = conv(x, *EDGES)
    assert torch.equal(out.detach(), plain)
    out.square().sum().backward()
    assert x.grad.any()
    assert all(parameter.grad.any() for parameter in conv.parameters())
    # weights made in inference mode have no count of their changes
    with torch.inference_mode():
        conv = make_conv().eval()
        before = conv.spline.coefficients().clone()
        conv.filter_network.lin1.weight[0, 0] += 1.0
        assert not torch.equal(conv.spline.coefficients(), before)


def test_weights_changed_between_forward_and_backward_are_an_error():
    conv = make_conv().eval()
    conv.spline.coefficients()
    out = conv.spline(torch.ones(1, dtype=F64)).sum()
    step_in_place(conv)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


def test_window_with_another_cutoff_than_the_basis():
    network = FilterNetwork(4, GaussianBasis(20, 6.0), CosineCutoff(4.0)).to(F64).eval()
    spline = SplineFilter(network)
    assert spline.cutoff == 4.0
    dist = torch.linspace(0.0, 7.0, 300, dtype=F64)
    torch.testing.assert_close(spline(dist), network(dist), rtol=0, atol=1e-6)
    assert not spline(dist)[dist >= 4.0].any()


def test_trainable_gaussians_need_a_number_of_nodes():
    network = FilterNetwork(4, GaussianBasis(10, CUTOFF, trainable=True))
    with pytest.raises(ValueError, match=r"has no fixed resolution \(Å\); give num_nodes, or take the exact filters"):
        SplineFilter(network)
    with pytest.raises(ValueError, match="filters='spline' needs a FilterNetwork whose basis has a fixed resolution"):
        CFConv(network, filters="spline")
    assert CFConv(network).spline is None  # auto takes the exact ones
    conv = CFConv(network.to(F64), filters="spline", num_nodes=200)
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
    with pytest.raises(ValueError, match="num_nodes must be at least 8, got 7"):
        SplineFilter(make_network(), 7)
    with pytest.raises(ValueError, match="num_nodes must be at least 8, got 0"):
        CFConv(make_network(), num_nodes=0)
    with pytest.raises(ValueError, match="filters must be 'auto', 'exact' or 'spline', got 'linear'"):
        CFConv(make_network(), filters="linear")
    conv = make_conv()
    with pytest.raises(ValueError, match="filters must be 'auto', 'exact' or 'spline', got None"):
        conv.filters = None
    assert (conv.filters, conv.spline.num_nodes) == ("spline", 60)  # as it was
    with pytest.raises(ValueError, match=r"filters='spline' needs a FilterNetwork .* got Constant"):
        CFConv(Constant(), filters="spline")
    assert CFConv(Constant()).spline is None
    for tolerance in (0.0, -1e-5, math.nan):
        with pytest.raises(ValueError, match="tolerance must be a positive relative error of forces"):
            num_nodes_for(0.1, CUTOFF, tolerance)


def test_number_of_nodes():
    assert num_nodes_for(0.1, 10.0) > 1.9 * num_nodes_for(0.1, 5.0)
    assert num_nodes_for(0.1, 5.0, 1e-6) == pytest.approx(10 ** (1 / 3) * num_nodes_for(0.1, 5.0, 1e-5), rel=0.01)
    assert num_nodes_for(100.0, 1.0) == 8
    spline = SplineFilter(make_network(), 101)
    assert (spline.cutoff, spline.spacing) == (CUTOFF, pytest.approx(0.05))
    network = make_network()
    training, evaluating = SplineFilter(network).num_nodes, SplineFilter(network.eval()).num_nodes
    assert evaluating - 1 == pytest.approx(10 ** (1 / 3) * (training - 1), rel=0.01)
    dist = torch.tensor([1.0, 2.0], dtype=F64)
    spline = SplineFilter(network.train())
    assert spline.num_nodes_at(dist) == num_nodes_for(network.basis.resolution, CUTOFF, 1e-5, forces=False) < training
    assert spline.num_nodes_at(dist.clone().requires_grad_()) == training
    with torch.no_grad():
        assert spline.num_nodes_at(dist.clone().requires_grad_()) < training
    assert SplineFilter(network.eval()).num_nodes_at(dist) == evaluating
    assert SplineFilter(network.train(), 101).num_nodes_at(dist) == 101
    coarse = [SplineFilter(network.train(mode), tolerance=1e-3).num_nodes for mode in (False, True)]
    assert coarse[0] == coarse[1] < training
    assert SplineFilter(network, tolerance=1e-3).num_nodes_at(dist) < spline.num_nodes_at(dist)
    assert num_nodes_for(0.1, 5.0, 1e-7, forces=False) == pytest.approx(
        10 * num_nodes_for(0.1, 5.0, 1e-3, forces=False), rel=0.05
    )
    finer = SplineFilter(make_network().eval(), tolerance=1e-7)
    assert errors(finer, finer.network)[1] < 1e-6
    spline = SplineFilter(make_network(), 101)
    assert repr(spline).startswith("SplineFilter(FilterNetwork(6, ")
    assert repr(spline).endswith("num_nodes=101)")


def test_holds_no_weights():
    conv = make_conv()
    assert isinstance(conv, MessagePassing)
    assert not isinstance(conv.spline, torch.nn.Module)
    exact = CFConv(make_network(), filters="exact")
    assert conv.state_dict().keys() == exact.state_dict().keys()
    assert exact.spline is None
