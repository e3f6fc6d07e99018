"""Pictures of probe energies, and the page, in a real browser where there is one."""

import base64
import io
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from matplotlib import colormaps, pyplot
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

from pyg_schnet import SchNet
from pyg_schnet.analysis import Surface, molecular_surface, probe_potential
from pyg_schnet.plotting import plot_probe_potential, write_probe_html
from pyg_schnet.plotting._balls_and_sticks import balls_and_sticks, cell_edges
from pyg_schnet.plotting.surfaces import _screen, _view
from pyg_schnet.units import convert

POINTS = np.random.default_rng(0).normal(0.0, 2.0, (30, 3))


def probe(atoms=None, **where):
    torch.manual_seed(0)
    return probe_potential(SchNet(16, 16, 2, 12, 3.0), molecule("H2O") if atoms is None else atoms, unit="eV", **where)


@pytest.fixture(scope="module")
def on_surface():
    pytest.importorskip("skimage", reason="needs scikit-image: pip install pyg_schnet[analysis]")
    return probe(isosurface=molecular_surface(molecule("H2O"), spacing=0.4))


def meshes(ax):
    return [collection for collection in ax.collections if isinstance(collection, Poly3DCollection)]


@pytest.mark.parametrize("unit", ["kcal/mol", "eV"])
def test_surface_has_the_colours_of_the_energies(on_surface, unit):
    ax = plot_probe_potential(on_surface, unit=unit)
    ax.figure.canvas.draw()
    values = convert(on_surface.without_reference, "eV", unit)
    bar = ax.figure.axes[1]
    assert bar.get_ylabel() == f"energy of probe H [{unit}]"
    assert bar.get_ylim() == pytest.approx((values.min(), values.max()))
    _, surface = meshes(ax)
    scaled = (values - values.min()) / np.ptp(values)
    expected = np.sort(scaled[on_surface.surface.faces].mean(1))
    np.testing.assert_allclose(np.sort(position_on_map(surface.get_facecolor())), expected, atol=0.03)


def position_on_map(colors):
    """Where on the colour map, 0 to 1, colours are that were made darker."""
    table = colormaps["viridis"](np.arange(256))[:, :3]
    directions = [array / np.linalg.norm(array, axis=1, keepdims=True) for array in (colors[:, :3], table)]
    return (directions[0] @ directions[1].T).argmax(1) / 255


@pytest.mark.parametrize("kind", ["svg", "pdf"])
def test_text_stays_text_in_vector_pictures(on_surface, kind):
    file = io.BytesIO()
    plot_probe_potential(on_surface).figure.savefig(file, format=kind)
    assert len(file.getvalue()) < 500_000  # the triangles are pixels
    if kind == "svg":
        assert b"energy of probe H" in file.getvalue()
        assert b"<image" in file.getvalue()


def test_limits_are_shared_by_pictures(on_surface):
    ax = plot_probe_potential(on_surface, limits=(-5.0, 20.0))
    assert ax.figure.axes[1].get_ylim() == (-5.0, 20.0)


def test_given_axes_keep_their_view(on_surface):
    figure = pyplot.figure()
    ax = figure.add_subplot(1, 2, 2, projection="3d")
    ax.view_init(10.0, 20.0, 30.0)
    assert plot_probe_potential(on_surface, ax) is ax
    assert (ax.elev, ax.azim, ax.roll) == (10.0, 20.0, 30.0)
    assert pyplot.get_fignums() == [figure.number]
    with pytest.raises(ValueError, match="must be three-dimensional"):
        plot_probe_potential(on_surface, figure.add_subplot(1, 2, 1))


def test_the_scale_is_as_long_as_it_says(on_surface):
    ax = plot_probe_potential(on_surface)
    begin, end = np.transpose(ax.lines[-1].get_data_3d())
    (text,) = (text.get_text() for text in ax.texts)
    assert text == f"{np.linalg.norm(end - begin):g} Å"
    up, towards = _screen(*np.radians([ax.elev, ax.azim, ax.roll]))[1:]
    np.testing.assert_allclose((end - begin) @ np.stack([up, towards]).T, 0.0, atol=1e-12)
    ax.figure.canvas.draw()
    on_screen = [ax.transData.transform(_project(ax, point)) for point in (begin, end)]
    np.testing.assert_allclose(on_screen[0][1], on_screen[1][1], atol=1e-6)  # level
    assert on_screen[1][0] > on_screen[0][0] + 10


def _project(ax, point):
    from mpl_toolkits.mplot3d import proj3d

    return proj3d.proj_transform(*point, ax.get_proj())[:2]


def test_molecules_are_seen_from_where_they_are_widest():
    plank = np.random.default_rng(0).normal(size=(50, 3)) * [1.0, 9.0, 4.0]
    for _ in range(3):
        plank = plank[:, [1, 2, 0]]
        screen = plank @ _screen(*np.radians(_view(plank))).T
        assert (np.argsort(np.ptp(screen, axis=0)) == [2, 1, 0]).all()


def test_points_are_drawn_without_surface():
    result = probe(points=POINTS)
    ax = plot_probe_potential(result, unit="meV")
    assert len(meshes(ax)) == 1  # atoms
    (scatter,) = (collection for collection in ax.collections if collection not in meshes(ax))
    np.testing.assert_array_equal(np.transpose(scatter._offsets3d), POINTS)
    assert ax.figure.axes[1].get_ylabel() == "energy of probe H [meV]"


def test_crystals_have_their_cell():
    pytest.importorskip("skimage")
    crystal = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    ax = plot_probe_potential(probe(crystal, isosurface=molecular_surface(crystal, spacing=0.4)))
    assert len(ax.lines) == 12 + 1  # edges, and the scale
    assert len(meshes(ax)) == 1
    ax.figure.canvas.draw()


@pytest.mark.parametrize(
    "draw", [plot_probe_potential, lambda result, **options: write_probe_html(result, "x", **options)]
)
def test_wrong_options_are_told(draw):
    result = probe(points=POINTS)
    with pytest.raises(ValueError, match="unit must be one of energy, got 'Å', one of length"):
        draw(result, unit="Å")
    with pytest.raises(ValueError, match=r"a lower and a higher energy in kcal/mol, got \(1.0, 1.0\)"):
        draw(result, limits=(1.0, 1.0))


def test_balls_and_sticks_are_where_atoms_are():
    water = molecule("H2O")
    mesh = balls_and_sticks(water.numbers, water.positions, water.cell.array, water.pbc)
    corners = mesh.vertices[mesh.faces]
    assert np.linalg.det(corners - water.positions.mean(0)).sum() > 0  # outwards
    atom = np.linalg.norm(mesh.vertices[:, None] - water.positions, axis=-1).argmin(1)
    for k in range(3):
        assert len(np.unique(mesh.colors[atom == k], axis=0)) <= 2  # its own, and of bonds that end half way
    edges = np.sort(np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]]), axis=1)
    assert np.unique(edges, axis=0, return_counts=True)[1].max() <= 2
    assert (mesh.faces.max() + 1, mesh.faces.min()) == (len(mesh.vertices), 0)


def test_atoms_at_sides_of_a_cell_are_drawn_on_all():
    atoms = Atoms("Cu", [[0.0, 0.0, 0.0]], cell=[3.0, 3.0, 9.0], pbc=[True, True, False])
    one = balls_and_sticks(np.array([29]), np.array([[50.0, 0.0, 0.0]]), np.zeros((3, 3)), np.zeros(3, bool))
    four = balls_and_sticks(atoms.numbers, atoms.positions + 3e-4, atoms.cell.array, atoms.pbc)
    assert np.ptp(four.vertices, axis=0)[:2] == pytest.approx(np.ptp(one.vertices, axis=0)[:2] + 3.0, abs=0.02)
    assert cell_edges(atoms.positions, atoms.cell.array, atoms.pbc).shape == (4, 2, 3)


def test_layers_have_their_cell_amid_the_atoms():
    atoms = Atoms("Cu2", [[1.0, 1.0, 4.0], [2.0, 2.0, 6.0]], cell=[3.0, 3.0, 0.0], pbc=[True, True, False])
    edges = cell_edges(atoms.positions, atoms.cell.array, atoms.pbc)
    np.testing.assert_allclose(edges[..., 2], 5.0)
    np.testing.assert_allclose([edges[..., :2].min(), edges[..., :2].max()], [0.0, 3.0], atol=1e-12)
    assert cell_edges(atoms.positions, atoms.cell.array, np.zeros(3, bool)).shape == (0, 2, 3)


# The page


@pytest.fixture
def plotly():
    return pytest.importorskip("plotly", reason="needs plotly: pip install pyg_schnet[analysis]")


def embedded(array):
    """An array as plotly writes it."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode().replace("/", "\\u002f")


@pytest.mark.usefixtures("plotly")
def test_page_holds_the_data_and_all_it_needs(on_surface, tmp_path):
    path = write_probe_html(on_surface, tmp_path / "new" / "probe.html", unit="eV")
    page = path.read_text(encoding="utf-8")
    assert embedded(on_surface.without_reference) in page
    assert embedded(on_surface.points[:, 0]) in page
    assert "energy of probe H" in page
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)\s*=", page)
    again = write_probe_html(on_surface, tmp_path / "again.html", unit="eV")
    assert again.read_text(encoding="utf-8") == page


@pytest.mark.usefixtures("plotly")
def test_page_of_points_and_cell(tmp_path):
    result = probe(bulk("NaCl", "rocksalt", a=5.64), points=POINTS)
    page = write_probe_html(result, tmp_path / "points.html", limits=(-1.0, 1.0)).read_text(encoding="utf-8")
    assert embedded(convert(result.without_reference, "eV", "kcal/mol")) in page
    assert page.count('"mode":"lines"') == 12
    assert '"cmin":-1.0,"cmax":1.0' in page or '"cmax":1.0,"cmin":-1.0' in page


def test_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    result = probe(isosurface=Surface(np.eye(3), np.array([[0, 1, 2]])))
    with pytest.raises(ImportError, match=r"pip install pyg_schnet\[analysis\]"):
        write_probe_html(result, tmp_path / "x.html")


@pytest.fixture
def browser():
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="THE PAGE IS NOT TESTED: pip install playwright, and Chromium"
    )
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    software = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist", "--no-sandbox"]
    with sync_api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=found, args=software)
        except sync_api.Error as error:
            pytest.skip(f"THE PAGE IS NOT TESTED: no Chromium to be started ({str(error).splitlines()[0]})")
        yield browser
        browser.close()


@pytest.mark.usefixtures("plotly")
def test_page_turns_with_the_mouse_and_asks_nobody(on_surface, tmp_path, browser):
    from PIL import Image

    path = write_probe_html(on_surface, tmp_path / "probe.html", unit="eV")
    page = browser.new_page(viewport={"width": 500, "height": 350})
    page.set_default_timeout(60_000)
    requests, errors = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(path.as_uri())
    page.wait_for_selector("#probe canvas")
    page.wait_for_function("document.getElementById('probe')._fullLayout.scene._scene.glplot")
    eye = "(({x, y, z}) => [x, y, z])(document.getElementById('probe')._fullLayout.scene._scene.getCamera().eye)"
    shown = page.evaluate("Array.from(document.getElementById('probe')._fullData.at(-1).intensity)")
    np.testing.assert_allclose(shown, on_surface.without_reference, rtol=1e-12)

    def colours():
        image = Image.open(io.BytesIO(page.screenshot(clip={"x": 80, "y": 60, "width": 220, "height": 200})))
        return np.asarray(image.convert("RGB")).reshape(-1, 3)

    page.wait_for_timeout(500)
    before, before_eye = colours(), page.evaluate(eye)
    assert (before.min(1) < 200).mean() > 0.05  # not an empty page
    page.mouse.move(170, 150)
    page.mouse.down()
    page.mouse.move(260, 190, steps=2)
    page.mouse.up()
    page.wait_for_timeout(500)
    after, after_eye = colours(), page.evaluate(eye)
    assert np.linalg.norm(np.subtract(after_eye, before_eye)) > 0.3
    assert np.linalg.norm(after_eye) == pytest.approx(np.linalg.norm(before_eye), rel=1e-3)  # turned, not moved
    assert (before != after).any(1).mean() > 0.02
    assert requests == [path.as_uri()]
    assert errors == []
