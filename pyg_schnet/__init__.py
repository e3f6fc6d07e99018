"""SchNet for molecules and materials, as PyTorch Geometric message passing.

Inside the package lengths are Å and energies eV. Layers are in :mod:`pyg_schnet.nn`, graphs in
:mod:`pyg_schnet.neighbors`, data in :mod:`pyg_schnet.data`, training in :mod:`pyg_schnet.train`.
"""

import warnings

with warnings.catch_warnings():  # PyG scripts some of its modules when it is imported, which torch has deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", FutureWarning)
    import torch_geometric.nn  # noqa: F401 - for what it says when it is imported

from pyg_schnet.models import DTNN, SchNet, load
from pyg_schnet.neighbors import InteractionGraph, radius_graph
from pyg_schnet.pretrained import VERSION as __version__

__all__ = ["DTNN", "InteractionGraph", "SchNet", "__version__", "load", "radius_graph"]
