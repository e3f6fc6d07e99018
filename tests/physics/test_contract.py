"""What every model must respect, whatever its weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyg_schnet import DTNN, SchNet, radius_graph
from pyg_schnet import testing as contract
from pyg_schnet.nn import DipoleReadout

F64 = torch.float64
CUTOFF = 3.5
SIZES = {"hidden_channels": 8, "num_interactions": 2, "num_gaussians": 8, "cutoff": CUTOFF}
EXACT = {"num_filters": 6, "filters": "exact", **SIZES}
SPLINE = {**EXACT, "filters": "spline"}
MODELS = {
    "schnet": lambda readout: SchNet(readout=readout, **EXACT),
    "schnet-pyg": lambda readout: SchNet(readout=readout, activate_filters=False, **EXACT),
    "schnet-crystals": lambda readout: SchNet(readout=readout, window="hard", normalize=True, **EXACT),
    "schnet-spline": lambda readout: SchNet(readout=readout, **SPLINE),
    "schnet-spline-hard": lambda readout: SchNet(readout=readout, window="hard", normalize=True, **SPLINE),
    "dtnn": lambda readout: DTNN(num_factors=6, readout=readout, **SIZES),
    "dtnn-cosine": lambda readout: DTNN(num_factors=6, readout=readout, window="cosine", **SIZES),
}
READOUTS = {
    "sum": lambda: "sum",
    "mean": lambda: "mean",
    "dipole": lambda: "dipole",
    "dipole-vector": lambda: DipoleReadout(8, magnitude=False),
    "spatial-extent": lambda: "spatial_extent",
}
SMOOTH = ("schnet", "schnet-pyg", "schnet-spline", "dtnn-cosine")


def build(name, readout="sum"):
    torch.manual_seed(0)
    model = MODELS[name](READOUTS[readout]())
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("bias"):
                parameter.normal_(std=0.2)
    return model.double()


@pytest.fixture(params=[(name, readout) for name in MODELS for readout in READOUTS], ids="-".join)
def model_and_vector(request):
    name, readout = request.param
    return build(name, readout), readout == "dipole-vector"


@pytest.fixture(params=MODELS)
def model(request):
    return build(request.param)


def test_rotation(model_and_vector, molecules):
    model, vector = model_and_vector
    contract.check_rotation(model, **molecules, vector=vector)


def test_reflection(model_and_vector, molecules):
    model, vector = model_and_vector
    contract.check_reflection(model, **molecules, vector=vector)


def test_translation(model_and_vector, molecules):
    contract.check_translation(model_and_vector[0], **molecules)


def test_permutation(model_and_vector, molecules):
    contract.check_permutation(model_and_vector[0], **molecules)


def test_batching(model_and_vector, molecules):
    contract.check_batching(model_and_vector[0], **molecules)


def test_dense_cluster(model, dense_cluster, tensors):
    structure = tensors(dense_cluster)
    contract.check_rotation(model, **structure)
    contract.check_permutation(model, **structure)


@pytest.mark.parametrize("name", MODELS)
def test_extensivity(name, molecules):
    contract.check_extensivity(build(name, "sum"), **molecules)
    with pytest.raises(AssertionError, match="far fragments"):
        contract.check_extensivity(build(name, "mean"), **molecules)


@pytest.mark.parametrize("name", MODELS)
def test_smoothness_at_the_cutoff(name):
    if name in SMOOTH:
        contract.check_smoothness(build(name), CUTOFF)
    else:
        with pytest.raises(AssertionError, match="not smooth at the cutoff"):
            contract.check_smoothness(build(name), CUTOFF)


def test_derivatives(model_and_vector, tensors, ethanol):
    # four atoms without symmetry: no dipole vanishes, no distance is at the cutoff
    contract.check_derivatives(model_and_vector[0], **tensors(ethanol[[0, 1, 2, 3]]))


def test_gradients_are_finite(model_and_vector, molecules):
    contract.check_finite_gradients(model_and_vector[0], **molecules)


def test_gradients_of_coincident_atoms(model_and_vector):
    z = torch.tensor([6, 6, 8, 1, 1])
    pos = torch.tensor([[0.0, 0, 0], [0, 0, 0], [0, 0, 1.2], [5, 5, 5], [5, 5, 5]], dtype=F64)
    contract.check_finite_gradients(model_and_vector[0], z, pos, torch.tensor([0, 0, 0, 1, 1]))


def test_gradients_with_padding(model_and_vector):
    z = torch.tensor([6, 8, 0, 0, 0])
    pos = torch.tensor([[0.0, 0, 0], [0, 0, 1.2], [0, 0, 0], [0, 0, 0], [0, 0, 0]], dtype=F64)
    contract.check_finite_gradients(model_and_vector[0], z, pos, torch.tensor([0, 0, 0, 1, 1]))


def test_gradients_without_edges(model_and_vector):
    z, pos = torch.tensor([6, 8]), torch.tensor([[0.0, 0, 0], [0, 0, 50.0]], dtype=F64)
    contract.check_finite_gradients(model_and_vector[0], z, pos)
    contract.check_finite_gradients(model_and_vector[0], z, pos, torch.tensor([0, 1]))


def test_gradients_of_a_symmetric_molecule(model_and_vector):
    z, pos = torch.tensor([6, 8, 8]), torch.tensor([[0.0, 0, 0], [0, 0, 1.2], [0, 0, -1.2]], dtype=F64)
    contract.check_finite_gradients(model_and_vector[0], z, pos)


def test_given_edges_are_the_built_ones(model_and_vector, molecules):
    model, _ = model_and_vector
    edge_index = radius_graph(molecules["pos"], CUTOFF, molecules["batch"])
    torch.testing.assert_close(model(**molecules, edge_index=edge_index), model(**molecules), rtol=1e-12, atol=1e-12)


def test_float32_is_close(model_and_vector, molecules):
    model, _ = model_and_vector
    expected = model(**molecules)
    single = model.float()(molecules["z"], molecules["pos"].float(), molecules["batch"])
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=2e-5, atol=2e-5)


@st.composite
def structures(draw):
    """Up to four structures of up to five atoms, some atoms close together, some far apart."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=2, max_size=4))
    n = sum(sizes)
    coordinate = st.floats(-4, 4, allow_nan=False, width=32)
    pos = draw(st.lists(st.tuples(coordinate, coordinate, coordinate), min_size=n, max_size=n))
    z = draw(st.lists(st.integers(1, 99), min_size=n, max_size=n))
    batch = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return {"z": torch.tensor(z), "pos": torch.tensor(pos, dtype=F64), "batch": batch}


@settings(max_examples=25)
@given(structures())
@pytest.mark.parametrize("name", SMOOTH)
def test_any_structure(name, structure):
    model = build(name)
    contract.check_rotation(model, **structure)
    contract.check_reflection(model, **structure)
    contract.check_translation(model, **structure)
    contract.check_permutation(model, **structure)
    contract.check_batching(model, **structure)
    contract.check_extensivity(model, **structure, tol=1e-9)
    contract.check_finite_gradients(model, **structure)
