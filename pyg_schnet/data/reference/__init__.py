"""Reference data for potentials: geometries of molecules with energies and forces of a method, made by one command.

.. code-block:: text

    QM9, files, SMILES --from_qm9, from_files, from_smiles--> molecules
    molecules --make_reference_data(Sampling, method)--> shards --pyg_schnet.data.ReferenceData--> training

A molecule is relaxed or taken as given; geometries of ``KINDS`` are made of it and labelled. Most of them need one
calculation each: displacements at a temperature come from a harmonic model of the molecule, not from dynamics.
"""

from pyg_schnet.data.reference.frames import KINDS, Molecule, Sampling
from pyg_schnet.data.reference.labelling import Method
from pyg_schnet.data.reference.making import Done, make_reference_data
from pyg_schnet.data.reference.molecules import from_files, from_qm9, load_qm9
from pyg_schnet.data.reference.smiles import from_smiles
from pyg_schnet.data.reference.thermal import ThermalModel

__all__ = [
    "KINDS",
    "Done",
    "Method",
    "Molecule",
    "Sampling",
    "ThermalModel",
    "from_files",
    "from_qm9",
    "from_smiles",
    "load_qm9",
    "make_reference_data",
]
