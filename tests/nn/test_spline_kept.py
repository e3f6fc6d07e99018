"""Cached tables follow the weights, however these are changed or replaced."""

import copy
import pickle

import pytest
import torch
from torch.func import functional_call

from pyg_schnet.nn import SplineFilter

from .splines import F64, make_conv, make_network


def fresh(network, num_grid_points=60):
    """A table that was not kept."""
    return SplineFilter(copy.deepcopy(network), num_grid_points).table()


def is_kept(spline):
    """Whether the table is not computed again, and is the right one."""
    first, second = spline.table(), spline.table()
    assert torch.equal(first, fresh(spline.network, spline.num_grid_points))
    return first.data_ptr() == second.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_tables_are_cached_in_evaluation_only(dtype):
    spline = make_conv(dtype=dtype).eval().spline
    assert is_kept(spline)
    with torch.no_grad():
        assert is_kept(spline)
    assert spline.table().dtype == dtype
    assert spline.table().shape == (spline.num_grid_points + 2, 6)
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
    before = conv.spline.table().detach().clone()
    CHANGES[change](conv)
    after = conv.spline.table()
    assert not torch.equal(after, before)
    torch.testing.assert_close(after, fresh(conv.filter_network), rtol=0, atol=1e-14)


def test_precision_follows_the_weights():
    conv = make_conv().eval()
    for dtype in (F64, torch.float32, F64):
        assert conv.to(dtype).spline.table().dtype == dtype
        assert torch.equal(conv.spline.table(), fresh(conv.filter_network))


def test_modes_and_forget():
    conv = make_conv().eval()
    for change in (lambda: conv.train().eval(), conv.spline.forget):
        before = conv.spline.table()
        # one element behind autograd's back
        conv.filter_network.lin1.weight.data[0, 0] += 1.0
        assert not torch.equal(conv.spline.table(), before)
        change()
        assert torch.equal(conv.spline.table(), fresh(conv.filter_network))


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda conv: pickle.loads(pickle.dumps(conv))])
@pytest.mark.parametrize("wrapped", [False, True])
def test_copies_do_not_share(twin_of, wrapped):
    conv = make_conv().eval()
    before = conv.spline.table().detach().clone()
    twin = twin_of(torch.nn.ModuleList([conv]))[0] if wrapped else twin_of(conv)
    assert twin.spline.network is twin.filter_network
    assert twin.spline is not conv.spline
    with torch.no_grad():
        twin.filter_network.lin1.weight.add_(1.0)
    assert torch.equal(conv.spline.table(), before)
    assert torch.equal(twin.spline.table(), fresh(twin.filter_network))
    assert not torch.equal(twin.spline.table(), before)


def test_many_networks_in_turn_at_the_same_place_in_memory():
    # a new weight may get the memory of one that is gone
    conv = make_conv().eval()
    conv.spline.table()
    for seed in range(1, 6):
        for name in ("lin1", "lin2"):
            layer = getattr(conv.filter_network, name)
            layer.weight = None
            layer.weight = torch.nn.Parameter(getattr(make_network(seed), name).weight.detach().clone())
        assert torch.equal(conv.spline.table(), fresh(conv.filter_network))


def gradients(spline, order):
    """Gradients with respect to weights, of a value (order 1) and of a loss on slopes (order 2)."""
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
def test_cached_tables_have_the_same_gradients(before, order):
    spline = make_conv().eval().spline
    with before():
        spline.table()
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
    spline.table()
    (found,) = torch.autograd.grad(spline(torch.ones(1, dtype=F64)).sum(), network.lin2.bias)
    network.train()
    (expected,) = torch.autograd.grad(spline(torch.ones(1, dtype=F64)).sum(), network.lin2.bias)
    torch.testing.assert_close(found, expected)
    network.requires_grad_(False).eval()
    assert not spline.table().requires_grad


EDGES = torch.tensor([[0, 1, 2], [1, 2, 0]]), torch.tensor([1.0, 2.0, 4.0], dtype=F64)


def call(conv, parameters, x):
    return functional_call(conv, parameters, (x, *EDGES))


def shifted(conv):
    return {key: value.detach() + 0.1 for key, value in conv.named_parameters()}


# what may replace a network's weights, and the weights that makes
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
    conv, x = make_conv(num_grid_points=150).train(training), torch.randn(3, 6, dtype=F64)
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
        before = conv.spline.table().clone()
        conv.filter_network.lin1.weight[0, 0] += 1.0
        assert not torch.equal(conv.spline.table(), before)


def test_weights_changed_between_forward_and_backward_are_an_error():
    conv = make_conv().eval()
    conv.spline.table()
    out = conv.spline(torch.ones(1, dtype=F64)).sum()
    step_in_place(conv)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()
