import copy

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pyg_schnet import SchNet, radius_graph
from pyg_schnet.nn import CosineCutoff, HardCutoff, Readout, SumReadout

F64 = torch.float64
CUTOFF = 3.0


def make(dtype=F64, **kwargs):
    model = SchNet(**{"hidden_channels": 8, "num_filters": 6, "num_interactions": 2, "num_gaussians": 10, **kwargs})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.2)
    return model.to(dtype)


def softplus(x):
    return np.logaddexp(x, 0.0) - np.log(2.0)


def by_loop(model, z, pos):
    """Energy of one molecule, eq. (1) to (18) of Schütt et al. (2020), in numpy with loops over pairs."""
    w = {name: value.double().numpy() for name, value in model.state_dict().items()}
    basis = model.interactions[0].conv.filter_network.basis
    x = w["embedding.weight"][z]
    for t in range(model.num_interactions):
        block = f"interactions.{t % len(model.interactions)}."
        network = block + "conv.filter_network."
        hidden = x @ w[block + "lin_in.weight"].T
        conv = np.zeros_like(hidden)
        for i in range(len(z)):
            n_neighbors = 0
            for j in range(len(z)):
                d = np.linalg.norm(pos[i] - pos[j])
                if i == j or d >= model.cutoff:
                    continue
                n_neighbors += 1
                expansion = np.exp(-basis.gamma * (d - np.linspace(0, model.cutoff, model.num_gaussians)) ** 2)
                filters = softplus(w[network + "lin1.weight"] @ expansion + w[network + "lin1.bias"])
                filters = w[network + "lin2.weight"] @ filters + w[network + "lin2.bias"]
                if model.activate_filters:
                    filters = softplus(filters)
                if model.window == "cosine":
                    filters = filters * 0.5 * (np.cos(np.pi * d / model.cutoff) + 1)
                conv[i] += hidden[j] * filters
            if model.normalize:
                conv[i] /= max(n_neighbors, 1)
        update = softplus(conv @ w[block + "lin1.weight"].T + w[block + "lin1.bias"])
        x = x + update @ w[block + "lin2.weight"].T + w[block + "lin2.bias"]
    out = softplus(x @ w["readout.network.lin1.weight"].T + w["readout.network.lin1.bias"])
    return (out @ w["readout.network.lin2.weight"].T + w["readout.network.lin2.bias"]).sum(0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"activate_filters": False},
        {"window": "hard", "normalize": True},
        {"gamma": 10.0, "shared_weights": True, "num_interactions": 3},
        {"trainable_gaussians": True, "out_channels": 3},
    ],
    ids=str,
)
def test_equals_the_equations(options, ethanol, tensors):
    model = make(cutoff=CUTOFF, filters="exact", **options)
    expected = by_loop(model, ethanol.numbers, ethanol.positions)
    # the centres of the Gaussians are made in float32
    np.testing.assert_allclose(model(**tensors(ethanol))[0].detach().numpy(), expected, rtol=1e-6, atol=1e-7)


def test_defaults_are_those_of_pyg():
    model = SchNet()
    assert (model.hidden_channels, model.num_filters, model.num_interactions) == (128, 128, 6)
    assert (model.num_gaussians, model.cutoff) == (50, 10.0)
    assert isinstance(model.readout, SumReadout)
    assert model.activate_filters
    network = model.interactions[0].conv.filter_network
    assert isinstance(network.window, CosineCutoff)
    assert network.basis.gamma == pytest.approx(0.5 / (10.0 / 49) ** 2)


def test_from_paper():
    model = SchNet.from_paper()
    assert (model.hidden_channels, model.num_filters, model.num_interactions) == (256, 256, 6)
    assert (model.num_gaussians, model.cutoff, model.gamma) == (51, 5.0, 10.0)
    assert model.activate_filters
    network = model.interactions[0].conv.filter_network
    assert network.basis.gamma == 10.0
    np.testing.assert_allclose(network.basis.centers.diff().numpy(), 0.1, atol=1e-6)
    model = SchNet.from_paper(cutoff=30.0, hidden_channels=64, window="hard", normalize=True, readout="mean")
    assert (model.num_gaussians, model.hidden_channels, model.num_filters) == (301, 64, 256)
    assert isinstance(model.interactions[0].conv.filter_network.window, HardCutoff)
    assert model.interactions[0].conv.normalize
    with pytest.raises(ValueError, match="multiple of spacing"):
        SchNet.from_paper(cutoff=5.05)


def test_shared_weights(molecules):
    shared, single = make(shared_weights=True, num_interactions=3), make(num_interactions=1)
    assert len(shared.interactions) == 1
    assert sum(p.numel() for p in shared.parameters()) == sum(p.numel() for p in single.parameters())
    unrolled = make(num_interactions=3)
    unrolled.load_state_dict(
        {
            **shared.state_dict(),
            **{
                key.replace("interactions.0.", f"interactions.{t}."): value
                for key, value in shared.state_dict().items()
                for t in range(3)
            },
        }
    )
    torch.testing.assert_close(shared(**molecules), unrolled(**molecules), rtol=1e-14, atol=1e-14)


def test_trainable_gaussians(molecules):
    model = make(trainable_gaussians=True, cutoff=CUTOFF)
    model(**molecules).sum().backward()
    for block in model.interactions:
        basis = block.conv.filter_network.basis
        assert basis.centers.grad.abs().max() > 0
        assert basis.gammas.grad.abs().max() > 0
    assert not any("centers" in name for name, _ in make().named_parameters())


def test_every_weight_matters(molecules):
    model = make(cutoff=CUTOFF)
    model(**molecules).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert not model.embedding.weight.grad[0].any()


@pytest.mark.parametrize("readout", ["sum", "mean", "dipole", "spatial_extent"])
def test_reset_parameters(readout):
    model = SchNet(8, 6, 2, 10, readout=readout)
    model.readout.scale.fill_(3.0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(11)
    model.reset_parameters()
    first = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(11)
    model.reset_parameters()
    parameters = dict(model.named_parameters())
    for key, value in model.state_dict().items():
        assert torch.equal(value, first[key]), key
        changed = key in parameters and not key.endswith("bias")
        assert torch.equal(value, before[key]) != changed, key
    assert not model.embedding.weight[0].any()


def test_same_seed_same_model():
    torch.manual_seed(3)
    first = SchNet(8, 6, 2, 10)
    torch.manual_seed(3)
    second = SchNet(8, 6, 2, 10)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_blocks_start_with_different_weights():
    model = SchNet(8, 6, 2, 10)
    assert not torch.equal(model.interactions[0].lin1.weight, model.interactions[1].lin1.weight)


def test_batch_size_counts_empty_structures(molecules):
    model = make(out_channels=2)
    out = model(**molecules, batch_size=5)
    assert out.shape == (5, 2)
    assert not out[3:].any()
    assert torch.equal(out[:3], model(**molecules))


def test_batch_may_be_left_out(water, tensors):
    model, given = make(), tensors(water)
    assert torch.equal(model(given["z"], given["pos"]), model(**given))


def test_no_atoms():
    out = make()(torch.empty(0, dtype=torch.int64), torch.empty(0, 3, dtype=F64), batch_size=2)
    assert out.tolist() == [[0.0], [0.0]]


def test_no_edges(tensors, isolated_atom):
    model = make(cutoff=CUTOFF)
    given = tensors(isolated_atom, isolated_atom)
    out = model(**given)
    assert torch.equal(out[0], out[1])
    np.testing.assert_allclose(
        out[0].detach(), by_loop(model, isolated_atom.numbers, isolated_atom.positions), rtol=1e-12
    )
    edge_index = torch.empty(2, 0, dtype=torch.int64)
    assert torch.equal(model(**given, edge_index=edge_index), out)


def test_edges_beyond_the_cutoff_have_no_effect(molecules):
    for window in ("cosine", "hard"):
        model = make(cutoff=1.5, window=window).eval()
        wide = radius_graph(molecules["pos"], 6.0, molecules["batch"])
        assert wide.size(1) > radius_graph(molecules["pos"], 1.5, molecules["batch"]).size(1)
        torch.testing.assert_close(model(**molecules, edge_index=wide), model(**molecules), rtol=1e-13, atol=1e-13)


def test_given_edges_in_any_order(molecules):
    model = make(cutoff=CUTOFF)
    edge_index = radius_graph(molecules["pos"], CUTOFF, molecules["batch"])
    expected = model(**molecules)
    torch.testing.assert_close(model(**molecules, edge_index=edge_index), expected, rtol=1e-13, atol=1e-13)
    shuffled = edge_index[:, torch.randperm(edge_index.size(1))]
    torch.testing.assert_close(model(**molecules, edge_index=shuffled), expected, rtol=1e-13, atol=1e-13)
    loops = torch.arange(len(molecules["z"])).repeat(2, 1)
    with_loops = torch.cat([edge_index, loops], dim=1)
    torch.testing.assert_close(model(**molecules, edge_index=with_loops), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("options", [{}, {"window": "hard", "normalize": True}])
def test_padding_acts_on_nothing(options, molecules):
    model = make(cutoff=CUTOFF, **options).eval()
    z, pos, batch = molecules["z"], molecules["pos"].requires_grad_(), molecules["batch"]
    out = model(z, pos, batch)
    (gradient,) = torch.autograd.grad(out.sum(), pos)
    # a padded row at the end of every structure, right beside a real atom
    order = torch.cat([batch, torch.arange(3)]).argsort(stable=True)
    padded_pos = torch.cat([pos.detach(), pos.detach()[[0, 3, 12]] + 0.1])[order].requires_grad_()
    padded_z = torch.cat([z, torch.zeros(3, dtype=torch.int64)])[order]
    padded = model(padded_z, padded_pos, torch.cat([batch, torch.arange(3)])[order])
    torch.testing.assert_close(padded, out, rtol=1e-12, atol=1e-12)
    (padded_gradient,) = torch.autograd.grad(padded.sum(), padded_pos)
    assert not padded_gradient[padded_z == 0].any()
    torch.testing.assert_close(padded_gradient[padded_z > 0], gradient, rtol=1e-11, atol=1e-12)


def test_represent_gives_features(molecules):
    from pyg_schnet.models.graph import prepare_edges

    model = make(cutoff=CUTOFF)
    x = model.represent(molecules["z"], prepare_edges(**molecules, cutoff=CUTOFF, batch_size=3))
    assert x.shape == (len(molecules["z"]), 8)
    out = model.readout(x, molecules["z"], molecules["pos"], molecules["batch"], 3)
    assert torch.equal(out, model(**molecules))


class Positive(Readout):
    """A readout of the user's: sum of squares."""

    out_channels = 1

    @property
    def config(self):
        return {}

    def reset_parameters(self):
        pass

    def forward(self, x, z, pos, batch, batch_size):
        return x.new_zeros(batch_size, 1).index_add(0, batch, x.square().sum(1, keepdim=True))


def test_custom_readout(molecules):
    model = make(readout=Positive())
    assert (model(**molecules) > 0).all()
    model.reset_parameters()


@pytest.mark.parametrize("kind", [{"z": [1, 100, 8]}, {"z": [-1, 6, 8]}])
def test_atomic_numbers_out_of_range(kind):
    with pytest.raises(ValueError, match=r"z must lie between 0 \(padding\) and 99"):
        make()(torch.tensor(kind["z"]), torch.randn(3, 3, dtype=F64))


def test_bad_input(molecules):
    model = make()
    z, pos, batch = molecules["z"], molecules["pos"], molecules["batch"]
    with pytest.raises(ValueError, match="z must hold one atomic number"):
        model(z.double(), pos, batch)
    with pytest.raises(ValueError, match="pos must hold one position in Å"):
        model(z, pos[:-1], batch)
    with pytest.raises(ValueError, match="batch must name the structure"):
        model(z, pos, batch[:-1])
    with pytest.raises(ValueError, match="batch must be sorted"):
        model(z, pos, batch.flip(0))
    with pytest.raises(ValueError, match="edge_shift belongs to given edges"):
        model(z, pos, batch, edge_shift=torch.zeros(4, 3))
    with pytest.raises(ValueError, match="cell was given without pbc"):
        model(z, pos, batch, cell=torch.eye(3, dtype=F64).repeat(3, 1, 1))
    with pytest.raises(ValueError, match="pbc was given without cell"):
        model(z, pos, batch, pbc=torch.ones(3, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"pos is torch\.float32 but the weights are torch\.float64"):
        model(z, pos.float(), batch)
    with pytest.raises(ValueError, match="cell and pos must have the same dtype"):
        model(z, pos, batch, cell=torch.eye(3).repeat(3, 1, 1), pbc=torch.ones(3, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="pos must be finite"):
        model(z, pos * float("nan"), batch)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cutoff": 0.0}, "cutoff must be a positive length in Å, got 0.0"),
        ({"cutoff": float("inf")}, "cutoff must be a positive length"),
        ({"num_gaussians": 1}, "num_gaussians must be at least 2"),
        ({"gamma": -1.0}, "gamma must be a positive"),
        ({"window": "tanh"}, "window must be one of cosine, hard"),
        ({"readout": "median"}, "readout must be a module or one of"),
        ({"readout": "dipole", "out_channels": 2}, "has one output"),
        ({"readout": SumReadout(9)}, "takes 9 features but the model has hidden_channels=8"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize("readout", ["sum", "mean", "dipole", "spatial_extent"])
def test_without_memory(readout):
    with torch.device("meta"):
        model = SchNet(8, 6, 2, 10, readout=readout)
        given = {"z": torch.empty(5, dtype=torch.int64), "pos": torch.empty(5, 3)}
        edge_index = torch.empty(2, 12, dtype=torch.int64)
    assert {value.device.type for value in model.state_dict().values()} == {"meta"}
    out = model(**given, batch=torch.empty_like(given["z"]), edge_index=edge_index, batch_size=2)
    assert out.shape == (2, 1)
    assert out.device.type == "meta"
    with FakeTensorMode():
        model = SchNet(8, 6, 2, 10, readout=readout)
        z, edge_index = torch.empty(5, dtype=torch.int64), torch.empty(2, 12, dtype=torch.int64)
        out = model(z, torch.empty(5, 3), z, edge_index=edge_index, batch_size=2)
    assert out.shape == (2, 1)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiles_in_one_graph(molecules):
    model = make(cutoff=CUTOFF, filters="exact")
    edge_index = radius_graph(molecules["pos"], CUTOFF, molecules["batch"])
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    given = {**molecules, "edge_index": edge_index, "batch_size": 3}
    torch.testing.assert_close(compiled(**given), model(**given))


def test_copies(molecules):
    model = make()
    twin = copy.deepcopy(model)
    assert torch.equal(twin(**molecules), model(**molecules))
    with torch.no_grad():
        twin.embedding.weight.add_(1.0)
    assert not torch.equal(twin(**molecules), model(**molecules))


def test_float32_is_close_to_float64(molecules, dense_cluster, tensors):
    for given in (molecules, tensors(dense_cluster)):
        torch.manual_seed(0)
        model = make(torch.float32, cutoff=CUTOFF)
        single = model(given["z"], given["pos"].float(), given["batch"])
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), model.double()(**given), rtol=1e-5, atol=1e-5)


def test_inputs_are_not_changed(molecules):
    before = {key: value.clone() for key, value in molecules.items()}
    make()(**molecules).sum().backward()
    assert all(torch.equal(value, before[key]) for key, value in molecules.items())


def test_repr():
    text = repr(SchNet(8, 6, 2, 10, 4.5, "mean"))
    assert text == (
        "SchNet(hidden_channels=8, num_filters=6, num_interactions=2, num_gaussians=10, cutoff=4.5, "
        "readout=MeanReadout(hidden_channels=8, out_channels=1, activation='ssp'))"
    )
