"""What a model says of how it computes a call, and that it computes it so."""

import pytest
import torch

from pyg_schnet import DTNN, SchNet, load, radius_graph
from pyg_schnet.derivatives import energy_forces_stress
from pyg_schnet.engine import cache
from pyg_schnet.engine.cache import Facts
from pyg_schnet.engine.frozen import freeze
from pyg_schnet.engine.plan import Plan, choose

from .models import POS, Z, make


@pytest.fixture
def ran(monkeypatch):
    """Names of the programs that ran."""
    names = []
    for name in ("potential", "interactions"):
        program = getattr(cache, name)
        monkeypatch.setattr(cache, name, lambda *a, _run=program, _name=name, **k: names.append(_name) or _run(*a, **k))
    return names


@pytest.mark.parametrize(
    "options", [{}, {"filters": "exact"}, {"backend": "reference"}, {"readout": "dipole"}], ids=str
)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("forces", [False, True])
@pytest.mark.parametrize("create_graph", [False, True])
def test_the_plan_is_what_runs(create_graph, forces, training, options, ran):
    model = make(**options).train(training)
    plan = model.plan(Z, POS, forces=forces, create_graph=create_graph)
    if forces:
        energy_forces_stress(model, Z, POS, create_graph=create_graph)
    else:
        model(Z, POS)
    assert (ran or ["layers"]) == [plan.program]
    assert (plan.reasons == ()) == (plan.program == "potential")
    assert plan.filters == ("exact" if options.get("filters") == "exact" else "spline")
    assert plan.backend == ("reference" if options.get("backend") == "reference" else "numba")


def test_repr():
    model = make()
    plan = "Plan(program='potential', filters='spline', backend='numba', reasons=())"
    assert repr(model.plan(Z, POS, stress=True)) == plan
    model.interactions[1].conv.filters = "exact"
    assert model.plan(Z, POS).filters == "mixed"


def test_reasons_say_why_not_a_faster_one():
    model = make()
    assert model.plan(Z, POS) == Plan(
        "interactions", "spline", "numba", ("neither forces nor stress are asked for with the energy",)
    )
    model.interactions[2].lin1.register_forward_hook(lambda *_: None)
    model.readout.network.lin1.register_forward_hook(lambda *_: None)
    assert model.plan(Z, POS, forces=True).reasons == ("interactions.2.lin1 has a forward hook",)
    model.train()
    index = radius_graph(POS, 4.0)
    assert len(model.plan(Z, POS, edge_index=index.flip(1), forces=True).reasons) == 2


def test_filters_depend_on_the_model_alone():
    model = make()
    for dtype in (torch.float32, torch.float64):
        for training in (True, False):
            model.to(dtype).train(training)
            assert model.plan(Z, POS.to(dtype)).filters == "spline"
    assert make(trainable_gaussians=True).plan(Z, POS).filters == "exact"


def test_it_is_a_pure_function_of_facts_and_request():
    model = make()
    facts = Facts.of(model)
    request = facts.request(Z, POS, gradients=True, half_list=True, num_edges=15)
    first = choose(facts, request)
    model.interactions[0].lin1.register_forward_hook(lambda *_: None)
    assert choose(facts, request) == first
    assert choose(Facts.of(model), request).program == "layers"


def test_other_models():
    torch.manual_seed(0)
    plan = DTNN(16, 12, 2, cutoff=4.0).eval().plan(Z, POS.float(), forces=True)
    assert (plan.program, plan.filters) == ("layers", "exact")
    assert plan.reasons[0] == "interactions.0 is a DTNNInteraction"
    assert freeze(make()).plan(Z, POS, forces=True).program == "potential"


def test_backend_is_a_way_and_no_option(tmp_path):
    model = SchNet(16, 16, 2, 20, 4.0, backend="reference")
    assert model.backend == model.interactions[0].conv.backend == "reference"
    assert "backend" not in model.config
    again = SchNet(**model.config)
    assert again.backend == "auto"
    model.backend = "auto"
    assert model.interactions[0].conv.backend == "auto"
    model.backend = "numba"
    with pytest.raises(ValueError, match="backend must be one of auto, reference, numba, triton, got 'cuda'"):
        model.backend = "cuda"
    assert load(model.save(tmp_path / "model.safetensors")).backend == "auto"


def test_pyg_models_say_it_as_well():
    torch.manual_seed(0)
    model = SchNet.like_pyg(16, 12, 2, 20, 4.0)
    plan = model.plan(Z, POS.float())
    assert (plan.program, plan.filters) == ("interactions", "spline")
    model.interactions[1].act = torch.nn.SiLU()
    plan = model.plan(Z, POS.float())
    assert (plan.program, plan.filters) == ("layers", "exact")
    assert plan.reasons[0].startswith("PyTorch Geometric's own forward pass is taken: filters='exact', or a part")


def test_a_frozen_model_chooses_once(monkeypatch):
    chosen = []
    monkeypatch.setattr(cache, "choose", lambda *asked: chosen.append(asked) or choose(*asked))
    frozen = freeze(make())
    for _ in range(3):
        energy_forces_stress(frozen, Z, POS)
    assert len(chosen) == 1
    energy_forces_stress(frozen, Z, POS, forces=False)  # another request
    assert len(chosen) == 2


def test_plans_are_kept_with_what_is_known_of_the_model(ran):
    model = make()
    energy_forces_stress(model, Z, POS)
    model.interactions[1].lin1.register_forward_hook(lambda *_: None)
    energy_forces_stress(model, Z, POS)
    with torch.autocast("cpu"):
        model(Z, POS)
    assert ran == ["potential"]


@pytest.mark.parametrize("training", [False, True])
def test_a_change_of_the_grid_is_seen(training):
    model = make().train(training)
    before = model(Z, POS)
    for block in model.interactions:
        block.conv.spline.tolerance = 1e-2
    assert (model(Z, POS) - before).abs().max() > 0
    other = make(backend="reference").train(training)
    for block in other.interactions:
        block.conv.spline.tolerance = 1e-2
    torch.testing.assert_close(model(Z, POS), other(Z, POS), rtol=1e-9, atol=1e-9)
