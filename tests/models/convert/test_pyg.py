"""Parity with the SchNet of PyTorch Geometric, both ways."""

import numpy as np
import pytest
import torch
from torch_geometric.nn.models import SchNet as PyGSchNet
from torch_geometric.nn.models.schnet import RadiusInteractionGraph

from pyg_schnet import InteractionGraph, SchNet
from pyg_schnet.models.convert.pyg import from_pyg, to_pyg
from pyg_schnet.nn import DipoleReadout, ElectronicSpatialExtentReadout, MeanReadout, SumReadout

F64 = torch.float64
CUTOFF = 5.0
OPTIONS = {
    "sum": {},
    "mean": {"readout": "mean"},
    "statistics": {"mean": -3.7, "std": 2.2},
    "atomref": {"atomref": True},
    "everything": {"mean": -3.7, "std": 2.2, "atomref": True, "scale": 0.5, "readout": "mean"},
    "scale": {"scale": -2.5},
    "mean-without-std": {"mean": -3.7},
    "dipole": {"dipole": True},
    "dipole-scale": {"dipole": True, "scale": 4.8},
}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def make_pyg(name, dtype=F64, cutoff=CUTOFF, **sizes):
    """PyG's SchNet with random weights and biases; edges by our graph, which needs no pyg-lib and drops nothing."""
    torch.manual_seed(0)
    options = dict(OPTIONS[name])
    scale = options.pop("scale", None)
    if options.pop("atomref", False):
        options["atomref"] = torch.randn(100, 1)
    sizes = {"hidden_channels": 16, "num_filters": 12, "num_interactions": 3, "num_gaussians": 20, **sizes}
    model = PyGSchNet(cutoff=cutoff, interaction_graph=InteractionGraph(cutoff), **sizes, **options)
    model.scale = scale
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("bias"):
                parameter.normal_(std=0.2)
    return model.to(dtype)


def ours(theirs):
    """Our model with exact filters; splined ones have an error of their own."""
    model = from_pyg(theirs)
    model.filters = "exact"
    return model


def random_molecules(seed=0, n=8):
    """Batches of 1 to 20 atoms about 1.5 Å apart."""
    generator = np.random.default_rng(seed)
    sizes = generator.integers(1, 21, n)
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3) * 1.5
    pos = np.concatenate([generator.permutation(grid)[:size] for size in sizes])
    pos = pos + generator.uniform(-0.3, 0.3, pos.shape)
    z = generator.choice([1, 6, 7, 8, 9], len(pos))
    batch = np.repeat(np.arange(n), sizes)
    return {"z": torch.from_numpy(z), "pos": torch.from_numpy(pos), "batch": torch.from_numpy(batch)}


def outputs(model, z, pos, batch, dtype=F64):
    pos = pos.to(dtype).requires_grad_()
    out = model(z, pos, batch)
    return out.detach(), torch.autograd.grad(out.sum(), pos)[0]


def relative(actual, expected):
    """Largest difference, relative to the largest number."""
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def compare(model, other, structures, dtype=F64):
    """Largest relative difference of outputs and of gradients."""
    found, expected = outputs(model, **structures, dtype=dtype), outputs(other, **structures, dtype=dtype)
    assert found[0].shape == expected[0].shape
    assert expected[0].abs().max() > 1e-3
    return tuple(relative(a, b) for a, b in zip(found, expected, strict=True))


@pytest.fixture
def two_atoms_and_more():
    """Without single atoms, at whose vanishing dipole PyG has no gradient."""
    structures = random_molecules(1)
    keep = (torch.bincount(structures["batch"]) > 1)[structures["batch"]]
    structures = {key: value[keep] for key, value in structures.items()}
    structures["batch"] = structures["batch"].unique(return_inverse=True)[1]
    return structures


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", OPTIONS)
class TestParity:
    def test_from_pyg(self, name, dtype, two_atoms_and_more):
        theirs = make_pyg(name, dtype)
        value, gradient = compare(ours(theirs), theirs, two_atoms_and_more, dtype)
        assert value < TOLERANCE[dtype]
        assert gradient < 10 * TOLERANCE[dtype]

    def test_to_pyg(self, name, dtype, two_atoms_and_more):
        model = ours(make_pyg(name, dtype))
        value, gradient = compare(to_pyg(model), model, two_atoms_and_more, dtype)
        assert value < TOLERANCE[dtype]
        assert gradient < 10 * TOLERANCE[dtype]

    def test_dense_cluster(self, name, dtype, dense_cluster, tensors):
        structures = tensors(dense_cluster)
        theirs = make_pyg(name, dtype)
        value, gradient = compare(ours(theirs), theirs, structures, dtype)
        assert value < TOLERANCE[dtype]
        assert gradient < 10 * TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", ["sum", "everything", "dipole-scale"])
def test_qm9(name, dtype, qm9_molecules):
    structures = {
        "z": torch.cat([data.z for data in qm9_molecules]),
        "pos": torch.cat([data.pos for data in qm9_molecules]),
        "batch": torch.cat([torch.full_like(data.z, k) for k, data in enumerate(qm9_molecules)]),
    }
    assert int(structures["batch"].max()) + 1 == 200
    theirs = make_pyg(name, dtype, hidden_channels=8, num_filters=8, num_interactions=2, num_gaussians=10)
    value, gradient = compare(ours(theirs), theirs, structures, dtype)
    print(name, dtype, f"output {value:.1e} gradient {gradient:.1e}")
    assert value < TOLERANCE[dtype]
    assert gradient < 10 * TOLERANCE[dtype]


def test_pyg_defaults(tensors, ethanol, water):
    theirs = PyGSchNet(interaction_graph=InteractionGraph(10.0)).double()
    assert max(compare(ours(theirs), theirs, tensors(ethanol, water))) < 1e-10


@pytest.mark.parametrize("name", ["sum", "everything", "dipole-scale"])
def test_splined_filters_are_as_close_as_stated(name, two_atoms_and_more):
    theirs = make_pyg(name).eval()
    value, gradient = compare(from_pyg(theirs), theirs, two_atoms_and_more)
    assert 1e-12 < value < 1e-6
    assert 1e-10 < gradient < 1e-5


def test_there_and_back():
    for name in OPTIONS:
        model = from_pyg(make_pyg(name))
        again = from_pyg(to_pyg(model))
        assert again.config == model.config
        for (key, value), other in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
            torch.testing.assert_close(value, other, rtol=1e-14, atol=1e-14, msg=key)


def test_settings_and_modes():
    theirs = make_pyg("sum", torch.float32).eval()
    model = SchNet.from_pyg(theirs)
    assert not model.training
    assert model.train().to_pyg().training
    assert (model.hidden_channels, model.num_filters, model.num_interactions, model.num_gaussians) == (16, 12, 3, 20)
    assert model.cutoff == 5.0
    assert not model.activate_filters
    assert model.gamma == pytest.approx(0.5 / (5.0 / 19) ** 2)
    assert isinstance(model.readout, SumReadout)
    assert isinstance(from_pyg(make_pyg("mean")).readout, MeanReadout)
    assert isinstance(from_pyg(make_pyg("dipole")).readout, DipoleReadout)
    assert next(from_pyg(make_pyg("sum")).parameters()).dtype == F64


def test_weights_are_copies():
    theirs = make_pyg("sum")
    model = from_pyg(theirs)
    before = model.embedding.weight.clone()
    with torch.no_grad():
        theirs.embedding.weight.add_(1.0)
    assert torch.equal(model.embedding.weight, before)


def test_shared_blocks_are_copied_to_pyg(molecules):
    model = SchNet(8, 8, 3, 10, CUTOFF, activate_filters=False, shared_weights=True, filters="exact").double()
    value, gradient = compare(to_pyg(model), model, molecules)
    assert max(value, gradient) < 1e-10


def test_to_pyg_uses_our_graph():
    theirs = to_pyg(SchNet(8, 8, 1, 10, CUTOFF, activate_filters=False))
    assert isinstance(theirs.interaction_graph, InteractionGraph)
    assert theirs.interaction_graph.cutoff == CUTOFF


def test_loaded_pyg_weights(tmp_path):
    theirs = make_pyg("everything")
    model = ours(theirs)
    again = SchNet.load(model.save(tmp_path / "model.safetensors"))
    assert compare(again, theirs, random_molecules(3))[0] < 1e-10


def test_pyg_truncates_what_we_do_not(dense_cluster, tensors):
    # the reason for the graph of our own: with at most 32 neighbours the energy is another one
    structures = tensors(dense_cluster)
    distance = torch.cdist(structures["pos"], structures["pos"])
    distance.fill_diagonal_(torch.inf)
    nearest = distance.topk(32, largest=False)
    keep = nearest.values < CUTOFF
    target = torch.arange(len(distance)).unsqueeze(1).expand(-1, 32)[keep]
    truncated = torch.stack([nearest.indices[keep], target])
    model = from_pyg(make_pyg("sum"))
    complete = model(**structures)
    assert (model(**structures, edge_index=truncated) - complete).abs().item() > 1e-6


class Other(torch.nn.Module):
    pass


def test_only_pyg_models():
    with pytest.raises(TypeError, match=r"takes a torch_geometric\.nn\.models\.SchNet, got Other"):
        from_pyg(Other())
    with pytest.raises(ValueError, match="readout must be a sum or a mean"):
        from_pyg(PyGSchNet(16, 16, 1, 10, readout="max", interaction_graph=InteractionGraph(10.0)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activate_filters": True}, "a softplus after the filter network"),
        ({"window": "hard"}, "a window other than the cosine"),
        ({"normalize": True}, "divided by the number of neighbours"),
        ({"trainable_gaussians": True}, "trainable Gaussians"),
        ({"readout": ElectronicSpatialExtentReadout(8)}, "a ElectronicSpatialExtentReadout"),
        ({"readout": "dipole"}, "of corrected charges"),
        ({"readout": DipoleReadout(8, neutralize=False, magnitude=False)}, "a dipole that is a vector"),
        ({"readout": DipoleReadout(8, neutralize=False, origin="zero")}, "not about the centre of mass"),
        ({"out_channels": 2}, "2 outputs"),
        ({"readout": SumReadout(8, activation="silu")}, "the activation 'silu' in the readout"),
    ],
)
def test_what_pyg_cannot_express(options, message):
    model = SchNet(8, 8, 1, 10, CUTOFF, **{"activate_filters": False, **options})
    with pytest.raises(ValueError, match=f"cannot express this model: it has .*{message}"):
        to_pyg(model)


def test_repr_of_pyg_graph_class_is_replaced():
    # PyG's own graph would need pyg-lib
    assert not isinstance(to_pyg(SchNet(8, 8, 1, 10, activate_filters=False)).interaction_graph, RadiusInteractionGraph)
