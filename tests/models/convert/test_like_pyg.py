"""PyTorch Geometric's SchNet under its own call: values, gradients and state dicts beside the original."""

import copy
import inspect
import pickle
import warnings

import pytest
import torch
from torch_geometric.nn.models import SchNet as PyGSchNet
from torch_geometric.nn.models.schnet import RadiusInteractionGraph
from torch_geometric.nn.resolver import aggregation_resolver

import pyg_schnet
from pyg_schnet import InteractionGraph, SchNet, load
from pyg_schnet.interfaces import SchNetCalculator
from pyg_schnet.models.convert.like_pyg import SchNet as LikePyG

F64 = torch.float64
SIZES = (16, 12, 2, 20, 5.0)
OPTIONS = {
    "add": {},
    "mean": {"readout": "mean"},
    "max": {"readout": "max"},
    "statistics": {"mean": -3.7, "std": 2.2},
    "mean-without-std": {"mean": -3.7},
    "atomref": {"atomref": True},
    "everything": {"mean": -3.7, "std": 2.2, "atomref": True, "scale": 0.5, "readout": "mean"},
    "dipole": {"dipole": True},
    "dipole-everything": {"dipole": True, "scale": 4.8, "mean": 1.0, "std": 2.0, "atomref": True},
}


def pair(name="add", dtype=F64, graph=None, **kwargs):
    """PyG's model with random weights on a complete graph, and ours with its state dict."""
    torch.manual_seed(0)
    options = {**OPTIONS[name], **kwargs}
    scale = options.pop("scale", None)
    if options.get("atomref"):
        options["atomref"] = torch.randn(100, 1)
    theirs = PyGSchNet(*SIZES, interaction_graph=graph or InteractionGraph(5.0), **options)
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            if key.endswith("bias"):
                parameter.normal_(std=0.2)
    ours = SchNet.like_pyg(*SIZES, graph, 32, **options)
    ours.load_state_dict(theirs.state_dict())
    theirs.scale = ours.scale = scale
    return theirs.to(dtype), ours.to(dtype)


def results(model, z, pos, batch, dtype):
    """Output, and gradients with respect to positions and every parameter."""
    pos = pos.to(dtype).requires_grad_()
    out = model(z, pos, batch)
    inputs = [pos, *model.parameters()]
    return [out, *torch.autograd.grad(out.square().sum(), inputs, materialize_grads=True, allow_unused=True)]


def largest_differences(found, expected):
    scale = [max(float(value.detach().abs().max()), 1e-6) for value in expected]
    return [float((a - b).detach().abs().max()) / s for a, b, s in zip(found, expected, scale, strict=True)]


@pytest.fixture
def pair_of_molecules(tensors, water, ethanol):
    return tensors(water, ethanol)


def test_arguments_are_those_of_pyg():
    theirs = inspect.signature(PyGSchNet).parameters
    for cls in (LikePyG, SchNet.like_pyg):
        ours = inspect.signature(cls).parameters
        assert list(ours)[: len(theirs)] == list(theirs)
        assert [ours[name].default for name in theirs] == [parameter.default for parameter in theirs.values()]


@pytest.mark.parametrize("mode", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", OPTIONS)
class TestParity:
    def test_float64(self, name, mode, pair_of_molecules):
        theirs, ours = (model.train(mode) for model in pair(name))
        expected, found = (results(model, **pair_of_molecules, dtype=F64) for model in (theirs, ours))
        assert expected[0].dtype == found[0].dtype
        assert max(largest_differences(found, expected)) < 1e-10

    def test_float32(self, name, mode, pair_of_molecules):
        theirs, ours = (model.train(mode) for model in pair(name, torch.float32))
        expected, found = (results(model, **pair_of_molecules, dtype=torch.float32) for model in (theirs, ours))
        assert expected[0].dtype == found[0].dtype
        value, grad_pos, *grad_weights = largest_differences(found, expected)
        assert value < 5e-6
        assert grad_pos < (2e-4 if mode else 5e-5)
        assert max(grad_weights) < 1e-4


@pytest.mark.parametrize("name", ["add", "dipole", "atomref"])
def test_single_structure_without_batch(name, tensors, ethanol):
    theirs, ours = pair(name)
    atoms = tensors(ethanol)
    out = ours(atoms["z"], atoms["pos"])
    assert out.shape == (1, 1)
    torch.testing.assert_close(out, theirs(atoms["z"], atoms["pos"]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", OPTIONS)
def test_state_dicts_go_both_ways(name):
    theirs, ours = pair(name)
    state = ours.state_dict()
    assert list(state) == list(theirs.state_dict())
    fresh = PyGSchNet(*SIZES, interaction_graph=InteractionGraph(5.0), **_options(name)).double()
    fresh.load_state_dict(state)
    for key, value in theirs.state_dict().items():
        assert torch.equal(fresh.state_dict()[key], value), key


def _options(name):
    options = {key: value for key, value in OPTIONS[name].items() if key != "scale"}
    return {**options, "atomref": torch.zeros(100, 1)} if options.get("atomref") else options


def test_state_dict_has_pygs_buffers():
    keys = set(SchNet.like_pyg(*SIZES, dipole=True, atomref=torch.ones(100, 1)).state_dict())
    assert {"initial_atomref", "atomref.weight", "atomic_mass", "distance_expansion.offset"} <= keys
    assert {"interactions.1.mlp.2.bias", "interactions.1.conv.nn.2.bias", "interactions.1.conv.lin1.weight"} <= keys


def test_references_may_be_a_vector():
    model = SchNet.like_pyg(*SIZES, atomref=torch.arange(100.0))
    assert model.atomref.weight.shape == (100, 1)
    with pytest.raises(ValueError, match=r"atomref must hold one value for each atomic number from 0 to 99.*\[7\]"):
        SchNet.like_pyg(*SIZES, atomref=torch.zeros(7))


def test_attributes_of_pyg():
    _, ours = pair("everything")
    assert (ours.hidden_channels, ours.cutoff, ours.dipole, ours.mean, ours.std, ours.scale) == (
        *(16, 5.0, False),
        *(-3.7, 2.2, 0.5),
    )
    assert str(ours.readout) == "MeanAggregation()"
    assert ours.interaction_graph.cutoff == 5.0
    assert ours.interactions[0].conv.lin1.weight.shape == (12, 16)
    assert (
        str(LikePyG(*SIZES)) == "SchNet(hidden_channels=16, num_filters=12, num_interactions=2, num_gaussians=20, "
        "cutoff=5.0)"
    )


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_interaction_graph_is_called(dtype, pair_of_molecules):
    calls = []

    def graph(pos, batch):  # some edges only, and distances of the caller's
        calls.append(len(pos))
        index, dist = InteractionGraph(9.0)(pos, batch)
        return index[:, ::2], 1.1 * dist[::2]

    theirs, ours = pair("add", dtype, graph)
    expected, found = (results(model, **pair_of_molecules, dtype=dtype) for model in (theirs, ours))
    assert calls == [12, 12]
    assert max(largest_differences(found, expected)) < 1e-10


def test_interaction_graph_takes_no_cell(periodic_tensors, nacl):
    _, ours = pair("add", graph=InteractionGraph(5.0))
    with pytest.raises(ValueError, match="takes positions and batch only, got cell, pbc as well"):
        ours(**periodic_tensors(nacl))


def test_graph_of_pyg_needs_no_other_package_where_it_drops_nothing(pair_of_molecules):
    theirs, ours = pair("add", graph=RadiusInteractionGraph(5.0))
    theirs.interaction_graph = InteractionGraph(5.0)
    torch.testing.assert_close(ours(**pair_of_molecules), theirs(**pair_of_molecules), rtol=1e-10, atol=1e-12)


def test_graph_of_pyg_keeps_its_quota(pair_of_molecules, monkeypatch):
    _, ours = pair("add", graph=RadiusInteractionGraph(5.0, max_num_neighbors=4))
    asked = []

    def radius_graph(pos, r, batch, max_num_neighbors):
        asked.append((r, max_num_neighbors))
        return InteractionGraph(5.0)(pos, batch)[0][:, :5]

    monkeypatch.setattr("torch_geometric.nn.models.schnet.radius_graph", radius_graph)
    assert ours(**pair_of_molecules).shape == (2, 1)
    assert asked == [(5.0, 4)]


def test_all_neighbours_count_and_that_is_said_once(dense_cluster, tensors):
    theirs, ours = pair("add")
    atoms = tensors(dense_cluster)
    with pytest.warns(UserWarning, match=r"an atom has \d\d neighbours within 5.0 Å and all of them count.*=32"):
        out = ours(**atoms)
    torch.testing.assert_close(out, theirs(**atoms), rtol=1e-10, atol=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours(**atoms)
        pair("add")[1](**tensors(dense_cluster[:20]))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_padding_is_an_atom_as_in_pyg(dtype, pair_of_molecules):
    theirs, ours = pair("add", dtype)
    pair_of_molecules["z"][1] = 0
    expected, found = (results(model, **pair_of_molecules, dtype=dtype) for model in (theirs, ours))
    assert max(largest_differences(found, expected)) < (1e-10 if dtype == F64 else 2e-6)


def zero(module, inputs, output):
    return 0 * output


CHANGES = {
    "hook of the filters": lambda model: model.interactions[0].mlp.register_forward_hook(zero),
    "hook of the convolution": lambda model: model.interactions[1].conv.register_forward_hook(zero),
    "message hook": lambda model: model.interactions[1].conv.register_message_forward_hook(lambda *a: 0 * a[-1]),
    "message of the object": lambda model: setattr(model.interactions[0].conv, "message", lambda x_j, W: -x_j * W),
    "activation": lambda model: setattr(model.interactions[0], "act", torch.nn.SiLU()),
    "activation of the filters": lambda model: model.interactions[0].mlp.__setitem__(1, torch.nn.Tanh()),
    "block taken out": lambda model: model.interactions.__delitem__(0),
    "block added": lambda model: model.interactions.append(copy.deepcopy(model.interactions[0])),
    "layer": lambda model: setattr(model.interactions[0], "lin", torch.nn.Linear(16, 16, bias=False)),
    "gaussians": lambda model: setattr(model.distance_expansion, "coeff", -3.0),
    "cutoff": lambda model: setattr(model.interactions[0].conv, "cutoff", 9.0),
    "weight": lambda model: setattr(model.interactions[0].mlp[0], "weight", torch.nn.Parameter(torch.ones(12, 20))),
    "values of a weight": lambda model: model.embedding.weight.data.mul_(1.5),
    "head": lambda model: model.lin1.register_forward_hook(zero),
    "readout": lambda model: setattr(model, "readout", aggregation_resolver("mean")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_parts_do_what_they_do_in_pyg(change, pair_of_molecules):
    theirs, ours = (model.eval() for model in pair("add", torch.float32))
    atoms = {**pair_of_molecules, "pos": pair_of_molecules["pos"].float()}
    with torch.no_grad():
        before = ours(**atoms)  # tables are made
        torch.manual_seed(1)
        CHANGES[change](theirs)
        torch.manual_seed(1)
        CHANGES[change](ours)
        torch.testing.assert_close(ours(**atoms), theirs(**atoms), rtol=5e-6, atol=1e-6)
        assert (ours(**atoms) - before).abs().max() > 1e-4


def test_weights_can_be_assigned_as_pyg_does_for_pretrained_models(pair_of_molecules):
    theirs, ours = (model.eval() for model in pair("everything", torch.float32))
    atoms = {**pair_of_molecules, "pos": pair_of_molecules["pos"].float()}
    ours(**atoms)
    torch.manual_seed(3)
    with torch.no_grad():
        for model in (theirs, ours):
            torch.manual_seed(3)
            model.embedding.weight = torch.nn.Parameter(torch.randn(100, 16))
            for block in model.interactions:
                block.mlp[0].weight = torch.nn.Parameter(torch.randn(12, 20))
                block.conv.lin1.weight = torch.nn.Parameter(torch.randn(12, 16))
                block.lin.bias = torch.nn.Parameter(torch.randn(16))
            model.lin2.weight = torch.nn.Parameter(torch.randn(1, 8))
            model.readout, model.mean, model.std = aggregation_resolver("add"), 1.5, 0.5
            model.atomref, model.scale = None, 2.0
        torch.testing.assert_close(ours(**atoms), theirs(**atoms), rtol=1e-5, atol=1e-5)


def test_pretrained_models_of_pyg_become_ours(monkeypatch, pair_of_molecules):
    theirs, _ = pair("everything")
    theirs.interaction_graph = RadiusInteractionGraph(5.0)
    monkeypatch.setattr(PyGSchNet, "from_qm9_pretrained", staticmethod(lambda *args: (theirs, ("a", "b", "c"))))
    ours, parts = LikePyG.from_qm9_pretrained("root", None, 7)
    theirs.interaction_graph = InteractionGraph(5.0)
    assert parts == ("a", "b", "c")
    torch.testing.assert_close(ours(**pair_of_molecules), theirs(**pair_of_molecules), rtol=1e-10, atol=1e-12)
    with pytest.raises(TypeError, match="from_model takes a torch_geometric"):
        LikePyG.from_model(torch.nn.Linear(1, 1))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_have_weights_of_their_own(duplicate, pair_of_molecules):
    _, ours = pair("add", torch.float32)
    atoms = {**pair_of_molecules, "pos": pair_of_molecules["pos"].float()}
    before = ours(**atoms)
    twin = duplicate(ours)
    torch.testing.assert_close(twin(**atoms), before)
    with torch.no_grad():
        ours.embedding.weight.mul_(3.0)
    torch.testing.assert_close(twin(**atoms), before)
    assert not torch.allclose(ours(**atoms), before)


def test_saved_as_a_schnet(tmp_path, pair_of_molecules):
    _, ours = pair("everything")
    path = ours.save(tmp_path / "model.safetensors", target="U0", unit="eV")
    model = load(path)
    model.filters = "exact"
    assert type(model) is SchNet
    assert model.card["unit"] == "eV"
    torch.testing.assert_close(model(**pair_of_molecules), ours(**pair_of_molecules), rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match=r"an interaction_graph of its own \(InteractionGraph\) cannot become"):
        pair("add", graph=InteractionGraph(5.0))[1].save(tmp_path / "other.safetensors")


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_periodic_structures_and_given_edges(dtype, periodic_tensors, nacl, triclinic):
    _, ours = (model.eval() for model in pair("add", dtype))
    atoms = periodic_tensors(nacl, triclinic, dtype=dtype)
    expected = SchNet.from_pyg(ours)
    expected.filters = "exact"
    reference = expected(**atoms)
    torch.testing.assert_close(ours(**atoms), reference, rtol=1e-5, atol=1e-5)
    pbc = atoms.pop("pbc")
    index, shift = pyg_schnet.radius_graph(atoms["pos"], 6.0, atoms["batch"], cell=atoms["cell"], pbc=pbc)
    itself = torch.tensor([[0], [0]])
    index, shift = torch.cat([index, itself], 1), torch.cat([shift, torch.zeros_like(shift[:1])])
    given = {"edge_index": index, "edge_shift": shift}  # beyond the cutoff, and from an atom to itself
    torch.testing.assert_close(ours(**atoms, **given), reference, rtol=1e-5, atol=1e-5)
    assert ours(**atoms, **given, batch_size=4)[2:].tolist() == [[0.0], [0.0]]


def test_wrong_input_is_refused():
    ours = pair("add", torch.float32)[1]
    with pytest.raises(ValueError, match="z must hold one atomic number"):
        ours(torch.zeros(3), torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"pos is torch.float64 but the weights are torch.float32"):
        ours(torch.ones(3, dtype=torch.int64), torch.zeros(3, 3, dtype=F64))
    with pytest.raises(ValueError, match="filters must be 'auto' or 'exact'"):
        LikePyG(*SIZES, filters="spline")


def test_calculator_takes_it(water):
    _, ours = pair("add")
    water.calc = SchNetCalculator(ours, unit="eV")
    expected = ours(torch.from_numpy(water.numbers).long(), torch.from_numpy(water.positions)).item()
    assert water.get_potential_energy() == pytest.approx(expected, abs=1e-4)
