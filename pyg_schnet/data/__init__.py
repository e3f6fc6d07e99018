"""Data sets, conversion, splits and loaders: from files and ``ase.Atoms`` to batches with graphs."""

from pyg_schnet.data.base import StructureDataset
from pyg_schnet.data.loader import StructureLoader, collate_indices
from pyg_schnet.data.properties import (
    Property,
    find_property,
    properties_of,
    target_mask,
    target_values,
)
from pyg_schnet.data.qm9 import QM9
from pyg_schnet.data.split import Split, fingerprint, random_split, random_split_indices

__all__ = [
    "QM9",
    "Property",
    "Split",
    "StructureDataset",
    "StructureLoader",
    "collate_indices",
    "find_property",
    "fingerprint",
    "properties_of",
    "random_split",
    "random_split_indices",
    "target_mask",
    "target_values",
]
