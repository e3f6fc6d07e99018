"""Neighbour search: complete radius graphs of molecules, surfaces and crystals.

:func:`radius_graph` is the one entry point; :func:`radius` connects two sets of points, :class:`VerletList` reuses a
graph during dynamics, :class:`InteractionGraph` plugs into PyG's SchNet, and ``brute_radius_graph`` is a
brute-force search for tests. ``edge_index`` holds (j, i) and vectors are ``pos[j] - pos[i] + edge_shift @ cell``.
"""

from pyg_schnet.neighbors.brute import brute_radius_graph, edge_tuples
from pyg_schnet.neighbors.interaction import InteractionGraph
from pyg_schnet.neighbors.periodic import periodic_radius_graph
from pyg_schnet.neighbors.radius import radius, radius_graph
from pyg_schnet.neighbors.verlet import VerletList

__all__ = [
    "InteractionGraph",
    "VerletList",
    "radius",
    "radius_graph",
]
