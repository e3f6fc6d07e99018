import builtins

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from pyg_schnet.analysis import molecular_surface
from pyg_schnet.analysis.surface import _margin


def edge_counts(faces):
    """How often each edge is in a face in one direction, and in either."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    count = [np.unique(e, axis=0, return_counts=True)[1] for e in (edges, np.sort(edges, axis=1))]
    return count[0], count[1]


def enclosed(surface):
    """Volume, positive if faces are counter-clockwise from outside."""
    corners = surface.vertices[surface.faces]
    return np.linalg.det(corners).sum() / 6


def outward(surface, atoms, reach=None):
    """Part of the area whose normal points where the sum falls."""
    corners = surface.vertices[surface.faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    step = 1e-4 * normal / np.linalg.norm(normal, axis=1, keepdims=True).clip(1e-12)
    middle, area = corners.mean(1), np.linalg.norm(normal, axis=1)
    falls = level_of(middle + step, atoms, reach) < level_of(middle - step, atoms, reach)
    return area[falls].sum() / area.sum()


def level_of(points, atoms, reach=None):
    """The sum in the words of the docstring, over 7 images along each periodic axis."""
    counts = np.where(atoms.pbc, 7, 1)
    images = atoms.repeat(counts)
    images.positions -= (counts // 2) @ atoms.cell.array
    dist = np.linalg.norm(points[:, None] - images.positions, axis=-1)
    window = 1.0 if reach is None else np.where(dist < reach, 0.5 * (np.cos(np.pi * dist / reach) + 1), 0.0)
    return (window / dist**2).sum(1)


@pytest.fixture
def skimage():
    return pytest.importorskip("skimage", reason="needs scikit-image: pip install pyg_schnet[analysis]")


@pytest.mark.usefixtures("skimage")
@pytest.mark.parametrize("level", [3.8, 4.0, 0.5])
def test_around_one_atom_it_is_a_sphere(isolated_atom, level):
    surface = molecular_surface(isolated_atom, level, spacing=0.1)  # at level 4 points of the grid are on the surface
    radius = np.linalg.norm(surface.vertices - isolated_atom.positions[0], axis=1)
    np.testing.assert_allclose(radius, level**-0.5, atol=1e-12)
    assert enclosed(surface) == pytest.approx(4 / 3 * np.pi * level**-1.5, rel=0.03)
    assert surface.vertices.dtype == np.float64
    assert surface.faces.dtype == np.int64


@pytest.mark.usefixtures("skimage")
@pytest.mark.parametrize("name", ["H2O", "CH3CH2OH", "C6H6", "HCN"])
@pytest.mark.parametrize("turned", [False, True])
def test_meshes_are_closed_and_on_the_surface(name, turned):
    atoms = molecule(name)  # as they come, they have planes of symmetry along the axes
    if turned:
        atoms.euler_rotate(20.0, 50.0, 110.0)
    surface = molecular_surface(atoms, spacing=0.25)
    np.testing.assert_allclose(level_of(surface.vertices, atoms), 3.8, rtol=1e-10)
    directed, undirected = edge_counts(surface.faces)
    assert set(directed) == {1}  # neighbours agree which side is outside
    assert set(undirected) == {2}
    assert set(surface.faces.ravel()) == set(range(len(surface.vertices)))
    assert enclosed(surface) > 0
    assert outward(surface, atoms) > 0.999
    assert len(surface.vertices) - len(surface.faces) // 2 == 2  # a sphere with no handles


@pytest.mark.usefixtures("skimage")
def test_distant_molecules_have_two_surfaces(water):
    atoms = water.copy()
    atoms.translate([0.0, 0.0, 30.0])
    both, one = molecular_surface(water + atoms, spacing=0.3), molecular_surface(water, spacing=0.3)
    assert set(edge_counts(both.faces)[1]) == {2}
    assert len(both.vertices) - len(both.faces) // 2 == 4  # two spheres
    assert enclosed(both) == pytest.approx(2 * enclosed(one), rel=0.02)


@pytest.mark.usefixtures("skimage")
@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("side", [-1, 1])
def test_a_dense_end_has_room_on_its_side(axis, side):
    # twelve atoms close together on one side, one atom far away on the other: the surface reaches 1.8 and 0.5 Å out
    positions = 0.2 * np.random.default_rng(0).normal(size=(13, 3))
    positions[12] = 0.0
    positions[12, axis] = 9.0 * side
    surface = molecular_surface(Atoms("H13", positions), spacing=0.3)
    assert all((counts == n).all() for counts, n in zip(edge_counts(surface.faces), (1, 2), strict=True))
    reach = side * positions[:12, axis].mean() - (side * surface.vertices[:, axis]).min()
    assert reach == pytest.approx((12 / 3.8) ** 0.5, abs=0.1)


def test_surfaces_turn_with_the_molecule(ethanol):
    """The grid turns not, so that meshes differ, but not what they enclose."""
    volumes = []
    for angle in (0.0, 40.0):
        atoms = ethanol.copy()
        atoms.rotate(angle, (1, 2, 3))
        volumes.append(enclosed(molecular_surface(atoms, spacing=0.15)))
    assert volumes[0] == pytest.approx(volumes[1], rel=2e-3)


@pytest.mark.usefixtures("skimage")
@pytest.mark.parametrize("structure", ["triclinic", "left_handed", "slab", "chain"])
def test_periodic_surfaces_fit_together(structure, request):
    if structure == "left_handed":
        atoms = request.getfixturevalue("triclinic")
        atoms.set_cell(atoms.cell.array[[1, 0, 2]])
    elif structure == "chain":
        atoms = Atoms("CH", [[0.0, 0.0, 0.0], [0.0, 0.0, 1.1]], cell=[[0, 0, 2.5], [0, 0, 0], [0, 0, 0]], pbc=[1, 0, 0])
    else:
        atoms = request.getfixturevalue(structure)
    surface = molecular_surface(atoms, spacing=0.3)
    np.testing.assert_allclose(level_of(surface.vertices, atoms, reach=3.0), 3.8, rtol=1e-10)
    assert outward(surface, atoms, reach=3.0) > 0.999
    frac = np.linalg.solve(atoms.cell.complete().array.T, surface.vertices.T).T
    assert np.abs(frac[:, atoms.pbc] - 0.5).max() < 0.52  # one cell, but for what Newton steps moved
    assert set(edge_counts(surface.faces)[1]) == {1, 2}
    wrapped = np.round(np.where(atoms.pbc, frac + 1e-4, frac) / 1e-6).astype(int)
    wrapped = np.where(atoms.pbc, wrapped % 1000000, wrapped)
    _, same = np.unique(wrapped // 10, axis=0, return_inverse=True)
    directed, undirected = edge_counts(same.reshape(-1)[surface.faces])
    assert set(directed) == {1}
    assert set(undirected) == {2}  # closed, once opposite sides are one


@pytest.mark.usefixtures("skimage")
def test_wrapped_atoms_have_the_same_surface(triclinic):
    moved = triclinic.copy()
    moved.positions[1] += moved.cell.array[0] - 2 * moved.cell.array[2]
    surfaces = [molecular_surface(atoms, spacing=0.3) for atoms in (triclinic, moved)]
    np.testing.assert_allclose(surfaces[0].vertices, surfaces[1].vertices, atol=1e-6)
    np.testing.assert_array_equal(surfaces[0].faces, surfaces[1].faces)


@pytest.mark.usefixtures("skimage")
def test_crystals_without_such_a_surface():
    diamond = bulk("C")
    with pytest.raises(ValueError, match=r"no surface at level 3.8 Å⁻²: .* between [\d.]+ and inf Å⁻²; choose another"):
        molecular_surface(diamond, reach=6.0)
    assert len(molecular_surface(diamond, 10.0, reach=6.0).faces) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 0.0}, "level must be positive and in Å⁻², got 0.0"),
        ({"spacing": -0.1}, "spacing must be positive and in Å"),
        ({"reach": np.inf}, "reach must be positive and in Å"),
        ({"spacing": 0.6}, r"spacing must be at most 0.513 Å, .* got 0.6 Å"),
    ],
)
def test_wrong_options_are_told(water, options, message):
    with pytest.raises(ValueError, match=message):
        molecular_surface(water, **options)


def test_says_what_to_install(water, monkeypatch):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("skimage"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install pyg_schnet\[analysis\]"):
        molecular_surface(water)


def test_surface_far_from_the_origin():
    """That of the structure at the origin, moved; of slabs across their plane."""
    slab = fcc111("Cu", (1, 1, 3), vacuum=4.0)
    slab.pbc = (True, True, False)
    for atoms, shift in ((molecule("H2O"), [1e6, -2e6, 3e6]), (slab, [0.0, 0.0, 1e6])):
        near = molecular_surface(atoms, spacing=0.3)
        atoms.positions += shift
        far = molecular_surface(atoms, spacing=0.3)
        assert far.vertices.shape == near.vertices.shape
        np.testing.assert_allclose(far.vertices - shift, near.vertices, atol=1e-6)


def test_room_does_not_depend_on_the_origin(water):
    pos = torch.from_numpy(water.positions)
    torch.testing.assert_close(_margin(pos + 50.0, 0.01), _margin(pos, 0.01), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(_margin(pos - 50.0, 0.01), _margin(pos, 0.01), rtol=1e-9, atol=1e-9)
