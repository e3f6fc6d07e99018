"""Energies and forces of small structures in one call, against autograd through the same model."""

import copy
import pickle

import pytest
import torch
from torch.autograd import forward_ad

from pyg_schnet import SchNet, radius_graph
from pyg_schnet.data import to_data
from pyg_schnet.derivatives import energy_forces_stress
from pyg_schnet.nn import AtomNetwork, Readout, SumReadout
from pyg_schnet.testing import check_permutation

F32, F64 = torch.float32, torch.float64
STRUCTURES = ["ethanol", "isolated_atom", "slab", "triclinic", "small_cell"]
MODELS = {
    "sum": {},
    "mean": {"readout": "mean"},
    "pyg": {"activate_filters": False},
    "hard": {"window": "hard", "normalize": True},
    "normalized": {"normalize": True},
    "shared": {"shared_weights": True},
    "narrow": {"num_filters": 7, "hidden_channels": 9, "num_interactions": 3},
    "one block": {"num_interactions": 1},
    "splined": {"filters": "spline", "num_grid_points": 90},
}


def make(dtype=F64, **options):
    torch.manual_seed(0)
    model = SchNet(**{"hidden_channels": 16, "num_filters": 24, "num_interactions": 2, "cutoff": 4.0, **options})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.3)
        for statistic in (model.readout.scale, model.readout.shift, model.readout.atomref):
            statistic.normal_()
    return model.to(dtype).eval()


def call(model, data, dtype=F64):
    """Arguments with edges that are given, as they have to be for crystals."""
    pos, cell = data.pos.to(dtype), data.cell.to(dtype)
    arguments = {"z": data.z, "pos": pos}
    if not data.pbc.any():
        return arguments | {"edge_index": radius_graph(pos, model.cutoff)}
    edge_index, edge_shift = radius_graph(pos, model.cutoff, cell=cell, pbc=data.pbc)
    return arguments | {"edge_index": edge_index, "edge_shift": edge_shift, "cell": cell, "pbc": data.pbc}


def by_autograd(model, **arguments):
    """The same model behind a function, so that autograd differentiates it."""
    return energy_forces_stress(lambda *given, **options: model(*given, **options), **arguments)


def assert_alike(found, expected, rtol):
    for one, other in zip(found, expected, strict=True):
        if other is None:
            assert one is None
        else:
            assert not one.requires_grad
            torch.testing.assert_close(one, other, rtol=0, atol=rtol * max(float(other.abs().max()), 1e-3))


@pytest.fixture(params=STRUCTURES)
def structure(request):
    atoms = request.getfixturevalue(request.param)
    atoms.rattle(0.05, seed=3)
    return to_data(atoms)


@pytest.mark.parametrize("name", MODELS)
def test_numbers_are_those_of_autograd(name, structure):
    model = make(**MODELS[name])
    arguments = call(model, structure)
    assert model.energy_and_gradients(**arguments) is not None
    stress = bool(structure.pbc.all())
    found = energy_forces_stress(model, **arguments, stress=stress)
    assert_alike(found, by_autograd(model, **arguments, stress=stress), 1e-12)
    if stress:
        assert torch.equal(found.stress, found.stress.mT)


def test_numbers_in_single_precision(structure):
    model = make(F32)
    arguments = call(model, structure, F32)
    assert model.energy_and_gradients(**arguments).energy.dtype == F32
    stress = bool(structure.pbc.all())
    found = energy_forces_stress(model, **arguments, stress=stress)
    assert_alike(found, by_autograd(model, **arguments, stress=stress), 2e-5)


@pytest.mark.parametrize("name", ["sum", "mean", "normalized"])
def test_batches_and_graphs_that_are_built(name, molecules):
    model = make(**MODELS[name])
    for batch_size in (None, 5):  # the last ones are empty
        arguments = {**molecules, "batch_size": batch_size}
        found = model.energy_and_gradients(**arguments)
        assert found.grad_strain is None
        assert_alike(energy_forces_stress(model, **arguments), by_autograd(model, **arguments), 1e-12)


def test_strains_of_a_batch_of_crystals(periodic_tensors, triclinic, small_cell):
    model, given = make(), periodic_tensors(triclinic, small_cell)
    lattice = {"cell": given["cell"], "pbc": given["pbc"]}
    edge_index, edge_shift = radius_graph(given["pos"], model.cutoff, given["batch"], **lattice)
    arguments = {**given, "edge_index": edge_index, "edge_shift": edge_shift}
    assert model.energy_and_gradients(**arguments, strain=True).grad_strain.shape == (2, 3, 3)
    assert_alike(
        energy_forces_stress(model, **arguments, stress=True), by_autograd(model, **arguments, stress=True), 1e-12
    )
    assert energy_forces_stress(model, **arguments, forces=False, stress=True).forces is None


def test_only_the_wanted_results_come(ethanol):
    model, data = make(), to_data(ethanol, dtype=F64)
    found = energy_forces_stress(model, data.z, data.pos)
    assert found.stress is None
    torch.testing.assert_close(found.forces, by_autograd(model, z=data.z, pos=data.pos).forces, rtol=1e-9, atol=1e-10)
    assert energy_forces_stress(model, data.z, data.pos, forces=False).forces is None


def test_atoms_in_another_order(ethanol):
    model, data = make(), to_data(ethanol, dtype=F64)
    check_permutation(
        lambda z, pos, batch: energy_forces_stress(model, z, pos, batch).energy, data.z, data.pos, tol=1e-12
    )


def edit(parameter):
    with torch.no_grad():
        parameter.add_(0.1)


def exchange(module, name):
    setattr(module, name, torch.nn.Parameter(getattr(module, name).detach() + 0.1))


CHANGES = {
    "embedding": lambda model: edit(model.embedding.weight),
    "filters": lambda model: edit(model.interactions[1].conv.filter_network.lin1.weight),
    "dense layer": lambda model: edit(model.interactions[0].lin2.bias),
    "readout": lambda model: edit(model.readout.network.lin1.weight),
    "last layer": lambda model: exchange(model.readout.network.lin2, "weight"),
    "scale": lambda model: model.readout.scale.fill_(3.0),
    "shift": lambda model: model.readout.shift.fill_(3.0),
    "references": lambda model: model.readout.set_references(torch.arange(100.0)),
    "another readout": lambda model: setattr(model, "readout", SumReadout(16).double()),
    "another network": lambda model: setattr(model.readout, "network", AtomNetwork(16).double()),
    "another embedding": lambda model: setattr(model, "embedding", torch.nn.Embedding(100, 16).double()),
    "other weights": lambda model: model.load_state_dict(
        {name: value + 0.01 * torch.randn_like(value) for name, value in model.state_dict().items()}
    ),
    "normalized": lambda model: [setattr(block.conv, "normalize", True) for block in model.interactions],
    "one is normalized": lambda model: setattr(model.interactions[1].conv, "normalize", True),
    "trained": lambda model: model.train().eval(),
    "exact": lambda model: setattr(model, "filters", "exact"),
    "cutoff": lambda model: setattr(model, "cutoff", 1.2),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_seen(name, ethanol):
    model, data = make(), to_data(ethanol, dtype=F64)
    before = energy_forces_stress(model, data.z, data.pos)
    CHANGES[name](model)
    after = energy_forces_stress(model, data.z, data.pos)
    assert torch.allclose(before.energy, after.energy, rtol=1e-4) == (name in ("trained", "exact"))
    assert_alike(after, by_autograd(model, z=data.z, pos=data.pos), 1e-12)


def test_blocks_that_differ_in_normalization(ethanol):
    data, models = to_data(ethanol, dtype=F64), [make(), make()]
    models[1].filters = "exact"
    for first in (True, False):
        for model in models:
            for block, normalize in zip(model.interactions, (first, not first), strict=True):
                block.conv.normalize = normalize
        splined, exact = (model(data.z, data.pos) for model in models)
        torch.testing.assert_close(splined, exact, rtol=1e-5, atol=0)


class Twice(SchNet):
    def forward(self, *args, **kwargs):
        return 2 * super().forward(*args, **kwargs)


class Flat(Readout):
    out_channels = 1

    def forward(self, x, z, pos, batch, batch_size):
        return x.new_zeros(batch_size, 1).index_add(0, batch, x.square().sum(-1, keepdim=True))


def subclass(model):
    model.__class__ = Twice


def own_forward(model):
    forward = model.forward
    model.forward = lambda *args, **kwargs: 2 * forward(*args, **kwargs)


def double(module, _, output):
    return 2 * output


REFUSED = {
    "training": lambda model: model.train(),
    "dropout": lambda model: (setattr(model.readout.network, "dropout", 0.5), model.readout.train()),
    "a block in training": lambda model: model.interactions[1].train(),
    "exact filters": lambda model: setattr(model, "filters", "exact"),
    "one exact filter": lambda model: setattr(model.interactions[1].conv, "filters", "exact"),
    "another readout": lambda model: setattr(model, "readout", Flat()),
    "largest value": lambda model: setattr(model, "readout", make(readout="max").readout),
    "another activation": lambda model: setattr(model.readout, "network", AtomNetwork(16, activation="silu").double()),
    "subclass": subclass,
    "own forward": own_forward,
    "hook of the model": lambda model: model.register_forward_hook(double),
    "hook of the embedding": lambda model: model.embedding.register_forward_hook(double),
    "hook of a block": lambda model: model.interactions[1].register_forward_hook(double),
    "hook of a layer": lambda model: model.interactions[0].lin1.register_forward_hook(double),
    "hook of the readout": lambda model: model.readout.register_forward_hook(double),
    "hook of the last layer": lambda model: model.readout.network.lin2.register_forward_hook(double),
    "hook of messages": lambda model: model.interactions[0].conv.register_message_forward_hook(double),
    "embedding of some norm": lambda model: setattr(model.embedding, "max_norm", 0.5),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_to_be_called_is_called(name, ethanol):
    model, data = make(), to_data(ethanol, dtype=F64)
    plain = energy_forces_stress(model, data.z, data.pos)
    assert model.energy_and_gradients(data.z, data.pos) is not None
    change = REFUSED[name]
    change(model)
    assert model.energy_and_gradients(data.z, data.pos) is None
    if "dropout" in name:
        return
    found = energy_forces_stress(model, data.z, data.pos)
    assert_alike(found, by_autograd(model, z=data.z, pos=data.pos), 1e-12)
    same = "training" in name or name in ("exact filters", "one exact filter")
    assert torch.allclose(found.energy, plain.energy, rtol=1e-4) == same


def test_hooks_of_all_modules_are_called(ethanol):
    model, data, seen = make(), to_data(ethanol, dtype=F64), []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
    try:
        energy_forces_stress(model, data.z, data.pos)
    finally:
        handle.remove()
    assert model in seen
    assert model.energy_and_gradients(data.z, data.pos) is not None


def test_other_graphs_and_inputs_are_left_to_autograd(ethanol, triclinic):
    model, data = make(), to_data(ethanol, dtype=F64)
    edge_index = radius_graph(data.pos, 4.0)
    assert model.energy_and_gradients(data.z, data.pos, edge_index=edge_index[:, 1:]) is None  # not in both directions
    assert model.energy_and_gradients(data.z, data.pos, edge_index=edge_index.flip(1)) is None  # not sorted
    padded = torch.cat([data.z[:-1], data.z.new_zeros(1)])
    assert model.energy_and_gradients(padded, data.pos) is None
    crystal = to_data(triclinic, dtype=F64)
    lattice = {"cell": crystal.cell, "pbc": crystal.pbc}
    assert model.energy_and_gradients(crystal.z, crystal.pos, **lattice) is None  # the graph would be found twice
    with forward_ad.dual_level():
        assert model.energy_and_gradients(data.z, data.pos) is None
    with torch.autocast("cpu"):
        assert model.energy_and_gradients(data.z, data.pos) is None
    assert model.energy_and_gradients(data.z.to("meta"), data.pos.to("meta")) is None


def test_large_structures_are_left_to_several_threads(dense_cluster):
    data = to_data(dense_cluster, dtype=F64)
    assert make(num_filters=64).energy_and_gradients(data.z, data.pos) is None
    edge_index = radius_graph(data.pos, 4.0)
    small, large = make(num_filters=2), make(num_filters=2 * 200_000 // edge_index.size(1) + 1)
    assert small.energy_and_gradients(data.z, data.pos, edge_index=edge_index) is not None
    assert large.energy_and_gradients(data.z, data.pos, edge_index=edge_index) is None


@pytest.mark.parametrize("z", [[6, 100], [-1, 6]])
def test_elements_without_embedding_are_an_error(z):
    pos = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], dtype=F64)
    with pytest.raises(ValueError, match="z must lie between 0"):
        energy_forces_stress(make(), torch.tensor(z), pos)


def test_edges_of_atoms_that_are_not_there_are_an_error(ethanol):
    data = to_data(ethanol, dtype=F64)
    edge_index = radius_graph(data.pos, 4.0)
    edge_index[0, 0] = len(data.z)
    with pytest.raises(IndexError):
        energy_forces_stress(make(), data.z, data.pos, edge_index=edge_index)


def test_wrong_input_is_the_same_error(ethanol):
    data, model = to_data(ethanol, dtype=F64), make()
    with pytest.raises(ValueError, match=r"pos is torch\.float32 but the weights are"):
        energy_forces_stress(model, data.z, data.pos.float())
    with pytest.raises(ValueError, match="z must hold one atomic number"):
        energy_forces_stress(model, data.z[:, None], data.pos)
    with pytest.raises(ValueError, match="edge_shift belongs to given edges"):
        energy_forces_stress(model, data.z, data.pos, edge_shift=torch.zeros(4, 3))
    with pytest.raises(ValueError, match="one energy for each structure"):
        energy_forces_stress(make(out_channels=2), data.z, data.pos)


def test_in_inference_mode(ethanol):
    model, data = make(), to_data(ethanol, dtype=F64)
    expected = energy_forces_stress(model, data.z, data.pos)
    with torch.inference_mode():
        assert_alike(energy_forces_stress(model, data.z, data.pos), expected, 1e-14)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_go_their_own_way(copied, ethanol):
    model, data = make(), to_data(ethanol, dtype=F64)
    before = energy_forces_stress(model, data.z, data.pos)
    other = copied(model)
    edit(other.interactions[0].lin1.weight)
    edit(other.readout.network.lin1.weight)
    assert_alike(energy_forces_stress(other, data.z, data.pos), by_autograd(other, z=data.z, pos=data.pos), 1e-12)
    assert torch.equal(energy_forces_stress(model, data.z, data.pos).energy, before.energy)
    assert other._engine is not model._engine
