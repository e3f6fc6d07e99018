import numpy as np
import pytest
import torch
import torch_geometric.typing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch_geometric.explain.algorithm.utils import clear_masks, set_masks
from torch_geometric.index import index2ptr
from torch_geometric.nn import MessagePassing

from pyg_schnet.nn import CFConv, CosineCutoff, DTNNConv, FilterNetwork, GaussianBasis, HardCutoff
from pyg_schnet.nn.conv import exclude_self_loops, neighbor_counts

F64 = torch.float64
CUTOFF = 5.0
N = 6


def make_cfconv(filters="exact", **kwargs):
    network = FilterNetwork(4, GaussianBasis(8, CUTOFF), CosineCutoff(CUTOFF))
    return CFConv(network, filters=filters, **kwargs).to(F64)


def make_splined(**kwargs):
    """With few grid points, so that splined and exact filters are not taken for each other."""
    return make_cfconv("spline", num_grid_points=20, **kwargs)


def make_dtnn(window=None):
    conv = DTNNConv(4, 5, GaussianBasis(8, CUTOFF), window).to(F64)
    with torch.no_grad():
        for bias in (conv.lin_features.bias, conv.lin_dist.bias):
            bias.uniform_(-0.5, 0.5)
    return conv


@pytest.fixture
def graph():
    """Random multigraph sorted by target, some edges longer than the cutoff."""
    torch.manual_seed(0)  # also of the weights of a test
    target = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 4, 4, 5])  # nothing ends at 3
    source = torch.tensor([1, 2, 5, 0, 2, 0, 1, 1, 4, 3, 5, 0])
    dist = torch.tensor([1.1, 2.5, 4.9, 1.1, 5.5, 2.5, 3.0, 0.7, 4.0, 5.0, 1.9, 3.3], dtype=F64)
    return torch.randn(N, 4, dtype=F64), torch.stack([source, target]), dist


def cfconv_by_loop(conv, x, edge_index, dist, n_targets):
    """Eq. (9) and (18), one edge after the other, with exact or splined filters."""
    filters = conv.filter_network if conv.spline is None else conv.spline
    out = np.zeros((n_targets, x.shape[1]))
    neighbors = np.zeros(n_targets)
    for j, i, d in zip(*edge_index.tolist(), dist.tolist(), strict=True):
        if i == j and d == 0:
            continue
        out[i] += x[j].numpy() * filters(torch.tensor([d], dtype=F64))[0].detach().numpy()
        neighbors[i] += d < conv.filter_network.cutoff
    return out / np.maximum(neighbors, 1)[:, None] if conv.normalize else out


def dtnn_by_loop(conv, x, edge_index, dist, n_targets):
    """Eq. (6) of the DTNN paper, one edge after the other, with weights in numpy."""
    w = {name: value.numpy() for name, value in conv.state_dict().items()}
    out = np.zeros((n_targets, conv.hidden_channels))
    for j, i, d in zip(*edge_index.tolist(), dist.tolist(), strict=True):
        if (i == j and d == 0) or d >= conv.cutoff:
            continue
        expansion = np.exp(-conv.basis.gamma * (d - w["basis.centers"]) ** 2)
        features = w["lin_features.weight"] @ x[j].numpy() + w["lin_features.bias"]
        distances = w["lin_dist.weight"] @ expansion + w["lin_dist.bias"]
        window = 0.5 * (np.cos(np.pi * d / conv.cutoff) + 1) if isinstance(conv.window, CosineCutoff) else 1.0
        out[i] += np.tanh(w["lin_out.weight"] @ (features * distances)) * window
    return out


CASES = {
    "cfconv": (make_cfconv, cfconv_by_loop),
    "cfconv-normalized": (lambda: make_cfconv(normalize=True), cfconv_by_loop),
    "cfconv-spline": (make_splined, cfconv_by_loop),
    "cfconv-spline-normalized": (lambda: make_splined(normalize=True), cfconv_by_loop),
    "dtnn": (make_dtnn, dtnn_by_loop),
    "dtnn-cosine": (lambda: make_dtnn(CosineCutoff(4.5)), dtnn_by_loop),
}


@pytest.fixture(params=CASES)
def conv_and_loop(request):
    make, loop = CASES[request.param]
    return make(), loop


def close(actual, expected):
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("with_ptr", [False, True])
def test_equals_the_loop(conv_and_loop, graph, with_ptr):
    conv, loop = conv_and_loop
    x, edge_index, dist = graph
    ptr = index2ptr(edge_index[1], N) if with_ptr else None
    out = conv(x, edge_index, dist, ptr)
    close(out, loop(conv, x, edge_index, dist, N))
    assert not out[3].any()
    assert out[0].any()


def test_order_of_edges_does_not_matter(conv_and_loop, graph):
    conv, _ = conv_and_loop
    x, edge_index, dist = graph
    order = torch.randperm(dist.numel())
    shuffled = conv(x, edge_index[:, order], dist[order])
    close(shuffled, conv(x, edge_index, dist, index2ptr(edge_index[1], N)).detach().numpy())


def test_self_loops_are_excluded(conv_and_loop, graph):
    conv, loop = conv_and_loop
    x, edge_index, dist = graph
    loops = torch.arange(N).repeat(2, 1)
    with_loops = conv(x, torch.cat([edge_index, loops], 1), torch.cat([dist, dist.new_zeros(N)]))
    close(with_loops, conv(x, edge_index, dist).detach().numpy())
    close(with_loops, loop(conv, x, torch.cat([edge_index, loops], 1), torch.cat([dist, dist.new_zeros(N)]), N))


def test_periodic_images_of_an_atom_are_neighbours(conv_and_loop):
    conv, loop = conv_and_loop
    x = torch.randn(1, 4, dtype=F64)
    edge_index, dist = torch.zeros(2, 3, dtype=torch.int64), torch.tensor([2.5, 2.5, 3.5], dtype=F64)
    out = conv(x, edge_index, dist)
    assert out.abs().max() > 1e-3
    close(out, loop(conv, x, edge_index, dist, 1))


def test_coincident_atoms_are_neighbours(conv_and_loop):
    conv, loop = conv_and_loop
    x = torch.randn(2, 4, dtype=F64)
    edge_index, dist = torch.tensor([[1, 0], [0, 1]]), torch.zeros(2, dtype=F64)
    out = conv(x, edge_index, dist)
    assert out.abs().max() > 1e-3
    close(out, loop(conv, x, edge_index, dist, 2))


@pytest.mark.parametrize("with_ptr", [False, True])
def test_bipartite(conv_and_loop, with_ptr):
    conv, loop = conv_and_loop
    x_src, x_dst = torch.randn(5, 4, dtype=F64), torch.randn(3, 7, dtype=F64)
    edge_index = torch.tensor([[0, 4, 1, 2, 4], [0, 0, 1, 2, 2]])
    dist = torch.tensor([1.0, 2.0, 0.0, 3.0, 0.5], dtype=F64)  # equal indices are different points here
    ptr = index2ptr(edge_index[1], 3) if with_ptr else None
    different = edge_index + torch.tensor([[10], [0]])
    padded = torch.cat([x_src.new_zeros(10, 4), x_src])
    expected = loop(conv, padded, different, dist, 3)
    close(conv((x_src, x_dst), edge_index, dist, ptr), expected)
    close(conv((x_src, None), edge_index, dist, ptr, size=(5, 3)), expected)
    assert np.abs(expected[1]).max() > 1e-3  # the pair (1, 1) at distance zero counts


def test_more_targets_than_sources(conv_and_loop):
    conv, loop = conv_and_loop
    x_src = torch.randn(2, 4, dtype=F64)
    edge_index, dist = torch.tensor([[0, 1], [5, 3]]), torch.tensor([1.0, 2.0], dtype=F64)
    out = conv((x_src, torch.zeros(7, 1, dtype=F64)), edge_index, dist)
    close(out, loop(conv, x_src, edge_index, dist, 7))


@pytest.mark.parametrize("with_ptr", [False, True])
def test_no_edges(conv_and_loop, with_ptr):
    conv, _ = conv_and_loop
    edge_index, dist = torch.empty(2, 0, dtype=torch.int64), torch.empty(0, dtype=F64)
    ptr = index2ptr(edge_index[1], 3) if with_ptr else None
    out = conv(torch.randn(3, 4, dtype=F64), edge_index, dist, ptr)
    assert out.shape == (3, 4)
    assert not out.any()


@pytest.mark.parametrize("with_ptr", [False, True])
def test_derivatives(conv_and_loop, graph, with_ptr):
    conv, _ = conv_and_loop
    x, edge_index, dist = graph
    keep = (dist - CUTOFF).abs() > 1e-3  # a hard window has no finite difference at the cutoff
    edge_index, dist = edge_index[:, keep], dist[keep].requires_grad_()
    ptr = index2ptr(edge_index[1], N) if with_ptr else None
    x = x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, d: conv(x, edge_index, d, ptr), (x, dist))
    assert torch.autograd.gradgradcheck(lambda x, d: conv(x, edge_index, d, ptr), (x, dist))


def test_derivatives_by_weights(conv_and_loop, graph):
    conv, _ = conv_and_loop
    x, edge_index, dist = graph
    weights = dict(conv.named_parameters())

    def function(*values):
        parameters = dict(zip(weights, values, strict=True))
        return torch.func.functional_call(conv, parameters, (x, edge_index, dist)).square().sum()

    assert torch.autograd.gradcheck(function, tuple(weights.values()))


def test_neighbor_counts(graph):
    _, edge_index, dist = graph
    expected = [max(1, sum(i == k and d < CUTOFF for i, d in zip(edge_index[1], dist, strict=True))) for k in range(N)]
    counts = neighbor_counts(edge_index, dist, CUTOFF, N)
    assert counts.tolist() == expected
    assert expected == [3, 1, 4, 1, 1, 1]
    assert counts.dtype == F64


@pytest.mark.parametrize("make", [make_cfconv, make_splined])
def test_normalisation_divides_by_neighbours_within_the_cutoff(make, graph):
    x, edge_index, dist = graph
    conv = make()
    plain = conv(x, edge_index, dist)
    conv.normalize = True
    close(conv(x, edge_index, dist), (plain / torch.tensor([3, 1, 4, 1, 1, 1]).unsqueeze(1)).detach().numpy())


def test_exclude_self_loops():
    edge_index, dist = torch.tensor([[0, 1, 1], [0, 0, 1]]), torch.tensor([0.0, 0.0, 2.5])
    assert exclude_self_loops(edge_index, dist, 5.0).tolist() == [5.0, 0.0, 2.5]


@pytest.mark.parametrize("make", [make_cfconv, make_dtnn])
def test_are_message_passing_layers(make, graph):
    x, edge_index, dist = graph
    conv = make()
    assert isinstance(conv, MessagePassing)
    seen = {}

    def messages(module, inputs, output):
        seen["shape"] = output.shape
        return 2 * output

    plain = conv(x, edge_index, dist)
    handle = conv.register_message_forward_hook(messages)
    close(conv(x, edge_index, dist), 2 * plain.detach().numpy())
    assert seen["shape"] == (dist.numel(), 4)
    handle.remove()
    handle = conv.register_propagate_forward_pre_hook(lambda module, inputs: seen.update(edges=inputs[0]))
    handle_aggregate = conv.register_aggregate_forward_hook(lambda module, inputs, output: output + 1)
    close(conv(x, edge_index, dist), plain.detach().numpy() + 1)
    assert seen["edges"] is edge_index
    handle.remove()
    handle_aggregate.remove()
    close(conv(x, edge_index, dist), plain.detach().numpy())


@pytest.mark.parametrize("with_ptr", [False, True])
@pytest.mark.parametrize("make", [make_cfconv, make_dtnn])
def test_edge_masks_of_explainers(make, with_ptr, graph):
    x, edge_index, dist = graph
    conv = make()
    ptr = index2ptr(edge_index[1], N) if with_ptr else None
    keep = torch.rand(dist.numel()) < 0.5
    expected = conv(x, edge_index[:, keep], dist[keep]).detach().numpy()
    mask = torch.nn.Parameter(keep.to(F64))
    set_masks(conv, mask, edge_index, apply_sigmoid=False)
    masked = conv(x, edge_index, dist, ptr)
    close(masked, expected)
    (importance,) = torch.autograd.grad(masked.sum(), mask)
    inside = dist < conv.cutoff if isinstance(conv, DTNNConv) else dist < CUTOFF
    assert ((importance != 0) == inside).all()
    clear_masks(conv)
    close(conv(x, edge_index[:, keep], dist[keep]), expected)


@pytest.mark.parametrize("with_ptr", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda: CFConv(FilterNetwork(4)),
        lambda: CFConv(FilterNetwork(4)).eval(),
        lambda: CFConv(FilterNetwork(4), filters="spline"),
        lambda: CFConv(FilterNetwork(4), filters="spline").eval(),
        lambda: DTNNConv(4, 5),
    ],
)
def test_shapes_without_data(make, with_ptr):
    if with_ptr and torch_geometric.typing.WITH_TORCH_SCATTER:
        pytest.skip("the kernels of torch-scatter need data")
    with FakeTensorMode():
        edge_index = torch.empty(2, 10, dtype=torch.int64)
        ptr = torch.empty(6, dtype=torch.int64) if with_ptr else None
        out = make()(torch.empty(5, 4), edge_index, torch.empty(10), ptr)
    assert out.shape == (5, 4)


# torch's compiler itself does what it warns of, for every autograd function
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("with_ptr", [False, True])
@pytest.mark.parametrize("make", [make_cfconv, make_dtnn])
def test_compiles_in_one_graph(make, with_ptr, graph):
    x, edge_index, dist = graph
    conv = make()
    ptr = index2ptr(edge_index[1], N) if with_ptr else None
    compiled = torch.compile(conv, backend="eager", fullgraph=True)
    close(compiled(x, edge_index, dist, ptr), conv(x, edge_index, dist, ptr).detach().numpy())


def largest(value):
    return value.detach().abs().max().item()


@pytest.mark.parametrize("with_ptr", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_splined_filters_are_close_to_the_exact_ones(normalize, training, with_ptr, graph):
    x, edge_index, dist = graph
    conv = make_cfconv("spline", normalize=normalize).train(training)
    ptr = index2ptr(edge_index[1], N) if with_ptr else None
    inputs = {
        "one tensor": (x, edge_index, dist, ptr),
        "a pair": ((x, x.new_zeros(N, 2)), edge_index, dist, ptr),
        "a pair without targets": ((x, None), edge_index, dist, ptr, (N, N)),
    }
    if not with_ptr:
        order, loops = torch.randperm(dist.numel()), torch.arange(N).repeat(2, 1)
        inputs["any order"] = (x, edge_index[:, order], dist[order])
        inputs["self loops"] = (x, torch.cat([edge_index, loops], 1), torch.cat([dist, dist.new_zeros(N)]))
    conv.filters = "exact"
    exact = conv(x, edge_index, dist, ptr)
    conv.filters = "spline"
    for arguments in inputs.values():
        difference = largest(conv(*arguments) - exact)
        assert 1e-12 * largest(exact) < difference < (5e-5 if training else 3e-6) * largest(exact)


REGISTER = [
    "register_message_forward_hook",
    "register_message_forward_pre_hook",
    "register_aggregate_forward_hook",
    "register_aggregate_forward_pre_hook",
    "register_propagate_forward_hook",
    "register_propagate_forward_pre_hook",
]


@pytest.mark.parametrize("register", REGISTER)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("filters", ["auto", "spline"])
def test_observed_messages_are_the_exact_ones(filters, training, register, graph):
    x, edge_index, dist = graph
    conv = make_cfconv(filters, num_grid_points=10).train(training)
    before = conv(x, edge_index, dist)
    calls = []
    handle = getattr(conv, register)(lambda *given: calls.append(given))
    observed = conv(x, edge_index, dist)
    assert len(calls) == 1
    assert not conv.is_splined()
    handle.remove()
    assert torch.equal(conv(x, edge_index, dist), before)
    conv.filters = "exact"
    exact = conv(x, edge_index, dist)
    assert torch.equal(observed, exact)


@pytest.mark.parametrize("filters", ["auto", "spline"])
def test_explanations_see_the_exact_messages(filters, graph):
    x, edge_index, dist = graph
    conv = make_cfconv(filters, num_grid_points=10).eval()
    splined = conv(x, edge_index, dist)
    mask = torch.nn.Parameter(torch.ones(dist.numel(), dtype=F64))
    set_masks(conv, mask, edge_index, apply_sigmoid=False)
    explained = conv(x, edge_index, dist)
    (importance,) = torch.autograd.grad(explained.square().sum(), mask)
    assert ((importance != 0) == (dist < CUTOFF)).all()
    clear_masks(conv)
    assert torch.equal(conv(x, edge_index, dist), splined)
    conv.filters = "exact"
    close(explained, conv(x, edge_index, dist).detach().numpy())
    assert largest(explained - splined) > 1e-6


def way(conv, x, edge_index, dist):
    """Which way is taken, told by the result."""
    out = conv(x, edge_index, dist)
    before, found = conv.filters, []
    for filters in ("exact", "spline"):
        conv.filters = filters
        found += [filters] if torch.equal(conv(x, edge_index, dist), out) else []
    conv.filters = before
    assert len(found) == 1
    return found[0]


def test_auto_depends_on_the_layer_alone(graph):
    """Neither mode nor number of edges nor device nor precision decides which filters are taken."""
    x, edge_index, dist = graph
    conv = make_cfconv("auto", num_grid_points=11)
    few = (x, edge_index[:, :3], dist[:3])
    for mode in (torch.enable_grad, torch.no_grad):
        for training in (True, False):
            with mode():
                assert way(conv.train(training), x, edge_index, dist) == "spline"
                assert way(conv.train(training), *few) == "spline"
    for dtype in (torch.bfloat16, torch.float16):
        given = x.to(dtype), edge_index, dist.to(dtype)
        assert conv.to(dtype)(*given).dtype == dtype
        assert conv.is_splined()
    conv.to("meta")
    assert conv.is_splined()
    assert conv(x.half().to("meta"), edge_index.to("meta"), dist.half().to("meta")).shape == (N, 4)
    conv.filter_network.basis = GaussianBasis(8, CUTOFF, trainable=True)
    conv.num_grid_points = None
    assert not conv.is_splined()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_splined_filters_in_other_precisions(dtype, graph):
    x, edge_index, dist = graph
    conv = make_cfconv("spline")
    expected = conv(x, edge_index, dist)
    for training in (True, False):
        out = conv.to(dtype).train(training)(x.to(dtype), edge_index, dist.to(dtype))
        assert out.dtype == dtype
        assert largest(out.double() - expected) < 0.05 * largest(expected)


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("filters", ["exact", "spline"])
def test_edges_of_atoms_that_are_not_there(filters, training, mode, row, graph):
    x, edge_index, dist = graph
    conv = make_cfconv(filters).train(training)
    for atom in (N, -N - 1):
        bad = edge_index.clone()
        bad[row, 4] = atom
        message = r"out of bounds|Found .*indices|edges (name|come from) atoms"
        with mode(), pytest.raises((IndexError, RuntimeError), match=message):
            conv(x, bad, dist)


def test_reset():
    for make in (make_cfconv, make_dtnn):
        conv = make()
        before = {name: value.clone() for name, value in conv.named_parameters()}
        torch.manual_seed(5)
        conv.reset_parameters()
        first = {name: value.clone() for name, value in conv.named_parameters()}
        torch.manual_seed(5)
        conv.reset_parameters()
        for name, value in conv.named_parameters():
            assert torch.equal(value, first[name])
            assert "weight" not in name or not torch.equal(value, before[name])


def test_dtnn_defaults():
    conv = DTNNConv()
    assert (conv.hidden_channels, conv.num_factors, conv.cutoff) == (30, 60, 10.0)
    assert isinstance(conv.window, HardCutoff)
    assert conv.lin_out.bias is None
    assert DTNNConv(basis=GaussianBasis(20, 6.0)).cutoff == 6.0
    assert DTNNConv(window=CosineCutoff(4.0)).basis.cutoff == 4.0


def test_repr():
    assert repr(make_cfconv()).startswith("CFConv(FilterNetwork(4, ")
    assert repr(make_cfconv(normalize=True)).endswith("normalize=True)")
    expected = "DTNNConv(4, 5, GaussianBasis(num_gaussians=8, cutoff=5.0 Å, gamma=0.98 Å⁻²), HardCutoff(5.0 Å))"
    assert repr(make_dtnn()) == expected
