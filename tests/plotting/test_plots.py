"""Every picture shows the numbers of its result, says their units, and leaves everything else as it was."""

import contextlib
import importlib
import inspect
import sys

import matplotlib
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from matplotlib import pyplot
from matplotlib.colors import to_hex

from pyg_schnet import SchNet, analysis, plotting
from pyg_schnet.plotting.style import COLORS, DIVERGING, SEQUENTIAL


def schnet(seed=0):
    torch.manual_seed(seed)
    return SchNet(16, 16, 2, 12, 3.0).double().eval()


def modes():
    return analysis.normal_modes(schnet(), molecule("H2O"), unit="eV", rigid="keep")


def power():
    return analysis.power_spectrum(np.random.default_rng(0).normal(size=(100, 2, 3)), 0.5, masses=[1.0, 2.0])


def infrared():
    return analysis.infrared_spectrum(np.random.default_rng(0).normal(size=(100, 3)), 2.0, temperature=300.0)


def ensemble():
    return analysis.dimer_scan([schnet(k) for k in range(3)], "C", "O", [3.0, 1.0, 2.0], unit="eV")


def filters():
    return analysis.radial_filters(schnet(), np.linspace(0.0, 3.0, 21))


def contributions(atoms=None):
    model = schnet()
    model.readout.set_references(torch.linspace(-30.0, 0.0, 100))
    return analysis.atom_contributions(model, molecule("CH3OH") if atoms is None else atoms, unit="eV")


def surroundings():
    return analysis.locality(schnet(), molecule("C6H6"), [2.0, 1.2, 3.5], unit="eV")


def elements():
    torch.manual_seed(1)
    return analysis.embedding_map(SchNet(8, 8, 1), ["H", "Li", "Na", "K", "F", "Cl", "Br", "Fe"], shuffles=10)


CASES = [
    (plotting.plot_normal_modes, modes, "wave number [cm$^{-1}$]", "vibrations"),
    (plotting.plot_power_spectrum, power, "wave number [cm$^{-1}$]", "kinetic energy [eV/cm$^{-1}$]"),
    (plotting.plot_infrared_spectrum, infrared, "wave number [cm$^{-1}$]", "absorption [km/mol per cm$^{-1}$]"),
    (plotting.plot_dimer_scan, ensemble, "distance C–O [Å]", "energy [eV]"),
    (plotting.plot_radial_filters, filters, "distance [Å]", "filter, sorted by position"),
    (plotting.plot_atom_contributions, contributions, "atom", "atom energy [eV]"),
    (plotting.plot_locality, surroundings, "radius [Å]", "change of atom energy [eV]"),
    (
        plotting.plot_activation_curves,
        analysis.activation_curves,
        "x (dimensionless)",
        "activation (dimensionless)",
    ),
]


@pytest.mark.parametrize(("plot", "result", "x", "y"), CASES)
def test_axes_are_labelled_and_nothing_global_changes(plot, result, x, y):
    result, before = result(), dict(matplotlib.rcParams)
    ax = plot(result)
    assert dict(matplotlib.rcParams) == before
    assert (ax.get_xlabel(), ax.get_ylabel()) == (x, y)
    assert pyplot.get_fignums() == [ax.figure.number]
    ax.figure.canvas.draw()
    assert {label.get_fontsize() for label in ax.get_xticklabels() + ax.get_yticklabels()} == {7.0}
    assert ax.xaxis.label.get_fontsize() == 8.0
    with plotting.style():
        _, (left, right) = pyplot.subplots(1, 2)
    assert plot(result, ax=right) is right
    assert not left.has_data()
    assert len(pyplot.get_fignums()) == 2
    assert list(inspect.signature(plot).parameters)[:2] == ["result", "ax"]


def segments(ax):
    """Position and height of the sticks, by colour."""
    return {
        to_hex(lines.get_color()[0]).upper(): np.array([[end[0, 0], end[1, 1]] for end in lines.get_segments()])
        for lines in ax.collections
    }


def test_normal_modes_are_sticks_with_imaginary_ones_marked():
    result = modes()
    assert 0 < result.imaginary.sum() < 3  # unrelaxed
    ax = plotting.plot_normal_modes(result)
    real = ~result.imaginary & ~result.rigid
    expected = {COLORS["blue"]: real, COLORS["vermillion"]: result.imaginary}
    found = segments(ax)
    assert set(found) == set(expected)
    for color, mask in expected.items():
        heights = np.ones(mask.sum())  # nothing is known of intensities
        np.testing.assert_array_equal(found[color], np.stack([result.frequencies[mask], heights], axis=1))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["real", "imaginary"]


def test_real_modes_need_no_legend():
    spring = Atoms("H2", [[0, 0, 0], [0, 0, 0.75]])
    result = analysis.normal_modes(
        lambda z, pos, batch: ((pos[1] - pos[0]).norm() - 0.75).square().view(1), spring, unit="eV"
    )
    ax = plotting.plot_normal_modes(result)
    assert ax.get_legend() is None
    assert list(segments(ax)) == [COLORS["blue"]]


@pytest.mark.parametrize(
    ("plot", "result"), [(plotting.plot_power_spectrum, power), (plotting.plot_infrared_spectrum, infrared)]
)
def test_spectra_are_drawn_as_they_are(plot, result):
    result = result()
    (line,) = plot(result).lines
    np.testing.assert_array_equal(line.get_xydata(), np.stack([result.wavenumbers, result.intensity], axis=1))
    assert plot(result).get_xlim() == (0.0, 4000.0)
    assert plot(result, end=1e9).get_xlim() == (0.0, result.wavenumbers[-1])


@pytest.mark.parametrize("quantity", ["energy", "force"])
def test_dimers_have_a_band_of_one_deviation(quantity):
    result = ensemble()
    ax = plotting.plot_dimer_scan(result, quantity=quantity)
    order = [1, 2, 0]
    mean, deviation = getattr(result, quantity)[order], getattr(result, f"{quantity}_std")[order]
    np.testing.assert_array_equal(ax.lines[-1].get_xydata(), np.stack([[1.0, 2.0, 3.0], mean], axis=1))
    (band,) = ax.collections
    vertices = band.get_paths()[0].vertices
    for x, low, high in zip([1.0, 2.0, 3.0], mean - deviation, mean + deviation, strict=True):
        heights = vertices[vertices[:, 0] == x, 1]
        assert heights.min() == pytest.approx(low, rel=1e-12)
        assert heights.max() == pytest.approx(high, rel=1e-12)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["mean of 3 models", "± standard deviation"]
    assert ax.get_ylabel() == {"energy": "energy [eV]", "force": "force [eV/Å]"}[quantity]


def test_one_model_has_no_band():
    ax = plotting.plot_dimer_scan(analysis.dimer_scan(schnet(), "C", "O", [1.0, 2.0], unit="eV"))
    assert not ax.collections
    assert ax.get_legend() is None
    with pytest.raises(ValueError, match="quantity must be 'energy' or 'force'"):
        plotting.plot_dimer_scan(ensemble(), quantity="forces")


@pytest.mark.parametrize("interaction", [0, 1, -1])
def test_filters_are_rows_of_colour(interaction):
    result = filters()
    ax = plotting.plot_radial_filters(result, interaction=interaction)
    (mesh,) = ax.collections
    values = result.values[interaction]
    drawn = np.asarray(mesh.get_array()).reshape(16, 21)
    for row in drawn:
        assert (row == values.T).all(1).sum() == 1
    assert (np.diff(abs(drawn).argmax(1)) >= 0).all()
    assert mesh.get_clim() == (-abs(values).max(), abs(values).max())
    assert mesh.colorbar.ax.get_ylabel() == "filter (dimensionless)"


def test_there_is_no_third_interaction():
    with pytest.raises(IndexError, match="there are 2 interactions, numbered from 0; got 2"):
        plotting.plot_radial_filters(filters(), interaction=2)


def test_atoms_are_bars_in_the_colour_of_their_element():
    result = contributions()
    ax = plotting.plot_atom_contributions(result)
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], result.without_references, rtol=1e-12)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["C\n0", "O\n1", "H\n2", "H\n3", "H\n4", "H\n5"]
    assert len({to_hex(bar.get_facecolor()) for bar in ax.patches}) == 3
    assert ax.get_legend() is None
    ax = plotting.plot_atom_contributions(result, references=True)
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], result.energies, rtol=1e-12)
    assert ax.get_ylabel() == "atom energy with reference [eV]"


def test_many_atoms_have_a_legend_instead_of_names():
    ax = plotting.plot_atom_contributions(contributions(bulk("NaCl", "rocksalt", a=5.64) * (4, 2, 2)))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["Na", "Cl"]


def test_locality_is_a_line_for_each_atom():
    result = surroundings()
    ax = plotting.plot_locality(result)
    drawn = {tuple(line.get_ydata()) for line in ax.lines if len(line.get_xdata()) == 3}
    assert drawn == {tuple(changes[[1, 0, 2]]) for changes in result.changes}
    np.testing.assert_array_equal(ax.lines[1].get_xdata(), [1.2, 2.0, 3.5])
    cutoffs = [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"]
    assert cutoffs == [3.0]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["C", "H"]


@pytest.mark.parametrize("order", [0, 1, 2])
def test_activations_and_their_derivatives(order):
    result = analysis.activation_curves()
    ax = plotting.plot_activation_curves(result, order=order)
    expected = [result.values, result.first, result.second][order]
    for line, name, curve in zip(ax.lines, result.names, expected, strict=True):
        assert line.get_label() == name
        np.testing.assert_array_equal(line.get_xydata(), np.stack([result.x, curve], axis=1))


def test_one_activation_is_named_above():
    ax = plotting.plot_activation_curves(analysis.activation_curves(names=["ELU"]))
    assert ax.get_legend() is None
    assert ax.get_title() == "ELU"
    with pytest.raises(ValueError, match="order must be 0"):
        plotting.plot_activation_curves(analysis.activation_curves(), order=3)


def test_colours_are_told_apart_and_known_to_matplotlib():
    assert len(set(COLORS.values())) == len(COLORS) == 7
    for name in (SEQUENTIAL, DIVERGING):
        assert name in matplotlib.colormaps


def test_style_ends_with_its_block_also_after_an_error():
    before = dict(matplotlib.rcParams)
    with plotting.style():
        assert matplotlib.rcParams["image.cmap"] == SEQUENTIAL
    assert dict(matplotlib.rcParams) == before
    with contextlib.suppress(RuntimeError), plotting.style():
        raise RuntimeError
    assert dict(matplotlib.rcParams) == before


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    for name in list(sys.modules):
        if name.split(".")[0] == "matplotlib" or name.startswith("pyg_schnet.plotting"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install pyg_schnet\[plot\]"):
        importlib.import_module("pyg_schnet.plotting")


def test_embedding_map_shows_groups_where_they_are():
    result = elements()
    ax = plotting.plot_embedding_map(result)
    assert ax.get_xlabel() == f"component 1 ({100 * result.explained[0]:.0f} % of variance)"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["group 1", "group 17"]
    drawn = {line.get_label(): line.get_xydata() for line in ax.lines}
    for group, rows in ((1, [1, 2, 3]), (17, [4, 5, 6])):
        np.testing.assert_array_equal(drawn[f"group {group}"], result.components[rows, :2])
    assert [text.get_text() for text in ax.texts] == ["Li", "Na", "K", "F", "Cl", "Br"]
    with_others = plotting.plot_embedding_map(result, others=True)
    np.testing.assert_array_equal(with_others.lines[0].get_xydata(), result.components[[0, 7], :2])
