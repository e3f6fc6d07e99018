"""Parts of a convolution that a user changes do what their author wrote, against the sum of eq. (9) edge by edge."""

import pytest
import torch
import torch.nn.utils.prune as prune
from torch import nn
from torch_geometric.nn.aggr import MaxAggregation, SumAggregation

from pyg_schnet.nn import CFConv, CosineCutoff, DTNNConv, FilterNetwork, GaussianBasis, HardCutoff, SplineFilter
from pyg_schnet.ops.modules import is_standard

F64 = torch.float64
CUTOFF, N, F = 5.0, 8, 6
CLOSE = {"rtol": 1e-3, "atol": 1e-5}  # of splines to the exact filters


def make_network(cls=FilterNetwork, **parts):
    torch.manual_seed(0)
    basis, window = parts.get("basis", GaussianBasis(10, CUTOFF)), parts.get("window", CosineCutoff(CUTOFF))
    network = cls(F, basis, window).to(F64)
    with torch.no_grad():
        network.lin1.bias.normal_(std=0.3)
        network.lin2.bias.normal_(std=0.3)
    return network


def make(cls=CFConv, network=None, **options):
    return cls(make_network() if network is None else network, **options)


@pytest.fixture
def edges():
    """Features, a directed graph of 40 edges, and distances on both sides of the cutoff."""
    generator = torch.Generator().manual_seed(1)
    pairs = torch.combinations(torch.arange(N))[torch.randperm(28, generator=generator)[:20]].T
    index = torch.cat([pairs, pairs[:, :15].flip(0)], 1)
    dist = 0.8 + 5.0 * torch.rand(index.size(1), generator=generator, dtype=F64)
    return torch.randn(N, F, generator=generator, dtype=F64), index, dist


def window_of(dist):
    return torch.where(dist < CUTOFF, 0.5 * (torch.cos(torch.pi * dist / CUTOFF) + 1.0), 0.0)


def filters_of(network, dist, act=lambda x: torch.log(0.5 * x.exp() + 0.5), window=window_of, lin1=None, expand=None):
    """Eq. (14) to (16) written out."""
    gaussians = torch.exp(-network.basis.gamma * (dist[:, None] - torch.linspace(0, CUTOFF, 10, dtype=F64)) ** 2)
    gaussians = gaussians if expand is None else expand(gaussians)
    inner = gaussians @ network.lin1.weight.T + network.lin1.bias if lin1 is None else lin1(gaussians)
    return act(act(inner) @ network.lin2.weight.T + network.lin2.bias) * window(dist)[:, None]


def summed(x, index, filters):
    """Eq. (9), one edge after the other."""
    out = torch.zeros(N, F, dtype=F64)
    for (j, i), row in zip(index.T.tolist(), filters, strict=True):
        out[i] += x[j] * row
    return out


def scaled_message(self, x_j, filters):
    return 0.5 * x_j * filters


class Message(CFConv):
    def message(self, x_j, filters):
        return 0.5 * x_j * filters


class Aggregate(CFConv):
    def aggregate(self, inputs, index, dim_size):
        return 0.5 * inputs.new_zeros(dim_size, F).index_add(0, index, inputs)


class Update(CFConv):
    def update(self, inputs):
        return 0.5 * inputs


class Forward(CFConv):
    def forward(self, *args, **kwargs):
        return 0.5 * super().forward(*args, **kwargs)


class Network(FilterNetwork):
    def forward(self, dist):
        return 0.5 * super().forward(dist)


class Amplitude(FilterNetwork):
    def amplitude(self, expansion):
        return 0.5 * super().amplitude(expansion)


class HalfWindow(CosineCutoff):
    def forward(self, dist):
        return 0.5 * super().forward(dist)


def on_instance(change):
    def build():
        conv = make()
        conv(torch.zeros(N, F, dtype=F64), torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0, dtype=F64))
        conv.eval()
        change(conv)
        return conv

    return build


def halve(module, args, out):
    return 0.5 * out


def reassign(conv, cls):
    conv.__class__ = cls


HALVED = {
    "message": lambda: make(Message),
    "aggregate": lambda: make(Aggregate),
    "update": lambda: make(Update),
    "forward": lambda: make(Forward),
    "network's forward": lambda: make(network=make_network(Network)),
    "network's amplitude": lambda: make(network=make_network(Amplitude)),
    "window of a class of its own": lambda: make(network=make_network(window=HalfWindow(CUTOFF))),
    "message of an instance": on_instance(
        lambda conv: setattr(conv, "message", lambda x_j, filters: 0.5 * x_j * filters)
    ),
    "update of an instance": on_instance(lambda conv: setattr(conv, "update", lambda inputs: 0.5 * inputs)),
    "class of an instance": on_instance(lambda conv: reassign(conv, Forward)),
    "network of an instance": on_instance(lambda conv: setattr(conv, "filter_network", make_network(Network))),
    "hook": on_instance(lambda conv: conv.register_forward_hook(halve)),
    "hook of messages": on_instance(lambda conv: conv.register_message_forward_hook(halve)),
    "hook of sums": on_instance(lambda conv: conv.register_aggregate_forward_hook(halve)),
    "hook of propagate": on_instance(lambda conv: conv.register_propagate_forward_hook(halve)),
    "hook of the fused way": on_instance(lambda conv: conv.register_message_and_aggregate_forward_hook(halve)),
    "hook before the fused way": on_instance(
        lambda conv: conv.register_message_and_aggregate_forward_pre_hook(
            lambda conv, args: (args[0], {"x_src": 0.5 * args[1]["x_src"]})
        )
    ),
    "hook of the network": on_instance(lambda conv: conv.filter_network.register_forward_hook(halve)),
    "hook of the window": on_instance(lambda conv: conv.filter_network.window.register_forward_hook(halve)),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("filters", ["auto", "spline"])
@pytest.mark.parametrize("name", HALVED)
def test_what_halves_the_result_halves_it(name, filters, training, edges):
    conv = HALVED[name]().train(training)
    if filters == "spline" and type(conv.filter_network) is FilterNetwork and "window of" not in name:
        conv.filters = filters
    x, index, dist = edges
    expected = 0.5 * summed(x, index, filters_of(conv.filter_network, dist))
    torch.testing.assert_close(conv(x, index, dist), expected, **CLOSE)


class Tripled(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return 3.0 * self.layer(x)


class Twice(nn.Module):
    def forward(self, weight):
        return 2.0 * weight


def linear(x, layer, factor=1.0, mask=1.0):
    return x @ (factor * mask * layer.weight).T + layer.bias


def pruned(network):
    prune.custom_from_mask(network.lin1, "weight", torch.arange(10).remainder(2).expand(F, 10))


# a change of a layer or a part of the filter network, and the filters that it makes
FILTERS = {
    "wrapper without weight": (
        lambda net: setattr(net, "lin1", Tripled(net.lin1)),
        lambda net, d: filters_of(net, d, lin1=lambda e: 3.0 * linear(e, net.lin1)),
    ),
    "pruning": (
        pruned,
        lambda net, d: filters_of(net, d, lin1=lambda e: linear(e, net.lin1, mask=torch.arange(10).remainder(2))),
    ),
    "parametrisation": (
        lambda net: nn.utils.parametrize.register_parametrization(net.lin1, "weight", Twice()),
        lambda net, d: filters_of(net, d, lin1=lambda e: linear(e, net.lin1, 2.0)),
    ),
    "hook of a layer": (
        lambda net: net.lin1.register_forward_hook(lambda module, args, out: 3.0 * out),
        lambda net, d: filters_of(net, d, lin1=lambda e: 3.0 * linear(e, net.lin1)),
    ),
    "hook before a layer": (
        lambda net: net.lin1.register_forward_pre_hook(lambda module, args: 2.0 * args[0]),
        lambda net, d: filters_of(net, d, expand=lambda e: 2.0 * e),
    ),
    "hook of the basis": (
        lambda net: net.basis.register_forward_hook(lambda module, args, out: 2.0 * out),
        lambda net, d: filters_of(net, d, expand=lambda e: 2.0 * e),
    ),
    "activation": (
        lambda net: setattr(net, "act", nn.SiLU()),
        lambda net, d: filters_of(net, d, act=nn.functional.silu),
    ),
    "method of the activation": (
        lambda net: setattr(net.act, "forward", torch.tanh),
        lambda net, d: filters_of(net, d, act=torch.tanh),
    ),
    "window": (
        lambda net: setattr(net, "window", HardCutoff(CUTOFF)),
        lambda net, d: filters_of(net, d, window=lambda d: (d < CUTOFF).to(d)),
    ),
    "wider Gaussians": (lambda net: setattr(net.basis, "gamma", 1.0), filters_of),
    "narrower Gaussians": (lambda net: setattr(net.basis, "gamma", 300.0), filters_of),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("evaluated", [True, False])
@pytest.mark.parametrize("name", FILTERS)
def test_changed_parts_of_the_filter_network(name, evaluated, training, edges):
    conv, (x, index, dist) = make().train(training), edges
    change, filters = FILTERS[name]
    before = make_network()  # its weights, before anything is wrapped around them
    if evaluated:
        conv.eval()(x, index, dist)  # so that there is a table to be confused with
        conv.train(training)
    change(conv.filter_network)
    before.basis.gamma = conv.filter_network.basis.gamma
    torch.testing.assert_close(conv(x, index, dist), summed(x, index, filters(before, dist)), **CLOSE)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("cls", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_weights_that_are_computed_are_learned(cls, training, edges):
    conv, (x, index, dist) = make().train(training), edges
    cls(conv.filter_network.lin2)
    expected = summed(x, index, filters_of(make_network(), dist))  # the same function of other parameters
    out = conv(x, index, dist)
    torch.testing.assert_close(out, expected, **CLOSE)
    out.square().sum().backward()
    assert all(parameter.grad.any() for parameter in conv.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_hooks_see_every_part(training, edges):
    conv = make().train(training)
    seen = []
    for name in ("filter_network", "filter_network.lin1", "filter_network.act", "filter_network.basis", "aggr_module"):
        conv.get_submodule(name).register_forward_hook(lambda *_, name=name: seen.append(name))
    conv.filter_network.register_full_backward_hook(lambda *_: seen.append("backward"))
    conv.register_edge_update_forward_hook(lambda *_: None)
    x, index, dist = edges
    conv(x, index, dist.requires_grad_()).sum().backward()
    assert set(seen) == {
        "filter_network",
        "filter_network.lin1",
        "filter_network.act",
        "filter_network.basis",
        "aggr_module",
        "backward",
    }


@pytest.mark.parametrize("training", [True, False])
def test_hooks_of_all_modules_and_patched_classes(training, edges, monkeypatch):
    conv, seen = make().train(training), set()
    plain = conv(*edges)
    with monkeypatch.context() as patch:
        patch.setattr(CFConv, "message", scaled_message)
        torch.testing.assert_close(conv(*edges), 0.5 * plain, **CLOSE)
    with monkeypatch.context() as patch:
        before = SumAggregation.forward
        patch.setattr(SumAggregation, "forward", lambda *args, **kwargs: 2 * before(*args, **kwargs))
        torch.testing.assert_close(conv(*edges), 2 * plain, **CLOSE)
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.add(type(module)))
    try:
        conv(*edges)
    finally:
        handle.remove()
    assert {CFConv, FilterNetwork, GaussianBasis, CosineCutoff, nn.Linear} <= seen
    assert torch.equal(conv(*edges), plain)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("with_ptr", [False, True])
def test_flow_from_target_to_source_is_that_of_the_flipped_edges(with_ptr, normalize, training, edges):
    x, index, dist = edges
    conv = make(normalize=normalize).train(training)
    order = index[1].argsort(stable=True)
    index, dist = index[:, order], dist[order]
    ptr = torch.searchsorted(index[1].contiguous(), torch.arange(N + 1)) if with_ptr else None
    conv.flow = "target_to_source"
    expected = summed(x, index.flip(0), filters_of(conv.filter_network, dist))
    if normalize:
        counts = torch.bincount(index[0][dist < CUTOFF], minlength=N).clamp(min=1)
        expected = expected / counts[:, None]
    torch.testing.assert_close(conv(x, index, dist, ptr), expected, **CLOSE)
    dtnn = DTNNConv(F, 5, GaussianBasis(10, CUTOFF)).to(F64)
    expected = dtnn(x, index.flip(0), dist)
    dtnn.flow = "target_to_source"
    torch.testing.assert_close(dtnn(x, index, dist, ptr), expected)


@pytest.mark.parametrize("training", [True, False])
def test_exchanged_aggregation(training, edges):
    x, index, dist = edges
    conv = make().train(training)
    conv.aggr_module = MaxAggregation()
    messages = x[index[0]] * filters_of(conv.filter_network, dist)
    expected = torch.zeros(N, F, dtype=F64)
    for i in set(index[1].tolist()):
        expected[i] = messages[index[1] == i].max(0).values
    torch.testing.assert_close(conv(x, index, dist), expected, **CLOSE)


class Steps(nn.Module):
    """A basis that no spline follows."""

    num_gaussians, cutoff = 10, CUTOFF

    def forward(self, dist):
        return (4 * dist[:, None]).round().expand(-1, 10) / 20


calls = []  # numbers of distances that the basis below was called with


class Told(Steps):
    """A smooth basis that says so."""

    resolution = 0.5

    def forward(self, dist):
        calls.append(len(dist))
        return torch.exp(-2.0 * (dist[:, None] - torch.linspace(0, CUTOFF, 10, dtype=dist.dtype)) ** 2)


class RoundGaussians(GaussianBasis):
    """Inherits a resolution, but is not as smooth as that."""

    def forward(self, dist):
        return super().forward((2 * dist).round() / 2)


class OwnWindow(nn.Module):
    cutoff = CUTOFF

    def forward(self, dist):
        return (dist < 2.0).to(dist)


@pytest.mark.parametrize("parts", [{"basis": Steps()}, {"basis": RoundGaussians(10, CUTOFF)}, {"window": OwnWindow()}])
def test_parts_that_say_nothing_of_their_smoothness_are_evaluated_on_edges(parts, edges):
    network = make_network(**parts)
    conv, (x, index, dist) = make(network=network).eval(), edges
    assert conv.spline is None
    expected = summed(x, index, network.amplitude(network.basis(dist)) * network.window(dist)[:, None])
    torch.testing.assert_close(conv(x, index, dist), expected)
    with pytest.raises(ValueError, match="filters='spline' needs a FilterNetwork whose basis has a fixed resolution"):
        conv.filters = "spline"


def test_parts_that_say_how_smooth_they_are_are_splined(edges):
    network = make_network(basis=Told())
    calls.clear()
    conv, (x, index, dist) = make(network=network).eval(), edges
    expected = summed(x, index, network(dist))
    assert calls == [len(dist)]
    for _ in range(3):
        torch.testing.assert_close(conv(x, index, dist), expected, **CLOSE)
    assert len(calls) == 2  # once on the grid
    network.basis.register_forward_hook(lambda module, args, out: 0.0 * out)
    torch.testing.assert_close(conv(x, index, dist), summed(x, index, network(dist)))


def test_tables_of_networks_with_a_forward_of_their_own_are_refused():
    with pytest.raises(ValueError, match="a Network with a forward of its own gives other filters than a table"):
        SplineFilter(make_network(Network))


def test_networks_without_cutoff_are_refused(edges):
    conv = make()
    conv.filter_network = nn.Sequential(nn.Linear(1, F))
    with pytest.raises(TypeError, match=r"a filter network needs an attribute cutoff, .* Sequential has none"):
        conv(*edges)


def test_standard_again_after_hooks_are_removed():
    conv = make()
    assert is_standard(conv)
    handle = conv.filter_network.act.register_forward_hook(halve)
    assert not is_standard(conv)
    handle.remove()
    assert is_standard(conv)
    prune.l1_unstructured(conv.filter_network.lin1, "weight", 0.5)
    assert not is_standard(conv)
    prune.remove(conv.filter_network.lin1, "weight")
    assert is_standard(conv)
    nn.utils.parametrize.register_parametrization(conv.filter_network.lin1, "weight", Twice())
    assert not is_standard(conv)
    nn.utils.parametrize.remove_parametrizations(conv.filter_network.lin1, "weight")
    assert is_standard(conv)


def test_channels():
    conv = make()
    assert (conv.in_channels, conv.out_channels) == (F, F)
    dtnn = DTNNConv(12, 5)
    assert (dtnn.in_channels, dtnn.out_channels) == (12, 12)
    conv.filter_network = OwnWindow()
    assert conv.in_channels == -1  # as PyG says it
