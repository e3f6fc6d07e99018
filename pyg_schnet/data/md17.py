"""MD17 and rMD17: molecular dynamics trajectories of small molecules, from the published ``.npz`` files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from pyg_schnet.data.base import StructureDataset
from pyg_schnet.data.labels import STANDARD_LABELS
from pyg_schnet.data.properties import Property
from pyg_schnet.data.structure import MAX_Z, check_frames_distinct, frames_near_origin
from pyg_schnet.models.reading import read_arrays
from pyg_schnet.units import dimension, factor

# numbers, positions, energies and forces in the files of MD17 (also sGDML) and of rMD17
_KEYS = {"MD17": ("z", "R", "E", "F"), "rMD17": ("nuclear_charges", "coords", "energies", "forces")}


# what files in sGDML's format call the units of the package, in lower case
_ENERGIES = {
    "kcal/mol": ("kcal/mol", "kcal mol-1", "kcal mol^-1", "kcal*mol^-1", "kcalmol", "kcal"),
    "kJ/mol": ("kj/mol", "kj mol-1", "kj mol^-1"),
    "Hartree": ("hartree", "hartrees", "ha", "eh", "e_h", "au", "a.u.", "atomic"),
    "eV": ("ev",),
    "meV": ("mev",),
    "cm-1": ("cm-1", "cm^-1", "cm⁻¹"),
}
_LENGTHS = {
    "Å": ("å", "ang", "angs", "angstrom", "angstroms", "ångström", "ångstrom", "a"),
    "Bohr": ("bohr", "bohrs", "a0", "a_0", "a₀", "au", "a.u.", "atomic"),
    "nm": ("nm", "nanometer", "nanometers"),
}


class MD17(StructureDataset):
    """Frames of one or several ``.npz`` files of MD17 or rMD17, in eV and Å.

    `MD17 <https://doi.org/10.1126/sciadv.1603015>`_ keeps ``z, R, E, F`` and `rMD17
    <https://doi.org/10.1088/2632-2153/abba6f>`_ ``nuclear_charges, coords, energies, forces``, both in Å, kcal/mol and
    kcal/mol/Å, unless a file states its units (``e_unit``, ``r_unit``), as those of sGDML do. Numbers are converted on
    reading. PyG's :class:`torch_geometric.datasets.MD17` leaves them as they are and rounds the energies to float32,
    which is spaced by 1.4 meV (0.03 kcal/mol) at -406,000 kcal/mol, aspirin.

    Each structure has ``z`` ``[N]``, ``pos`` ``[N, 3]`` and ``forces`` ``[N, 3]`` in ``dtype``, and ``energy`` ``[1]``
    in float64; ``origin`` ``[1, 3]`` is as in :func:`~pyg_schnet.data.to_data`. Neighbouring frames of MD17 are
    correlated: split at random, or better by time.

    Args:
        path: File, or several files whose frames follow each other.
        energy_unit: Unit of the energies in the files, and of forces per unit of length; by default the one that a
            file states, or kcal/mol.
        step: Use every ``step``-th frame, beginning with the first.
        transform: Applied to each structure on access; see :class:`StructureDataset`.
        dtype: Precision of positions and forces.

    Raises:
        OSError: If a file does not exist, or is not a regular file.
        ValueError: If a file is not in one of the two formats, states another unit or an unknown one, has
            periodic structures, numbers that are not finite or shapes that do not fit together, or two atoms in the
            same place.
    """

    properties: dict[str, Property] = {name: STANDARD_LABELS[name] for name in ("energy", "forces")}  # noqa: RUF012

    def __init__(
        self,
        path: Sequence[str | os.PathLike] | str | os.PathLike,
        energy_unit: str | None = None,
        step: int = 1,
        transform: Callable | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(transform=transform)
        if energy_unit is not None:
            energy_unit = _known(energy_unit, _ENERGIES) or energy_unit
            if dimension(energy_unit) != "energy":
                raise ValueError(f"energy_unit must be a unit of energy, got {energy_unit!r}")
        if step < 1:
            raise ValueError(f"step must be at least 1, got {step}")
        paths = [path] if isinstance(path, str | os.PathLike) else path
        parts = [_read(Path(file).expanduser(), energy_unit, step, dtype) for file in paths]
        if not parts:
            raise ValueError("path is empty; give at least one file")
        n_atoms = torch.cat([torch.full((len(energy),), len(z)) for z, _, _, energy, _ in parts])
        self.set_store(
            n_atoms,
            atoms={
                "z": torch.cat([z.repeat(len(energy)) for z, _, _, energy, _ in parts]),
                "pos": torch.cat([pos for _, pos, _, _, _ in parts]),
                "forces": torch.cat([forces for _, _, _, _, forces in parts]),
            },
            structures={
                "origin": torch.cat([origin for _, _, origin, _, _ in parts]),
                "energy": torch.cat([energy for _, _, _, energy, _ in parts]),
            },
        )


def _known(unit: str, names: dict[str, tuple[str, ...]]) -> str | None:
    """The unit of the package that a name means."""
    name = unit.strip().lower()
    return next((known for known, others in names.items() if name == known.lower() or name in others), None)


def _stated(content: dict[str, np.ndarray], entry: str, names: dict[str, tuple[str, ...]]) -> str | None:
    """The unit that a file says; ``None`` where it says none."""
    if content.get(entry) is None or content[entry].size == 0:
        return None
    said = content[entry].reshape(-1)[0].item()
    said = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    if not said.strip():
        return None
    unit = _known(said, names)
    if unit is None:
        raise ValueError(f"it says {entry}={said!r}, expected one of {', '.join(names)}; correct the file")
    return unit


def _energy_unit(given: str | None, stated: str | None) -> str:
    if given is not None and stated is not None and given != stated:
        raise ValueError(f"it states that its energies are in {stated}; pass energy_unit={stated!r}, or leave it out")
    return given or stated or "kcal/mol"


def _read(path: Path, energy_unit: str | None, step: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    try:
        content = read_arrays(path, [*_KEYS["MD17"], *_KEYS["rMD17"], "e_unit", "r_unit"])
        names = next((keys for keys in _KEYS.values() if set(keys) <= set(content)), None)
        if names is None:
            wanted = " or ".join(f"{', '.join(keys)} ({kind})" for kind, keys in _KEYS.items())
            raise ValueError(f"it has {', '.join(content) or 'no arrays'}, expected {wanted}")
        if "lattice" in content:  # also of sGDML
            raise ValueError("it has a lattice, expected molecules; read it by AtomsDataset, as .extxyz")
        to_ev = factor(_energy_unit(energy_unit, _stated(content, "e_unit", _ENERGIES)), "eV")
        to_angstrom = factor(_stated(content, "r_unit", _LENGTHS) or "Å", "Å")
        z, pos, energy, forces = (content[name] for name in names)
        if 0 in (z.ndim, pos.ndim, energy.ndim, forces.ndim) or 0 in (z.size, pos.size):
            raise ValueError(f"{', '.join(names)} must hold atoms and frames, got single numbers or nothing")
    except ValueError as error:
        reason = str(error).replace(f"{path} is no whole NumPy archive (.npz): ", "").replace(str(path), "it")
        raise ValueError(f"{path} is not a file of MD17 or rMD17: {reason}") from error
    n_frames, n_atoms = len(pos), len(z)
    if pos.shape != (n_frames, n_atoms, 3) or forces.shape != pos.shape or energy.size != n_frames or z.ndim != 1:
        shapes = {"numbers": z.shape, "positions": pos.shape, "energies": energy.shape, "forces": forces.shape}
        raise ValueError(f"{path}: shapes do not fit together: {shapes}")
    if strange := [array.dtype.name for array in (z, pos, energy, forces) if array.dtype.kind not in "iuf"]:
        raise ValueError(f"{path}: numbers, positions, energies and forces must be real numbers, got {strange[0]}")
    if not all(np.isfinite(array).all() for array in (pos, energy, forces)):
        raise ValueError(f"{path}: positions, energies or forces are not all finite")
    if not ((z >= 1) & (z <= MAX_Z) & (z == np.round(z))).all():
        raise ValueError(f"{path}: atomic numbers must be 1 to {MAX_Z}, got {z.tolist()}")
    pos, energy, forces = (np.asarray(array, dtype=np.float64)[::step] for array in (pos, energy.reshape(-1), forces))
    pos *= to_angstrom
    try:
        check_frames_distinct(pos)
        pos, origin = frames_near_origin(pos, dtype)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return (
        torch.from_numpy(z.astype(np.int64)),
        torch.tensor(pos.reshape(-1, 3), dtype=dtype),
        torch.from_numpy(origin),
        torch.from_numpy(energy * to_ev),
        torch.tensor(forces.reshape(-1, 3) * (to_ev / to_angstrom), dtype=dtype),
    )
