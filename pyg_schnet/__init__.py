"""SchNet for molecules and materials, as PyTorch Geometric message passing.

Inside the package lengths are Å and energies eV. Layers are in :mod:`pyg_schnet.nn`, graphs in
:mod:`pyg_schnet.neighbors`, data in :mod:`pyg_schnet.data`, training in :mod:`pyg_schnet.train`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pyg_schnet.pretrained import VERSION as __version__

if TYPE_CHECKING:
    from pyg_schnet.models import DTNN, SchNet, load
    from pyg_schnet.neighbors import InteractionGraph, radius_graph

__all__ = ["DTNN", "InteractionGraph", "SchNet", "__version__", "load", "radius_graph"]

_HOMES = {
    "DTNN": "models",
    "InteractionGraph": "neighbors",
    "SchNet": "models",
    "load": "models",
    "radius_graph": "neighbors",
}
_ROOMS = ("analysis", "data", "derivatives", "engine", "geometry", "interfaces", "models", "neighbors", "nn", "ops",
          "plotting", "potential", "testing", "train", "units")  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name or a subpackage on first access.

    Importing torch and PyTorch Geometric takes seconds, which ``pyg-schnet --help`` and ``import pyg_schnet.units`` do
    not need.
    """
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
