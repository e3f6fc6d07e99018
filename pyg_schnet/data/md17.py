"""MD17 and rMD17: molecular dynamics trajectories of small molecules, from the published ``.npz`` files."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from pyg_schnet.data.base import StructureDataset
from pyg_schnet.data.labels import STANDARD_LABELS
from pyg_schnet.data.properties import Property
from pyg_schnet.units import convert, dimension

# numbers, positions, energies and forces in the files of MD17 (also sGDML) and of rMD17
_KEYS = {"MD17": ("z", "R", "E", "F"), "rMD17": ("nuclear_charges", "coords", "energies", "forces")}


class MD17(StructureDataset):
    """Frames of one or several ``.npz`` files of MD17 or rMD17, in eV and Å.

    `MD17 <https://doi.org/10.1126/sciadv.1603015>`_ keeps ``z, R, E, F`` and `rMD17
    <https://doi.org/10.1088/2632-2153/abba6f>`_ ``nuclear_charges, coords, energies, forces``, both in Å, kcal/mol and
    kcal/mol/Å. Numbers are converted on reading. PyG's :class:`torch_geometric.datasets.MD17` leaves them as they are
    and rounds the energies to float32, which is spaced by 1.4 meV (0.03 kcal/mol) at -406,000 kcal/mol, aspirin.

    Each structure has ``z`` ``[N]``, ``pos`` ``[N, 3]`` and ``forces`` ``[N, 3]`` in ``dtype``, and ``energy`` ``[1]``
    in float64. Neighbouring frames of MD17 are correlated: split at random, or better by time.

    Args:
        path: File, or several files whose frames follow each other.
        energy_unit: Unit of the energies in the files; forces are in this unit per Å.
        step: Take every ``step``-th frame, the first one included.
        transform: Applied to every single structure on access; see :class:`StructureDataset`.
        dtype: Of positions and forces.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file is not in one of the two formats, says that it has another unit, or holds numbers that
            are not finite or do not fit together.
    """

    properties: dict[str, Property] = {name: STANDARD_LABELS[name] for name in ("energy", "forces")}  # noqa: RUF012

    def __init__(
        self,
        path: str | os.PathLike | Sequence[str | os.PathLike],
        energy_unit: str = "kcal/mol",
        step: int = 1,
        transform: Callable | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(transform=transform)
        if dimension(energy_unit) != "energy":
            raise ValueError(f"energy_unit must be a unit of energy, got {energy_unit!r}")
        if step < 1:
            raise ValueError(f"step must be at least 1, got {step}")
        paths = [path] if isinstance(path, str | os.PathLike) else path
        parts = [_read(Path(file).expanduser(), energy_unit, step, dtype) for file in paths]
        if not parts:
            raise ValueError("path is empty; give at least one file")
        n_atoms = torch.cat([torch.full((len(energy),), len(z)) for z, _, energy, _ in parts])
        self.set_store(
            n_atoms,
            atoms={
                "z": torch.cat([z.repeat(len(energy)) for z, _, energy, _ in parts]),
                "pos": torch.cat([pos for _, pos, _, _ in parts]),
                "forces": torch.cat([forces for _, _, _, forces in parts]),
            },
            structures={"energy": torch.cat([energy for _, _, energy, _ in parts])},
        )


def _read(path: Path, energy_unit: str, step: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    try:
        with np.load(path, allow_pickle=False) as content:
            names = next((keys for keys in _KEYS.values() if set(keys) <= set(content.files)), None)
            if names is None:
                wanted = " or ".join(f"{', '.join(keys)} ({kind})" for kind, keys in _KEYS.items())
                raise ValueError(f"it has {', '.join(content.files)}, expected {wanted}")
            stated = str(content["e_unit"]) if "e_unit" in content.files else energy_unit  # sGDML says it
            if stated != energy_unit:
                raise ValueError(f"it says that its energies are in {stated}; pass energy_unit={stated!r}")
            z, pos, energy, forces = (np.asarray(content[name]) for name in names)
    except FileNotFoundError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a file of MD17 or rMD17: {error}") from error
    n_frames, n_atoms = len(pos), len(z)
    if pos.shape != (n_frames, n_atoms, 3) or forces.shape != pos.shape or energy.size != n_frames or z.ndim != 1:
        shapes = {"numbers": z.shape, "positions": pos.shape, "energies": energy.shape, "forces": forces.shape}
        raise ValueError(f"{path}: shapes do not fit together: {shapes}")
    if not all(np.isfinite(array).all() for array in (pos, energy, forces)):
        raise ValueError(f"{path}: positions, energies or forces are not all finite")
    pos, energy, forces = pos[::step], energy.reshape(-1)[::step], forces[::step]
    return (
        torch.from_numpy(z.astype(np.int64)),
        torch.tensor(pos.reshape(-1, 3), dtype=dtype),
        torch.from_numpy(convert(energy.astype(np.float64), energy_unit, "eV")),
        torch.tensor(convert(forces.reshape(-1, 3).astype(np.float64), energy_unit, "eV"), dtype=dtype),
    )
