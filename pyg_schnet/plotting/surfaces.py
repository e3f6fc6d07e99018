"""Probe energies on the surfaces of molecules: a picture for print, and a page that turns with the mouse."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyg_schnet.plotting._balls_and_sticks import balls_and_sticks, cell_edges
from pyg_schnet.plotting.style import style
from pyg_schnet.units import convert, dimension

if TYPE_CHECKING:
    from mpl_toolkits.mplot3d import Axes3D

    from pyg_schnet.analysis import ProbePotential

_COLORS = "viridis"
"""Brighter than the map of other pictures, because shading makes it darker; made for all kinds of colour vision too."""

_OPACITY = 0.92  # enough to see the atoms, and nearly the colours of the bar

_LIGHT = 0.35
"""How much darker a face is that is seen from the side."""


def plot_probe_potential(
    result: ProbePotential,
    ax: Axes3D | None = None,
    *,
    unit: str = "kcal/mol",
    limits: tuple[float, float] | None = None,
) -> Axes3D:
    """Draw the surface in the colours of the probe's energy, and the atoms inside; or the points, without a surface.

    Energies are without the reference of the probe's element. The projection is parallel, and a bar tells its scale.

    Args:
        result: From :func:`pyg_schnet.analysis.probe_potential`.
        ax: Axes with ``projection="3d"``, whose view is kept; ``None`` makes a new figure, seen from where the molecule
            is widest.
        unit: Unit of the colour bar.
        limits: Ends of the colour bar in this unit, to compare pictures; ``None`` takes those of the energies.

    Returns:
        The axes.

    Raises:
        ValueError: If ``ax`` is not three-dimensional, ``unit`` is not one of energy, or ``limits`` are not in order.

    Example:
        >>> from ase.build import molecule
        >>> from matplotlib.figure import Figure
        >>> from pyg_schnet import SchNet
        >>> from pyg_schnet.analysis import probe_potential
        >>> points = [[0.0, 0.0, 2.0], [0.0, 2.0, 0.0]]
        >>> result = probe_potential(SchNet(16, 16, 2, 20, 5.0), molecule("H2O"), points=points, unit="eV")
        >>> ax = plot_probe_potential(result, Figure().add_subplot(projection="3d"))
        >>> ax.figure.axes[1].get_ylabel()
        'energy of probe H [kcal/mol]'
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    values, (low, high) = _values(result, unit, limits)
    with style():
        if ax is None:
            from matplotlib import pyplot

            ax = pyplot.figure().add_subplot(projection="3d")
            ax.view_init(*_view(result.positions))
        elif getattr(ax, "name", "") != "3d":
            raise ValueError('ax must be three-dimensional, as from figure.add_subplot(projection="3d")')
        colors = ScalarMappable(Normalize(low, high), colormaps[_COLORS])
        ax.set_proj_type("ortho")
        ax.set_axis_off()
        atoms = balls_and_sticks(result.numbers, result.positions, result.cell, result.pbc, sides=18)
        layers: list[Any] = [_shaded(ax, atoms.vertices, atoms.faces, atoms.colors[atoms.faces].mean(1))]
        if result.surface is None:
            ax.scatter(*result.points.T, c=colors.to_rgba(values), s=4.0, linewidths=0.0, depthshade=False)
        else:
            vertices, faces = _geometry(result)
            layers.append(_shaded(ax, vertices, faces, colors.to_rgba(values[faces].mean(1))[:, :3]))
        if result.pbc.any():  # bonds reach out of the surface, in front of it and behind
            layers = [tuple(np.concatenate(parts) for parts in zip(*layers, strict=True))]
        for (corners, shaded), opacity in zip(layers, (1.0, _OPACITY), strict=False):
            _draw(ax, corners, shaded, opacity)
        edges = cell_edges(result.positions, result.cell, result.pbc)
        for edge in edges:
            ax.plot(*edge.T, color="0.5", linewidth=0.6)
        _frame(ax, np.concatenate([result.points, atoms.vertices, edges.reshape(-1, 3)]))
        bar = ax.figure.colorbar(colors, ax=ax, shrink=0.7, pad=0.02)
        bar.set_label(_label(result, unit))
        bar.outline.set_visible(False)
    return ax


def write_probe_html(
    result: ProbePotential,
    path: str | os.PathLike[str],
    *,
    unit: str = "kcal/mol",
    limits: tuple[float, float] | None = None,
) -> Path:
    """Write a page that shows the surface in the colours of the probe's energy, and turns it with the mouse.

    The page is one file of 5 MB, drawn by plotly, which it contains: it needs a browser with WebGL and no network. A
    slider makes the surface more or less transparent; the energy under the mouse is shown in numbers.

    Args:
        result: From :func:`pyg_schnet.analysis.probe_potential`.
        path: File to write.
        unit: Unit of the energies.
        limits: Ends of the colour bar in this unit; ``None`` takes those of the energies.

    Returns:
        The path.

    Raises:
        ImportError: If plotly is not installed.
        ValueError: If ``unit`` is not one of energy, or ``limits`` are not in order.
    """
    try:
        from plotly.graph_objects import Figure
    except ImportError as error:
        raise ImportError("pages need plotly; install it with `pip install pyg_schnet[analysis]`") from error
    values, limits = _values(result, unit, limits)
    traces = [*_structure_traces(result), _probe_trace(result, values, limits, unit)]
    figure = Figure(traces, _layout(result, len(traces) - 1))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.write_html(
        path,
        include_plotlyjs=True,
        include_mathjax=False,
        div_id="probe",
        config={"displaylogo": False, "responsive": True},
    )
    return path


def _values(result: ProbePotential, unit: str, limits: tuple[float, float] | None) -> tuple[np.ndarray, Any]:
    """Energies without reference in a unit, and the ends of their colours."""
    if dimension(unit) != "energy":
        raise ValueError(f"unit must be one of energy, got {unit!r}, one of {dimension(unit)}")
    values = convert(result.without_reference, "eV", unit)
    if limits is None:
        limits = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    elif not limits[0] < limits[1]:
        raise ValueError(f"limits must be a lower and a higher energy in {unit}, got {limits!r}")
    return values, limits


def _label(result: ProbePotential, unit: str, gap: str = " ") -> str:
    return f"energy of probe {result.probe}{gap}[{unit}]"


def _geometry(result: ProbePotential) -> tuple[np.ndarray, np.ndarray]:
    surface: Any = result.surface
    return surface.vertices, surface.faces


def _frame_of(positions: np.ndarray) -> np.ndarray:
    """Longest, middle and shortest principal axis of a structure in rows, right-handed, shape ``[3, 3]``."""
    spread = (positions - positions.mean(0)).T @ (positions - positions.mean(0))
    axes = np.linalg.eigh(spread)[1].T[::-1]
    axes = axes * np.where(axes[np.arange(3), np.abs(axes).argmax(1)] < 0, -1.0, 1.0)[:, None]  # the same anywhere
    return np.stack([axes[0], axes[1], np.cross(axes[0], axes[1])])


def _camera_of(positions: np.ndarray) -> np.ndarray:
    """Directions to the right, up and towards the viewer: the longest axis is level, the shortest faces the viewer."""
    right, up, towards = _frame_of(positions)
    tilt = np.radians(25.0)  # from above, or flat molecules would look flat
    return np.stack([right, np.cos(tilt) * up - np.sin(tilt) * towards, np.cos(tilt) * towards + np.sin(tilt) * up])


def _view(positions: np.ndarray) -> tuple[float, float, float]:
    """The same as elevation, azimuth and roll in degrees."""
    right, _, towards = _camera_of(positions)
    elev, azim = np.arcsin(towards[2]), np.arctan2(towards[1], towards[0])
    level, upright = _screen(elev, azim, 0.0)[:2]
    return tuple(np.degrees([elev, azim, -np.arctan2(right @ upright, right @ level)]))


def _screen(elev: float, azim: float, roll: float) -> np.ndarray:
    """Directions to the right, up and towards the viewer of matplotlib's angles, here in radians."""
    towards = np.array([np.cos(elev) * np.cos(azim), np.cos(elev) * np.sin(azim), np.sin(elev)])
    level = np.array([-np.sin(azim), np.cos(azim), 0.0])
    upright = np.cross(towards, level)
    return np.stack(
        [np.cos(roll) * level - np.sin(roll) * upright, np.sin(roll) * level + np.cos(roll) * upright, towards]
    )


def _shaded(ax: Axes3D, vertices: np.ndarray, faces: np.ndarray, colors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Triangles, shape ``[F, 3, 3]``, and the colours of faces, ``[F, 3]``, darker where seen from the side."""
    corners = vertices[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    smooth = np.zeros_like(vertices)  # normals of vertices: the mean over faces, by area
    np.add.at(smooth, faces, normal[:, None])
    smooth = smooth[faces].sum(1)
    towards = _screen(*np.radians([ax.elev, ax.azim, ax.roll]))[2]
    facing = np.abs(smooth @ towards) / np.linalg.norm(smooth, axis=1).clip(1e-12)
    return corners, colors * (1.0 - _LIGHT * (1.0 - facing[:, None]))


def _draw(ax: Axes3D, corners: np.ndarray, colors: np.ndarray, opacity: float) -> None:
    """Triangles in one collection, because only inside one are they drawn in the order of their distance.

    They are drawn opaque, and then the whole picture of them made transparent: colours of faces that are behind one
    another do not mix, and no lines show where faces meet.
    """
    from mpl_toolkits.mplot3d.art3d import Poly3DCollection

    collection = Poly3DCollection(corners, facecolors=colors, edgecolors=colors, linewidths=0.25, rasterized=True)
    if opacity < 1.0:
        collection.set_agg_filter(lambda image, dpi: (image * np.array([1.0, 1.0, 1.0, opacity]), 0, 0))
    ax.add_collection3d(collection)


def _frame(ax: Axes3D, points: np.ndarray) -> None:
    """Limits around everything, of the same scale in all directions, and a bar of known length below."""
    right, up, towards = screen = _screen(*np.radians([ax.elev, ax.azim, ax.roll]))
    low, high = (points @ screen.T).min(0), (points @ screen.T).max(0)
    size = (high - low)[:2].max()
    low[1] -= 0.15 * size  # for the bar
    center, half = 0.5 * (low + high) @ screen, 0.5 * (high - low)[:2].max() + 0.3
    ax.set(**{f"{name}lim": (center[k] - half, center[k] + half) for k, name in enumerate("xyz")})
    ax.set_box_aspect((1.0, 1.0, 1.0), zoom=1.6)
    length = max((n for n in (1.0, 2.0, 5.0, 10.0, 20.0, 50.0) if n < 0.4 * size), default=0.5)
    begin = low[0] * right + (low[1] + 0.08 * size) * up + high[2] * towards
    ax.plot(*np.stack([begin, begin + length * right]).T, color="black", linewidth=1.2)
    ax.text(*(begin + 0.5 * length * right - 0.02 * size * up), f"{length:g} Å", ha="center", va="top")


def _xyz(points: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip("xyz", points.T, strict=True))


def _mesh(vertices: np.ndarray, faces: np.ndarray) -> dict[str, np.ndarray]:
    return {**_xyz(vertices), **dict(zip("ijk", faces.T, strict=True))}


def _structure_traces(result: ProbePotential) -> list[dict[str, Any]]:
    """Atoms with bonds, and the edges of the cell, as plotly has them."""
    mesh = balls_and_sticks(result.numbers, result.positions, result.cell, result.pbc, sides=24)
    quiet = {"hoverinfo": "skip", "showlegend": False}
    lines = {"type": "scatter3d", "mode": "lines", "line": {"color": "gray"}, **quiet}
    return [
        {"type": "mesh3d", **_mesh(mesh.vertices, mesh.faces), "vertexcolor": mesh.colors, **quiet},
        *({**lines, **_xyz(edge)} for edge in cell_edges(result.positions, result.cell, result.pbc)),
    ]


def _probe_trace(result: ProbePotential, values: np.ndarray, limits: tuple[float, float], unit: str) -> dict[str, Any]:
    """The surface, or the points, with energies in their unit."""
    colors = {
        "cmin": limits[0],
        "cmax": limits[1],
        "colorscale": _COLORS,
        "colorbar": {"title": _label(result, unit, "<br>"), "len": 0.8},
    }
    known = {
        "customdata": values,
        "hovertemplate": f"%{{customdata:.4g}} {unit}<br>%{{x:.2f}}, %{{y:.2f}}, %{{z:.2f}} Å<extra></extra>",
        "showlegend": False,
    }
    if result.surface is None:
        marker = {"size": 2, "color": values, "showscale": True, **colors}
        return {"type": "scatter3d", "mode": "markers", **_xyz(result.points), "marker": marker, **known}
    light = {"ambient": 0.85, "diffuse": 0.35, "specular": 0.05}
    surface = {**_mesh(*_geometry(result)), "intensity": values, "opacity": _OPACITY, "lighting": light}
    return {"type": "mesh3d", **surface, **colors, **known}


def _layout(result: ProbePotential, surface: int) -> dict[str, Any]:
    """Scene without axes, seen as in the static picture, and the slider for trace number ``surface``."""
    _, up, towards = _camera_of(result.positions)
    hidden = {"visible": False, "showspikes": False}
    camera = {
        "eye": dict(zip("xyz", (1.4 * towards).tolist(), strict=True)),
        "up": dict(zip("xyz", up.tolist(), strict=True)),
        "projection": {"type": "orthographic"},
    }
    steps = [
        {"label": f"{percent} %", "method": "restyle", "args": [{"opacity": percent / 100}, [surface]]}
        for percent in (0, 25, 50, 75, 92, 100)
    ]
    slider = {
        "steps": steps,
        "active": 4,
        "currentvalue": {"prefix": "opacity of the surface: "},
        "len": 0.4,
        "x": 0.05,
    }
    return {
        "scene": {
            **{f"{name}axis": hidden for name in "xyz"},
            "aspectmode": "data",
            "camera": camera,
            "dragmode": "orbit",
        },
        "margin": {"l": 0, "r": 0, "t": 0, "b": 0},
        "sliders": [slider] if result.surface is not None else [],
        "font": {"size": 14},
    }
