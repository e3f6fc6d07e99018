"""Every row of the tables of conditions: a case in which it is the reason, and the numbers are right all the same."""

import copy

import pytest
import torch
from torch import nn

from pyg_schnet import SchNet, radius_graph
from pyg_schnet.backends import tuning
from pyg_schnet.derivatives import energy_forces_stress
from pyg_schnet.engine.cache import Facts
from pyg_schnet.engine.eligibility import CALL_ROWS, MODEL_ROWS, PROGRAMS, Parts
from pyg_schnet.nn import MaxReadout

from .models import F64, POS, Z, assert_right, by_layers, make


class Doubled(nn.Embedding):
    def forward(self, z):
        return 2.0 * super().forward(z)


class Subclass(SchNet):
    def represent(self, z, edges):
        return 2.0 * super().represent(z, edges)


def double(module, args, out):
    return 2.0 * out


def exchange_embedding(model):
    weights = model.embedding.state_dict()
    model.embedding = Doubled(100, 16, padding_idx=0).to(F64)
    model.embedding.load_state_dict(weights)


def replace_block(model):
    model.interactions[1] = make(num_grid_points=30).interactions[1]


# the condition, a change of the model that breaks it, and words of the reason
OF_MODELS = [
    ("embedding gives", exchange_embedding, "embedding is a Doubled"),
    ("embedding gives", lambda m: m.embedding.register_forward_hook(double), "embedding has a forward hook"),
    ("embedding gives", lambda m: setattr(m.embedding, "max_norm", 0.5), "embedding has max_norm=0.5"),
    (
        "blocks and all",
        lambda m: m.interactions[2].lin1.register_forward_hook(double),
        "interactions.2.lin1 has a forward",
    ),
    ("blocks and all", lambda m: setattr(m.interactions[0], "act", nn.SiLU()), "interactions.0.act is a SiLU"),
    (
        "blocks and all",
        lambda m: setattr(m.interactions[1].lin2, "forward", torch.tanh),
        "lin2 has a forward of its own",
    ),
    (
        "blocks and all",
        lambda m: nn.utils.parametrize.register_parametrization(m.interactions[1].lin2, "weight", nn.Tanh()),
        r"interactions.1.lin2 is a ParametrizedLinear",
    ),
    ("filters of all", lambda m: setattr(m.interactions[1].conv, "filters", "exact"), "interactions.1.conv has exact"),
    ("weights are", lambda m: setattr(m.interactions[1].lin2, "bias", None), "interactions.1.b2 is missing"),
    (
        "same sizes",
        lambda m: setattr(m, "interactions", nn.ModuleList([*m.interactions[:1], _wider(m)])),
        "interactions differ in size",
    ),
    ("same options", replace_block, "interactions differ in the grid"),
    ("same options", lambda m: setattr(m.interactions[1].conv, "normalize", True), "interactions differ in normalize"),
    ("model itself", lambda m: setattr(m, "__class__", Subclass), "Subclass is subclassed, hooked"),
    ("model itself", lambda m: m.register_forward_hook(double), "SchNet is subclassed, hooked"),
    ("evaluation mode", lambda m: m.readout.train(), "a part of it, is in training mode"),
    ("readout is", lambda m: setattr(m, "readout", MaxReadout(16).to(F64)), "readout is a MaxReadout"),
    (
        "readout is",
        lambda m: m.readout.network.lin1.register_forward_hook(double),
        "readout.network.lin1 has a forward",
    ),
]


def _wider(model):
    block = copy.deepcopy(model.interactions[1])
    block.lin_in, block.lin1 = nn.Linear(16, 9, bias=False).to(F64), nn.Linear(9, 16).to(F64)
    network = block.conv.filter_network
    network.lin1, network.lin2, network.num_filters = nn.Linear(20, 9).to(F64), nn.Linear(9, 9).to(F64), 9
    return block


@pytest.mark.parametrize(("condition", "change", "reason"), OF_MODELS)
def test_rows_of_models(condition, change, reason):
    model = make()
    assert model.plan(Z, POS, forces=True) == model.plan(Z, POS, forces=True)
    assert model.plan(Z, POS, forces=True).program == "potential"
    energy_forces_stress(model, Z, POS)  # so that something is kept
    change(model)
    (row,) = [row for row in MODEL_ROWS if condition in row.condition]
    found = list(row.find(Parts.of(model)))
    assert any(reason in one for one in found)
    plan = model.plan(Z, POS, forces=True)
    assert set(found) <= set(plan.reasons)
    assert plan.program not in row.bars
    assert_right(model, rtol=1e-6 if condition == "evaluation mode" else 1e-9)


def test_rows_of_models_are_all_tested():
    words = {condition for condition, *_ in OF_MODELS} | {"memory of the CPU"}  # see test_devices.py
    assert all(any(word in row.condition for word in words) for row in MODEL_ROWS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_that_kernels_do_not_take(dtype):
    (row,) = [row for row in MODEL_ROWS if "weights are" in row.condition]
    model = make()
    model.interactions[2].conv.filter_network.lin1.to(dtype)
    found = list(row.find(Parts.of(model)))
    assert found[0] == f"interactions.2.conv.filter_network.lin1.weight is {dtype} on cpu, of type Parameter"


def rows(word):
    (row,) = [row for row in CALL_ROWS if word in row.condition]
    return row


def request(facts, **changes):
    return facts.request(**{"z": Z, "real": POS, "gradients": True, "half_list": True, "num_edges": 15, **changes})


FLAT = torch.zeros(0, dtype=torch.int64)
OF_CALLS = [
    ("backend allows", {"backend": "reference"}, "backend is 'reference'"),
    ("atoms are where", {"z": FLAT}, "there are no atoms"),
    ("atoms are where", {"real": POS.float()}, "positions are not torch.float64"),
    ("both directions", {"half_list": False}, "edges are not a sorted list"),
    ("has an embedding", {"z": Z + 99, "gradients": False}, "an atomic number has no embedding"),
    ("forces or stress", {"gradients": False}, "neither forces nor stress"),
    ("forces or stress", {"differentiable": True}, "are to be differentiated again"),
    ("is small", {"num_edges": 10**8}, "the structure is large"),
    ("periodic", {"periodic_search": True}, "edges of periodic structures are not given"),
]


@pytest.mark.parametrize(("condition", "changes", "reason"), OF_CALLS)
def test_rows_of_calls(condition, changes, reason):
    facts = Facts.of(make())
    assert not list(rows(condition).find(facts, request(facts)))
    found = list(rows(condition).find(facts, request(facts, **changes)))
    assert [one for one in found if reason in one]


def test_many_atoms():
    facts, row, large = Facts.of(make()), rows("many atoms"), {"num_edges": 10**8}
    assert list(row.find(facts, request(facts, **large))) == [""]  # no reason to tell: it is no faster for few atoms
    with tuning.changed(recompute_atoms=len(Z)):
        assert not list(row.find(facts, request(facts, **large)))
        assert list(row.find(facts, request(facts))) == [""]
        assert list(row.find(facts, request(facts, **large, gradients=False))) == [""]


def test_rows_of_calls_are_all_tested():
    words = {condition for condition, *_ in OF_CALLS} | {"only autograd", "autocast", "whole potential", "many atoms"}
    assert all(any(word in row.condition for word in words) for row in CALL_ROWS)
    assert all(row.bars < set(PROGRAMS) and "layers" not in row.bars for row in (*MODEL_ROWS, *CALL_ROWS))


def test_what_follows_a_computation():
    model, facts, seen = make(), Facts.of(make()), []

    def energy(pos):
        seen.extend(rows("only autograd").find(facts, request(facts)))
        return model(Z, pos).sum()

    slopes = torch.func.grad(energy)(POS)
    assert "torch.func" in seen[0]
    torch.testing.assert_close(slopes, -energy_forces_stress(by_layers(model), Z, POS).forces, rtol=1e-9, atol=1e-9)
    with torch.autocast("cpu"):
        assert list(rows("autocast").find(facts, request(facts))) == ["autocast is enabled"]
        assert_right(model)


def test_calls_that_take_other_programs_give_the_same():
    model, index = make(), radius_graph(POS, 4.0)
    assert_right(model, edge_index=index.flip(1))  # not sorted
    assert_right(model, edge_index=index[:, 1:])  # directed
    for z in (Z, torch.cat([Z[:-1], Z.new_zeros(1)])):  # the last one is padding
        assert_right(model, z=z)
    found = energy_forces_stress(model, Z, POS, create_graph=True)
    torch.testing.assert_close(found.forces, energy_forces_stress(model, Z, POS).forces, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="z must lie between 0"):
        model(Z + 99, POS)
