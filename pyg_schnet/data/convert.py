"""Between ``ase.Atoms`` and tensors; the only place of the package that reads the one into the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch_geometric.data import Batch, Data

from pyg_schnet.data.labels import STANDARD_LABELS, Label, find_labels, label_tensor
from pyg_schnet.data.properties import Property, target_values
from pyg_schnet.data.structure import Structure

if TYPE_CHECKING:
    from ase import Atoms


def to_data(
    atoms: Atoms,
    properties: Mapping[str, str] | None = None,
    keys: Mapping[str, str] | None = None,
    pbc: bool | Sequence[bool] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Data:
    """Convert a structure with its labels.

    Every structure gets ``z`` ``[N]``, ``pos`` ``[N, 3]``, ``cell`` ``[1, 3, 3]`` (rows, zeros without a cell),
    ``pbc`` ``[1, 3]`` and ``origin`` ``[1, 3]``, so that molecules, slabs and crystals can share a batch, and
    :func:`to_atoms` restores them.

    ``pos`` is relative to ``origin`` (float64, whole Å). The origin is zero unless ``dtype`` is float32 and the
    structure is more than 100 Å, and several times its own size, away from zero, where float32 would lose its
    distances; it is then near the centre of the structure. Atoms of a periodic structure that have drifted over many
    cells are moved back by lattice vectors, which :func:`to_atoms` does not undo.

    The labels ``energy`` ``[1]``, ``forces`` ``[N, 3]``, ``stress`` ``[1, 3, 3]`` and ``dipole`` ``[1, 3]`` are read
    from the results of ``atoms.calc`` if present; nothing is calculated. Results for positions other than the
    current ones are ignored, as in ASE. Labels of structures are always float64, because the spacing of float32 is
    2 meV at a total energy of 17,600 eV.

    Stress is dE/dstrain / V, positive under tension, as in ASE (VASP's has the opposite sign), with six components xx
    yy zz yz xz xy, nine, or 3 x 3. A virial, recognised by its name in the file (``{"stress": "virial"}``) or by a
    unit of energy for ``"stress"`` in ``properties``, is divided by minus the volume, a derivative with respect to
    strain (``dE_dstrain``) by the volume, and a pressure changes its sign; ambiguous names are refused. Forces read
    from a gradient (``{"forces": "gradient"}``) change their sign.

    Args:
        atoms: The structure, in Å.
        properties: Units of further labels in ``atoms``, by name. They are looked for in the
            results of the calculator, ``atoms.info`` (one value per structure), the key-value pairs and the data of a
            row of ASE's data bases, and ``atoms.arrays`` (one per atom). Numbers are converted to eV, Å, e·Å and their
            quotients; other dimensions keep their unit. A standard label may be listed to state
            another unit.
        keys: Names of labels in these places, where they differ, such as ``{"energy": "REF_energy"}`` or ``{"energy":
            "free_energy"}``.
        pbc: Replaces ``atoms.pbc``, for example ``False`` for molecules that a program has put in a box.
        dtype: Precision of positions, cell and labels of atoms.

    Returns:
        The structure. Labels that are missing or ``None`` are left out.

    Raises:
        ValueError: If there are no atoms, an atomic number is not an element's, a number is not finite (or too large
            for ``dtype``), a site is shared or partly empty, a periodic direction has no cell vector, two atoms are in
            the same place, or a label has the wrong shape or name, or two values in different places.

    Example:
        >>> from ase import Atoms
        >>> data = to_data(Atoms("OH2", [[0, 0, 0], [0, 0, 0.96], [0, 0.93, -0.24]], info={"E": -1.0}),
        ...                properties={"energy": "Hartree"}, keys={"energy": "E"})
        >>> data.z, data.energy
        (tensor([8, 1, 1]), tensor([-27.2114], dtype=torch.float64))
    """
    return convert_structure(atoms, properties or {}, keys or {}, pbc, dtype)[0]


def convert_structure(
    atoms: Atoms,
    properties: Mapping[str, str],
    keys: Mapping[str, str],
    pbc: bool | Sequence[bool] | None,
    dtype: torch.dtype,
) -> tuple[Data, dict[str, Label]]:
    """:func:`to_data`, and its labels as they were found."""
    structure = Structure.of(atoms, dtype, pbc)
    data = Data(**structure._asdict())
    labels = find_labels(atoms, properties, keys, structure.pbc[0].numpy())
    for name, label in labels.items():
        data[name] = label_tensor(name, label, len(structure.z), dtype)
    return data, labels


def to_atoms(data: Data, properties: Mapping[str, Property] | None = None) -> Atoms:
    """Convert a structure back; the inverse of :func:`to_data`.

    The standard labels of :func:`to_data` are put in a :class:`~ase.calculators.singlepoint.SinglePointCalculator`,
    unless ``has_<label>`` marks them as missing. ``origin`` is added to the positions if the structure has one.

    Args:
        data: One structure with ``z`` and ``pos``, perhaps ``cell``, ``pbc`` and labels.
        properties: Further labels to keep, such as the ``properties`` of a data set; they go to ``atoms.info`` (one
            value per structure) or ``atoms.arrays`` (one per atom), in the units that they have.

    Returns:
        The structure.

    Raises:
        ValueError: If ``data`` is a batch, or lacks one of ``properties``.
    """
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.stress import full_3x3_to_voigt_6_stress

    if isinstance(data, Batch):
        raise ValueError(f"got a batch of {data.num_graphs} structures; convert them one by one from to_data_list()")
    host = {name: _to_numpy(data[name]) for name in ("z", "pos", "cell", "pbc", "origin") if name in data}
    atoms = Atoms(
        numbers=host["z"],
        positions=host["pos"] + host.get("origin", 0.0),
        cell=host["cell"].reshape(3, 3) if "cell" in host else None,
        pbc=host["pbc"].reshape(3) if "pbc" in host else None,
    )
    for name, target in (properties or {}).items():
        if name in STANDARD_LABELS or not bool(data.get(f"has_{target.attribute}", True)):
            continue
        value = _to_numpy(target_values(data, target))
        if target.level == "atom":
            atoms.set_array(name, value)
        else:
            atoms.info[name] = value.item() if value.size == 1 else value[0]
    results = {
        name: _to_numpy(data[name]) for name in STANDARD_LABELS if name in data and bool(data.get(f"has_{name}", True))
    }
    for name, as_ase in (
        ("energy", lambda energy: energy.item()),
        ("stress", lambda stress: full_3x3_to_voigt_6_stress(stress.reshape(3, 3))),
        ("dipole", lambda dipole: dipole.reshape(3)),
    ):
        if name in results:
            results[name] = as_ase(results[name])
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def _to_numpy(value: torch.Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()
