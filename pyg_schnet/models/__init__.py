"""Models: SchNet, DTNN and committees of SchNets, from atomic numbers and positions to properties."""

from pyg_schnet.models.base import AtomisticModel
from pyg_schnet.models.checkpoint import CheckpointMixin, load, read_header
from pyg_schnet.models.committee import SchNetCommittee, as_one
from pyg_schnet.models.dtnn import DTNN
from pyg_schnet.models.ensemble import join_ensemble
from pyg_schnet.models.graph import Edges, MeasuredGraph, prepare_edges
from pyg_schnet.models.identity import Identity
from pyg_schnet.models.repulsion import with_repulsion
from pyg_schnet.models.schnet import SchNet
from pyg_schnet.models.storage import rounded
from pyg_schnet.models.targets import one_target

__all__ = [
    "DTNN",
    "AtomisticModel",
    "SchNet",
    "SchNetCommittee",
    "join_ensemble",
    "load",
    "with_repulsion",
]
