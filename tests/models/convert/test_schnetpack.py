"""Parity with SchNetPack 2: with golden numbers everywhere, and with the package itself where it is installed."""

import importlib.util
import json

import pytest
import torch
from ase import Atoms
from safetensors import safe_open

from pyg_schnet import SchNet
from pyg_schnet.models.convert.schnetpack import from_schnetpack
from pyg_schnet.nn import DipoleReadout, MeanReadout, SumReadout
from tests.golden.make_schnetpack import CASES, FILE, build, evaluate

SCHNETPACK = importlib.util.find_spec("schnetpack") is not None


def arguments(options):
    readout = {"sum": "sum", "avg": "mean", "dipole": "dipole"}[options["mode"]]
    found = {"readout": readout, "activation": options["activation"]}
    if readout == "dipole":
        found |= {"magnitude": options.get("magnitude", False), "neutralize": options.get("correct", True)}
    return found


@pytest.fixture(scope="module")
def golden():
    with safe_open(FILE, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        metadata = file.metadata()
    assert json.loads(metadata["cases"]) == CASES, "the script has changed; run it again"
    assert FILE.stat().st_size < 100_000
    return tensors


def state_dict(golden, case):
    prefix = f"{case}/state/"
    return {key.removeprefix(prefix): value for key, value in golden.items() if key.startswith(prefix)}


def relative(actual, expected):
    """Largest difference, relative to the largest number."""
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def ours(case, state):
    """Our model with exact filters; splined ones have an error of their own."""
    model = from_schnetpack(state, **arguments(CASES[case]))
    model.filters = "exact"
    return model


def evaluate_ours(model, golden, name, dtype):
    pos = golden[f"{name}/pos"].to(dtype).requires_grad_()
    keywords = {}
    if name == "crystals":
        cell = golden["crystals/cell"].to(dtype)
        keywords = {"cell": cell, "pbc": torch.ones(len(cell), 3, dtype=torch.bool)}
    out = model(golden[f"{name}/z"], pos, golden[f"{name}/batch"], **keywords)
    return out.detach(), torch.autograd.grad(out.sum(), pos)[0]


@pytest.mark.parametrize(
    ("case", "name"),
    [(case, "molecules") for case in CASES]
    + [(case, "crystals") for case, options in CASES.items() if options["mode"] != "dipole"],
)
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_golden_numbers(golden, case, name, dtype, tol):
    model = ours(case, state_dict(golden, case)).to(dtype)
    output, gradient = evaluate_ours(model, golden, name, dtype)
    expected = golden[f"{case}/{name}/output"]
    assert relative(output.view_as(expected), expected) < tol
    assert relative(gradient, golden[f"{case}/{name}/gradient"]) < 10 * tol


def test_golden_structures_are_hard(golden):
    distance = torch.cdist(golden["molecules/pos"], golden["molecules/pos"])
    same = golden["molecules/batch"][:, None] == golden["molecules/batch"]
    assert int(((distance < 5.0) & same).sum(1).max()) - 1 > 32


def test_same_settings(golden):
    state = state_dict(golden, "sum-silu-offsets")
    model = SchNet.from_schnetpack(state)
    assert isinstance(model.readout, SumReadout)
    assert not model.training
    assert (model.hidden_channels, model.num_filters, model.num_interactions, model.num_gaussians) == (6, 5, 2, 10)
    assert model.cutoff == 5.0
    assert not model.activate_filters
    assert model.readout.shift.tolist() == pytest.approx([-3.2], rel=1e-6)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float64}
    assert isinstance(SchNet.from_schnetpack(state, readout="mean").readout, MeanReadout)
    assert isinstance(
        SchNet.from_schnetpack(state_dict(golden, "dipole-silu"), readout="dipole").readout, DipoleReadout
    )


def test_gaussians_may_start_anywhere(golden):
    state = state_dict(golden, "sum-silu-offsets")
    state["representation.radial_basis.offsets"] = state["representation.radial_basis.offsets"] + 0.3
    state["representation.radial_basis.widths"] = state["representation.radial_basis.widths"] * 1.5
    for block in from_schnetpack(state).interactions:
        basis = block.conv.filter_network.basis
        assert torch.equal(basis.centers, state["representation.radial_basis.offsets"])
        assert basis.gamma == pytest.approx(0.5 / (1.5 * 5.0 / 9) ** 2, rel=1e-6)


def test_can_be_saved(golden, tmp_path):
    model = from_schnetpack(state_dict(golden, "avg-ssp-offsets"), readout="mean", activation="ssp")
    again = SchNet.load(model.save(tmp_path / "model.safetensors"))
    assert torch.equal(*(evaluate_ours(m, golden, "molecules", torch.float64)[0] for m in (again, model)))


def test_bad_state_dicts(golden):
    state = state_dict(golden, "sum-silu-offsets")
    with pytest.raises(ValueError, match=r"no state dict of a SchNetPack 2 SchNet.*offsets.*missing"):
        from_schnetpack({})
    with pytest.raises(ValueError, match=r"has no place for: representation\.foo"):
        from_schnetpack({**state, "representation.foo": torch.zeros(1)})
    lacking = {key: value for key, value in state.items() if "f2out.1.bias" not in key}
    with pytest.raises(ValueError, match=r"missing \['interactions\.0\.lin2\.bias'"):
        from_schnetpack(lacking)
    widths = state["representation.radial_basis.widths"].clone()
    widths[0] *= 2
    with pytest.raises(ValueError, match="different widths"):
        from_schnetpack({**state, "representation.radial_basis.widths": widths})
    with pytest.raises(ValueError, match="readout must be 'sum', 'mean' or 'dipole', got 'avg'"):
        from_schnetpack(state, readout="avg")


@pytest.mark.skipif(not SCHNETPACK, reason="needs schnetpack 2.1")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_qm9_with_schnetpack_itself(case, dtype, tol, qm9_molecules, record_property):
    structures = [Atoms(data.z.numpy(), data.pos.numpy()) for data in qm9_molecules]
    theirs = build(**CASES[case], size=64, filters=64, gaussians=25, interactions=3, seed=7).to(dtype)
    expected, gradient = evaluate(theirs, structures)
    model = ours(case, theirs.state_dict())
    z = torch.cat([data.z for data in qm9_molecules])
    pos = torch.cat([data.pos for data in qm9_molecules]).to(dtype).requires_grad_()
    batch = torch.arange(len(structures)).repeat_interleave(torch.tensor([len(atoms) for atoms in structures]))
    out = model(z, pos, batch)
    differences = {
        "output": relative(out.detach().view_as(expected), expected),
        "gradient": relative(torch.autograd.grad(out.sum(), pos)[0], gradient),
    }
    record_property("differences", differences)
    print(case, dtype, differences)
    assert differences["output"] < tol
    assert differences["gradient"] < 10 * tol
