"""Data sets, conversion, splits and loaders: from files and ``ase.Atoms`` to batches with graphs.

.. code-block:: text

    ase.Atoms --to_data--> Data(z, pos, cell, pbc, labels)
    files --AtomsDataset, MD17, MaterialsDataset, QM9, ReferenceData--> data set --Split--> train, val, test
    data set --StructureLoader(transform=NeighborList(cutoff))--> Batch(..., edge_index, edge_shift)
"""

import pyg_schnet.ops._pyg  # PyTorch Geometric comes first, without its warnings
from pyg_schnet.data.ase_files import AtomsDataset
from pyg_schnet.data.base import StructureDataset
from pyg_schnet.data.convert import to_atoms, to_data
from pyg_schnet.data.labels import stored_unit
from pyg_schnet.data.loader import StructureLoader, collate_indices
from pyg_schnet.data.materials import MaterialsDataset, MLearn
from pyg_schnet.data.md17 import MD17
from pyg_schnet.data.properties import Property, find_property, properties_of, target_mask, target_values
from pyg_schnet.data.qm9 import QM9
from pyg_schnet.data.shards import ReferenceData
from pyg_schnet.data.split import Split, fingerprint, random_split, random_split_indices
from pyg_schnet.data.store import StructureStore
from pyg_schnet.data.transforms import NeighborList

__all__ = [
    "MD17",
    "QM9",
    "AtomsDataset",
    "MLearn",
    "MaterialsDataset",
    "NeighborList",
    "Property",
    "ReferenceData",
    "Split",
    "StructureDataset",
    "StructureLoader",
    "StructureStore",
    "random_split",
    "to_atoms",
    "to_data",
]
