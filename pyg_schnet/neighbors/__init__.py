"""Neighbour search: complete radius graphs of molecules and crystals."""

from pyg_schnet.neighbors.interaction import InteractionGraph
from pyg_schnet.neighbors.radius import radius, radius_graph

__all__ = ["InteractionGraph", "radius", "radius_graph"]
