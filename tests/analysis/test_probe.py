import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from pyg_schnet import DTNN, SchNet
from pyg_schnet.analysis import Surface, atom_contributions, molecular_surface, probe_potential
from pyg_schnet.models.graph import prepare_edges
from pyg_schnet.neighbors.brute import brute_radius_graph
from pyg_schnet.nn import MeanReadout, SumReadout

F64 = torch.float64
CUTOFF = 4.0


def make_schnet(**kwargs):
    torch.manual_seed(0)
    settings = {"readout": SumReadout(8, scale=2.0, shift=-0.3), **kwargs}
    model = SchNet(8, 12, 3, 16, CUTOFF, **settings).to(F64)
    model.readout.set_references(torch.linspace(0.0, -5.0, 20, dtype=F64))
    with torch.no_grad():
        for parameter in model.parameters():  # biases too, so that nothing is zero by chance
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.card["unit"] = "eV"
    return model.eval()


def make_dtnn():
    torch.manual_seed(0)
    model = DTNN(6, 9, 3, 16, CUTOFF, window="cosine").to(F64)
    model.card["unit"] = "eV"
    return model.eval()


MODELS = {
    "schnet": make_schnet,
    "exact": lambda: make_schnet(filters="exact"),
    "chapter": lambda: make_schnet(normalize=True, window="hard"),
    "shared": lambda: make_schnet(shared_weights=True, num_grid_points=40, filters="spline"),
    "mean": lambda: make_mean(),
    "dtnn": make_dtnn,
}


def make_mean():
    model = make_schnet(readout=MeanReadout(8, scale=0.7))
    model.card["unit"] = "eV/atom"
    return model


def brute_force(model, atoms, number, points):
    """Energy of the last atom of the structure and a probe, without the edges that start at the probe."""
    energies = []
    for point in points:
        z = torch.tensor([*atoms.numbers, number])
        pos = torch.tensor(np.vstack([atoms.positions, point]), dtype=F64)
        cell = torch.tensor(atoms.cell.array[None], dtype=F64) if atoms.pbc.any() else None
        pbc = torch.tensor(atoms.pbc[None]) if atoms.pbc.any() else None
        edge_index, edge_shift = brute_radius_graph(pos, model.cutoff, cell=cell, pbc=pbc)
        kept = edge_index[0] < len(atoms)
        edge_shift = None if cell is None else edge_shift[kept]
        graph = {"edge_index": edge_index[:, kept], "edge_shift": edge_shift, "cell": cell, "batch_size": 1}
        edges = prepare_edges(z, pos, torch.zeros_like(z), model.cutoff, **graph)
        with torch.no_grad():
            energies.append(float(model.readout.atom_values(model.represent(z, edges), z)[-1, 0]))
    return np.array(energies)


def random_points(atoms, n=20, spread=2.0, seed=0):
    random = np.random.default_rng(seed)
    return atoms.positions[random.integers(len(atoms), size=n)] + random.normal(0.0, spread, (n, 3))


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


@pytest.mark.parametrize("probe", ["H", 8])
def test_equals_a_probe_whose_edges_are_cut(model, ethanol, probe):
    points = np.vstack(
        [random_points(ethanol), [[0.0, 0.0, 50.0]], ethanol.positions[:1]]
    )  # no neighbours; on a nucleus
    result = probe_potential(model, ethanol, probe, points=points)
    expected = brute_force(model, ethanol, 1 if probe == "H" else 8, points)
    np.testing.assert_allclose(result.energies, expected, rtol=0, atol=1e-10)
    assert np.ptp(expected) > 1e-3
    np.testing.assert_array_equal(result.points, points)


@pytest.mark.parametrize("structure", ["small_cell", "triclinic", "slab"])
def test_equals_brute_force_in_crystals(model, structure, request):
    atoms = request.getfixturevalue(structure)
    points = np.vstack([random_points(atoms, 6, 4.0), atoms.positions[0] + 3 * atoms.cell[0] - atoms.cell[1] + 0.5])
    result = probe_potential(model, atoms, "O", points=points)
    np.testing.assert_allclose(result.energies, brute_force(model, atoms, 8, points), rtol=0, atol=1e-10)
    moved = probe_potential(model, atoms, "O", points=points + atoms.cell.array[0] - 2 * atoms.cell.array[1])
    np.testing.assert_allclose(moved.energies, result.energies, rtol=0, atol=1e-10)


def test_supercells_have_the_same_potential(small_cell):
    model, points = make_schnet(), random_points(small_cell)
    once, often = (probe_potential(model, atoms, points=points) for atoms in (small_cell, small_cell.repeat((2, 1, 3))))
    np.testing.assert_allclose(once.energies, often.energies, rtol=0, atol=1e-10)


def test_a_probe_in_empty_space_is_an_isolated_atom(model):
    far = probe_potential(model, molecule("H2O"), "C", points=[[100.0, 0.0, 0.0]])
    alone = atom_contributions(model, Atoms("C"))
    np.testing.assert_allclose(far.energies, alone.energies, rtol=0, atol=1e-12)
    np.testing.assert_allclose(far.reference, alone.references[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(far.without_reference, alone.without_references, rtol=0, atol=1e-12)


@pytest.mark.parametrize("memory", [1e-9, 0.05, 1.0])
def test_parts_do_not_change_results(model, ethanol, memory):
    points = random_points(ethanol, 50)
    whole = probe_potential(model, ethanol, points=points)
    parts = probe_potential(model, ethanol, points=points, memory=memory)
    np.testing.assert_allclose(parts.energies, whole.energies, rtol=0, atol=1e-12)


def test_rotations_and_permutations(ethanol):
    model, points = make_schnet(), random_points(ethanol)
    energies = probe_potential(model, ethanol, points=points).energies
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]  # a reflection, perhaps
    turned = ethanol[np.random.default_rng(2).permutation(len(ethanol))]
    turned.positions = turned.positions @ rotation + [5.0, -3.0, 1.0]
    again = probe_potential(model, turned, points=(points @ rotation + [5.0, -3.0, 1.0])[::-1].copy())
    np.testing.assert_allclose(again.energies[::-1], energies, rtol=0, atol=1e-10)


def test_points_may_be_tensors_and_none(water):
    points = random_points(water, 3)
    arrays = probe_potential(make_schnet(), water, points=points)
    tensors = probe_potential(make_schnet(), water, points=torch.tensor(points, dtype=torch.float32))
    np.testing.assert_allclose(tensors.energies, arrays.energies, atol=1e-5)
    assert probe_potential(make_schnet(), water, points=np.zeros((0, 3))).energies.shape == (0,)


def test_units_are_converted_and_the_model_stays_as_it_is(water):
    model = make_schnet().float().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    points = random_points(water)
    in_ev = probe_potential(model, water, points=points)
    model.card["unit"] = "kcal/mol"
    in_kcal = probe_potential(model, water, points=points)
    np.testing.assert_allclose(in_kcal.energies, 0.0433641039 * in_ev.energies, rtol=1e-8)
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    for array in (in_ev.energies, in_ev.points, in_ev.positions):
        assert array.dtype == np.float64


def test_isosurfaces_are_points_with_faces(water):
    pytest.importorskip("skimage")
    model, surface = make_schnet(), molecular_surface(water)
    default = probe_potential(model, water)
    for result in (
        default,
        probe_potential(model, water, isosurface=3.8),
        probe_potential(model, water, isosurface=surface),
    ):
        np.testing.assert_array_equal(result.points, surface.vertices)
        np.testing.assert_array_equal(result.surface.faces, surface.faces)
        np.testing.assert_array_equal(result.energies, probe_potential(model, water, points=surface.vertices).energies)
    assert probe_potential(model, water, points=surface.vertices).surface is None
    wider = probe_potential(model, water, isosurface=1.0)
    assert np.ptp(wider.points, axis=0).min() > np.ptp(default.points, axis=0).min()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": [0.0, 1.0, 2.0]}, r"\[P, 3\]; got shape \[3\]"),
        ({"points": [[0.0, 1.0, np.nan]]}, "finite"),
        ({"points": [[0.0, 1.0, 2.0]], "isosurface": 3.8}, "give one of them"),
        ({"points": [[0.0, 1.0, 2.0]], "probe": "Xx"}, "got 'Xx'"),
        ({"points": [[0.0, 1.0, 2.0]], "probe": 100}, "up to Z = 99, got 100"),
        ({"points": [[0.0, 1.0, 2.0]], "probe": "N"}, "not trained on N"),
        ({"points": [[0.0, 1.0, 2.0]], "unit": "kcal/mol"}, "contradicts"),
        ({"points": [[0.0, 1.0, 2.0]], "memory": 0}, "memory must be a positive"),
    ],
)
def test_wrong_input_is_told(water, options, message):
    model = make_schnet()
    model.card["elements"] = ["H", "C", "O"]
    with pytest.raises(ValueError, match=message):
        probe_potential(model, water, **options)


def test_wrong_models_are_told(water):
    points = [[0.0, 0.0, 2.0]]
    with pytest.raises(TypeError, match="needs a model of this package, got Linear"):
        probe_potential(torch.nn.Linear(3, 3), water, points=points)
    model = make_schnet()
    model.interactions[1] = torch.nn.Identity()
    with pytest.raises(TypeError, match="this model has Identity"):
        probe_potential(model, water, points=points)
    with pytest.raises(ValueError, match="energies per atom"):
        probe_potential(SchNet(8, 8, 1, readout="dipole"), water, points=points, unit="D")


def test_surfaces_can_be_made_by_hand(water):
    corners = Surface(np.eye(3) * 3, np.array([[0, 1, 2]]))
    assert probe_potential(make_schnet(), water, isosurface=corners).surface is corners
