"""Blocks and other parts of a model that a user exchanges, adds or cuts act, and are not saved as something else."""

import copy

import pytest
import torch
import torch.nn.utils.prune as prune
from torch import nn

from pyg_schnet import DTNN, SchNet, radius_graph
from pyg_schnet.derivatives import energy_forces_stress, hessian
from pyg_schnet.engine.frozen import freeze
from pyg_schnet.geometry import edge_distances
from pyg_schnet.models import join_ensemble, load
from pyg_schnet.models.structure import check_described
from pyg_schnet.nn import CFConv, CosineCutoff, DTNNConv, DTNNInteraction, FilterNetwork, SchNetInteraction, SumReadout

F64 = torch.float64
BATCH = torch.tensor([0] * 7 + [1] * 7)
Z = torch.tensor([6, 1, 1, 8, 1, 7, 6] * 2)
CLOSE = {"rtol": 1e-3, "atol": 1e-4}  # of splines to exact filters, in training


def positions():
    grid = torch.cartesian_prod(*[torch.arange(2.0, dtype=F64)] * 3)[:7]
    noise = torch.randn(14, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    return 1.3 * grid.repeat(2, 1) + 0.1 * noise


POS = positions()


def make(cls=SchNet, training=False, **options):
    torch.manual_seed(0)
    sizes = (16, 24) if cls is SchNet else (16, 12)
    return cls(*sizes, 3, 20, 4.0, **options).to(F64).train(training)


def make_block():
    torch.manual_seed(5)
    return SchNetInteraction(16, FilterNetwork(24, window=CosineCutoff(4.0))).to(F64)


class Half(nn.Module):
    """A block of a user's, with the documented call."""

    def forward(self, x, edge_index, edge_dist, edge_ptr=None):
        return 0.5 * x


class Elements(nn.Module):
    """An embedding of a user's: no weight of that name."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(16, dtype=F64))

    def forward(self, z):
        return self.scale * torch.sin(z[:, None].to(F64) * torch.arange(1, 17))


class Largest(nn.Module):
    """A readout of a user's."""

    def forward(self, x, z, pos, batch, batch_size):
        return torch.stack([x[batch == k].amax() for k in range(batch_size)])[:, None]


class Halved(SumReadout):
    def atom_values(self, x, z):
        return 0.5 * super().atom_values(x, z)


def one_by_one(model, blocks, x=None, pos=POS):
    """The features after each block was called with all edges, exactly."""
    edge_index = radius_graph(pos, 4.0, BATCH)
    dist = edge_distances(pos, edge_index)
    x = model.embedding(Z) if x is None else x
    for block in blocks:
        convs = {module: module.filters for module in block.modules() if isinstance(module, CFConv)}
        for conv in convs:
            conv.filters = "exact"
        x = block(x, edge_index, dist)
        for conv, filters in convs.items():
            conv.filters = filters
    return x


def check(model, expected):
    """Energy, forces and second derivatives of a model are those of a function of positions."""
    torch.testing.assert_close(model(Z, POS, BATCH), expected(POS), **CLOSE)
    found = energy_forces_stress(model, Z, POS, BATCH)
    pos = POS.clone().requires_grad_()
    energy = expected(pos)
    torch.testing.assert_close(found.energy, energy[:, 0].detach(), **CLOSE)
    slopes = torch.autograd.grad(energy.sum(), pos, allow_unused=True)[0] if energy.requires_grad else None
    torch.testing.assert_close(found.forces, torch.zeros_like(pos) if slopes is None else -slopes, rtol=1e-2, atol=1e-3)


def energies(model, blocks, x=None):
    def expected(pos):
        features = one_by_one(model, blocks, x, pos)
        return model.readout(features, Z, pos, BATCH, 2)

    return expected


def exchanged(model, k):
    model.interactions[k] = Half()
    return list(model.interactions)


def appended(model):
    model.interactions.append(make_block())
    return list(model.interactions)


def inserted(model):
    model.interactions.insert(0, make_block())
    return list(model.interactions)


def cut(model):
    model.interactions = model.interactions[:1]
    return list(model.interactions)


def deleted(model):
    del model.interactions[1]
    return list(model.interactions)


def none_left(model):
    model.interactions = nn.ModuleList()
    return []


def again(model):
    model.interactions.append(model.interactions[0])
    return list(model.interactions)


LISTS = {
    "first exchanged": lambda model: exchanged(model, 0),
    "second exchanged": lambda model: exchanged(model, 1),
    "appended": appended,
    "inserted": inserted,
    "cut": cut,
    "deleted": deleted,
    "none": none_left,
    "one twice": again,
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", LISTS)
def test_the_list_of_blocks_is_what_acts(name, training):
    model = make(training=training)
    energy_forces_stress(model, Z, POS, BATCH)
    blocks = LISTS[name](model.train(training))
    for block in model.interactions:
        block.train(training)
    assert model.num_interactions == len(blocks)
    check(model, energies(model, blocks))


def test_only_shared_weights_repeat_a_block():
    for cls in (SchNet, DTNN):
        model = make(cls, shared_weights=True)
        assert (model.num_interactions, model.blocks()) == (3, [model.interactions[0]] * 3)
        torch.testing.assert_close(model(Z, POS, BATCH), energies(model, model.blocks())(POS), **CLOSE)
        model = make(cls, shared_weights=False)
        model.interactions = model.interactions[:1]
        assert model.blocks() == [model.interactions[0]]
    model.interactions.append(DTNNInteraction(DTNNConv(16, 12, window=CosineCutoff(4.0))).to(F64))
    model.interactions.append(Half())
    torch.testing.assert_close(model(Z, POS, BATCH), energies(model, list(model.interactions))(POS))


def test_options_with_exchanged_blocks():
    model = make()
    model.interactions[0] = Half()
    assert model.filters == "auto"
    model.filters = "exact"
    assert [block.conv.filters for block in model.interactions[1:]] == ["exact", "exact"]
    assert model.filters == model.config["filters"] == "exact"
    model.interactions = nn.ModuleList([Half()])
    assert model.filters == "exact"
    with pytest.raises(ValueError, match="filters must be 'auto', 'exact' or 'spline', got 'fast'"):
        model.filters = "fast"
    assert model.reset_parameters() is None


@pytest.mark.parametrize("training", [True, False])
def test_exchanged_embedding_and_readout(training):
    model = make(training=training)
    model.embedding = Elements()
    check(model, energies(model, list(model.interactions), model.embedding(Z).detach()))
    with pytest.raises(ValueError, match=r"pos is torch\.float32 but the weights are torch\.float64"):
        model(Z, POS.float(), BATCH)
    model = make(training=training)
    model.readout = Largest()
    check(model, energies(model, list(model.interactions)))


@pytest.mark.parametrize("training", [True, False])
def test_methods_of_readouts_are_called(training):
    plain = make(training=training)
    model = make(training=training)
    model.readout = Halved(16).to(F64).train(training)
    model.readout.load_state_dict(plain.readout.state_dict())
    torch.testing.assert_close(model(Z, POS, BATCH), 0.5 * plain(Z, POS, BATCH))
    torch.testing.assert_close(
        energy_forces_stress(model, Z, POS, BATCH).forces, 0.5 * energy_forces_stress(plain, Z, POS, BATCH).forces
    )
    plain.readout.network.forward = lambda x: x[:, :1]
    expected = torch.zeros(2, 1, dtype=F64).index_add(0, BATCH, one_by_one(plain, list(plain.interactions))[:, :1])
    torch.testing.assert_close(plain(Z, POS, BATCH), expected, **CLOSE)


class Doubled(SchNet):
    def represent(self, z, edges):
        return 2.0 * super().represent(z, edges)


@pytest.mark.parametrize("training", [True, False])
def test_methods_of_models_are_called(training):
    plain = make(training=training)

    def expected(pos):
        return plain.readout(2.0 * one_by_one(plain, list(plain.interactions), pos=pos), Z, pos, BATCH, 2)

    check(_as(Doubled, plain), expected)
    model = copy.deepcopy(plain)
    energy_forces_stress(model, Z, POS, BATCH)
    represent = model.represent
    model.represent = lambda z, edges: 2.0 * represent(z, edges)
    check(model, expected)


def _as(cls, model):
    model = copy.deepcopy(model)
    model.__class__ = cls
    return model


CHANGES = {
    "activation": lambda m: setattr(m.interactions[1], "act", nn.SiLU()),
    "layer": lambda m: setattr(m.interactions[1], "lin1", nn.Sequential(m.interactions[1].lin1, nn.Tanh())),
    "hook": lambda m: m.interactions[1].lin2.register_forward_hook(lambda module, args, out: 2.0 * out),
    "pruning": lambda m: prune.l1_unstructured(m.interactions[1].lin1, "weight", 0.5),
    "method": lambda m: setattr(m.interactions[1].lin2, "forward", torch.tanh),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", CHANGES)
def test_changed_parts_of_blocks(name, training):
    model = make(training=training)
    plain = model(Z, POS, BATCH)
    energy_forces_stress(model, Z, POS, BATCH)
    CHANGES[name](model)
    check(model.train(training), energies(model, list(model.interactions)))
    assert not torch.allclose(model(Z, POS, BATCH), plain, **CLOSE)
    found = hessian(model, Z[:7], POS[:7])
    model.filters = "exact"
    expected = hessian(model, Z[:7], POS[:7])
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


def flip(model):
    model.interactions[0].conv.filter_network.activate_filters = False


NOT_SAVED = {
    r"interactions\.1\.act is a SiLU instead of a ShiftedSoftplus": CHANGES["activation"],
    r"interactions\.1\.lin1 is a Sequential instead of a Linear": CHANGES["layer"],
    r"interactions\.1\.lin1\.weight is no weight instead of a weight": CHANGES["pruning"],
    r"interactions\.1\.lin2\.forward was overridden": CHANGES["method"],
    r"interactions\.1 is a Half instead of a SchNetInteraction": lambda m: exchanged(m, 1),
    r"interactions\.0\.conv\.normalize is True instead of False": lambda m: setattr(
        m.interactions[0].conv, "normalize", True
    ),
    r"interactions\.0\.conv\.filter_network\.activate_filters is False instead of True": flip,
    r"basis\.gamma is 3\.0 instead of": lambda m: setattr(m.interactions[2].conv.filter_network.basis, "gamma", 3.0),
    r"interactions\.0\.conv\.filter_network\.window is a Half instead of": lambda m: setattr(
        m.interactions[0].conv.filter_network, "window", Half()
    ),
    r"cutoff is 4\.0 instead of 3\.0": lambda m: setattr(m, "cutoff", 3.0),
    r"embedding\.weight is a weight of shape \[120, 16\] instead of .* \[100, 16\]": lambda m: setattr(
        m, "embedding", nn.Embedding(120, 16)
    ),
    r"interactions\.1\.conv\.filters is 'exact' instead of 'auto'": lambda m: setattr(
        m.interactions[1].conv, "filters", "exact"
    ),
    r"extra, a Linear, was added": lambda m: m.add_module("extra", nn.Linear(2, 2)),
    r"a readout of class Largest cannot be stored": lambda m: setattr(m, "readout", Largest()),
}


@pytest.mark.parametrize("message", NOT_SAVED)
def test_what_a_file_would_not_say_is_not_saved(message, tmp_path):
    model = make()
    NOT_SAVED[message](model)
    with pytest.raises(ValueError, match=message):
        model.save(tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_models_that_are_not_what_their_config_says_are_not_converted():
    model = make(activate_filters=False)
    CHANGES["activation"](model)
    with pytest.raises(ValueError, match=r"cannot be expressed by PyTorch Geometric's SchNet.*interactions\.1\.act"):
        model.to_pyg()
    with pytest.raises(ValueError, match=r"cannot be merged.*interactions\.1\.act is a SiLU"):
        join_ensemble([make(activate_filters=False), model])


def test_models_without_blocks_are_not_saved(tmp_path):
    model = make()
    none_left(model)
    with pytest.raises(ValueError, match=r"cannot be stored .*num_interactions must be a whole number, at least 1"):
        model.save(tmp_path / "model.safetensors")


@pytest.mark.parametrize("change", [appended, cut, deleted, inserted])
def test_lists_of_blocks_of_the_same_kind_are_saved(change, tmp_path):
    model = make()
    change(model)
    for block in model.interactions[:]:
        if not isinstance(block.conv.filter_network.basis.gamma, float):
            continue
        if block.conv.filter_network.basis.num_gaussians != 20:
            block.conv.filter_network = copy.deepcopy(make().interactions[0].conv.filter_network)
    state = torch.random.get_rng_state()
    model.eval().save(tmp_path / "model.safetensors")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(load(tmp_path / "model.safetensors")(Z, POS, BATCH), model(Z, POS, BATCH))


def test_hooks_do_not_matter_to_a_file(tmp_path):
    model = make()
    model.readout.register_forward_hook(lambda *_: None)
    model.note = "mine"
    check_described(model)
    model.save(tmp_path / "model.safetensors")


def test_classes_without_a_config_are_not_saved(tmp_path):
    with pytest.raises(ValueError, match="models of class Doubled cannot be stored in a model file"):
        _as(Doubled, make()).save(tmp_path / "model.safetensors")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_dynamic_quantisation():
    quantize_dynamic = pytest.importorskip("torch.ao.quantization").quantize_dynamic
    if "none" in torch.backends.quantized.engine:
        pytest.skip("this torch has no quantised layers")
    model = make().float()
    quantised = quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    expected = model(Z, POS.float(), BATCH)
    assert not any(type(module) is nn.Linear for module in quantised.modules())
    found = quantised(Z, POS.float(), BATCH)
    assert 0 < (found - expected).abs().max() < 0.1 * expected.abs().max()
    with pytest.raises(ValueError, match="quantised layers cannot be differentiated with respect to positions"):
        energy_forces_stress(quantised, Z, POS.float(), BATCH)


def test_state_dicts_of_other_sizes_are_errors():
    model, other = make(), SchNet(16, 32, 4, 20, 4.0)
    before = copy.deepcopy(model.state_dict())
    for strict in (True, False):
        with pytest.raises(RuntimeError, match=r"size mismatch for interactions\.0\.lin_in\.weight.*\[32, 16\]"):
            model.load_state_dict(other.state_dict(), strict=strict)
    model.load_state_dict(before)
    lacking = {key: value for key, value in before.items() if "lin1" not in key}
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: .*interactions\.0\.lin1\.weight"):
        model.load_state_dict(lacking)
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: \"more\""):
        model.load_state_dict({**before, "more": torch.ones(1)})
    found = model.load_state_dict({**lacking, "more": torch.ones(1)}, strict=False)
    assert (set(found.missing_keys), found.unexpected_keys) == (before.keys() - lacking.keys(), ["more"])
    with pytest.raises(RuntimeError, match=r"size mismatch for readout\.atomref"):
        model.load_state_dict({**before, "readout.atomref": torch.zeros(119, 1)})


def change_row(model):
    model.embedding.weight.data[6] = model.embedding.weight.data[14]


def change_array(model):
    model.interactions[2].lin2.weight.detach().numpy()[0, 0] += 1.0


def change_mask(model):
    model.interactions[0].conv.filter_network.lin1.weight.data[:4] = 0.0


def change_reference(model):
    model.readout.atomref.data[8] = -20.0


def change_last_bias(model):
    model.readout.network.lin2.bias.data[-1] += 1.0


def change_center(model):
    model.interactions[1].conv.filter_network.basis.centers.data[3] += 0.2


EDITS = [change_row, change_array, change_mask, change_reference, change_last_bias, change_center]


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("filters", ["auto", "exact"])
def test_every_change_of_a_weight_is_seen(edit, filters):
    model, fresh = make(filters=filters), make(filters=filters)
    before = energy_forces_stress(model, Z, POS, BATCH), model(Z, POS, BATCH)
    frozen = freeze(model)
    kept = energy_forces_stress(frozen, Z, POS, BATCH), frozen(Z, POS, BATCH)
    edit(model)
    edit(fresh)  # which has not been evaluated
    expected = energy_forces_stress(fresh, Z, POS, BATCH)
    found = energy_forces_stress(model, Z, POS, BATCH)
    torch.testing.assert_close(found.energy, expected.energy, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.forces, expected.forces, rtol=0, atol=1e-10)
    torch.testing.assert_close(model(Z, POS, BATCH), fresh(Z, POS, BATCH), rtol=0, atol=1e-10)
    assert not torch.allclose(found.energy, before[0].energy, atol=1e-8)
    # a copy that was frozen before does not change
    assert torch.equal(energy_forces_stress(frozen, Z, POS, BATCH).energy, kept[0].energy)
    torch.testing.assert_close(kept[0].energy, before[0].energy, rtol=0, atol=1e-10)
