"""QM9: 130,831 small organic molecules with energies and other properties at the B3LYP/6-31G(2df,p) level."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import itertools
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from pyg_schnet.data.base import StructureDataset
from pyg_schnet.data.isotopes import ISOTOPE_MASSES
from pyg_schnet.data.properties import QM9_PROPERTIES, Property, find_property
from pyg_schnet.models.reading import check_file
from pyg_schnet.units import factor

_NUMBERS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}
_HARTREE = factor("Hartree", "eV")

# Column of the files and factor to the unit of the target, in the order of y; the *_atom columns follow from these.
_SOURCE_COLUMNS = {
    "mu": ("Dipole_debye", 1.0),
    "alpha": ("Polarizability_bohr3", 1.0),
    "homo": ("HOMO_au", _HARTREE),
    "lumo": ("LUMO_au", _HARTREE),
    "gap": ("HOMO_LUMO_gap_au", _HARTREE),
    "r2": ("R2_bohr2", 1.0),
    "zpve": ("ZPVE_au", _HARTREE),
    "U0": ("InternalEnergy_0K_au", _HARTREE),
    "U": ("InternalEnergy_298K_au", _HARTREE),
    "H": ("Enthalphy_298K_au", _HARTREE),  # sic
    "G": ("GibbsFreeEnergy_298K_au", _HARTREE),
    "cv": ("Heatcapacity_Cv_cal_mol_K", 1.0),
    "A": ("RotA_GHz", 1.0),
    "B": ("RotB_GHz", 1.0),
    "C": ("RotC_GHz", 1.0),
}

# Energies of the free atoms H, C, N, O, F in Hartree, from atomref.txt of the data set's publication.
_ATOM_ENERGIES = {
    "zpve": (0.0, 0.0, 0.0, 0.0, 0.0),
    "U0": (-0.500273, -37.846772, -54.583861, -75.064579, -99.718730),
    "U": (-0.498857, -37.845355, -54.582445, -75.063163, -99.717314),
    "H": (-0.497912, -37.844411, -54.581501, -75.062219, -99.716370),
    "G": (-0.510927, -37.861317, -54.598897, -75.079532, -99.733544),
    "cv": (0.0, 0.0, 0.0, 0.0, 0.0),  # as PyG; the publication gives 3/2 R + R = 2.981 cal/(mol K) for every atom
}
_MAX_Z = 100


class QM9(StructureDataset):
    r"""QM9, 130,831 molecules of H, C, N, O and F, of `Ramakrishnan et al. <https://doi.org/10.1038/sdata.2014.22>`_.

    The numbers come from the package ``qm9pack`` on PyPI (``pip install pyg_schnet[qm9]``), which already leaves out
    the 3,054 molecules that failed the publication's consistency check. They are read once, in some ten seconds,
    and cached; later the cache alone is needed. Fields and their order are those of
    :class:`torch_geometric.datasets.QM9`, which reads the same molecules from another copy:

    * ``z`` ``[N]``, ``pos`` ``[N, 3]`` in Å, ``y`` ``[1, 19]`` in the units below,
    * ``idx`` ``[1]``, number of the molecule in the publication, from 0 on; ``name``, such as ``"gdb_1"`` for 0.

    Positions have ten decimals here; those of PyG have the four of its SDF file. There is no bond graph (``x``,
    ``edge_index``, ``edge_attr``, ``smiles``): SchNet makes its edges from distances. ``y`` is float64, because float32
    is spaced by 1 to 2 meV at total energies of 10,000 to 17,000 eV, which is a good part of the error of a trained
    model; PyG stores float32. The atomization energies (12 to 15) are computed here from the columns 7 to 10 and the
    energies of the free atoms; PyG reads them from a file in kcal/mol.

    ====== =========== ============= =========================================
    Column Name        Unit          Meaning
    ====== =========== ============= =========================================
    0      ``mu``      D             dipole moment
    1      ``alpha``   a₀³           isotropic polarizability
    2      ``homo``    eV            highest occupied orbital energy
    3      ``lumo``    eV            lowest unoccupied orbital energy
    4      ``gap``     eV            lumo minus homo
    5      ``r2``      a₀²           electronic spatial extent
    6      ``zpve``    eV            zero-point vibrational energy
    7      ``U0``      eV            internal energy at 0 K
    8      ``U``       eV            internal energy at 298.15 K
    9      ``H``       eV            enthalpy at 298.15 K
    10     ``G``       eV            free energy at 298.15 K
    11     ``cv``      cal/(mol K)   heat capacity at 298.15 K
    12     ``U0_atom`` eV            U0 minus that of the free atoms
    13     ``U_atom``  eV            U minus that of the free atoms
    14     ``H_atom``  eV            H minus that of the free atoms
    15     ``G_atom``  eV            G minus that of the free atoms
    16-18  A, B, C     GHz           rotational constants
    ====== =========== ============= =========================================

    Args:
        root: Folder whose subfolder ``processed`` holds the cache; by default ``pyg_schnet/qm9`` in ``$XDG_CACHE_HOME``
            or ``~/.cache``.
        transform: Applied to every single molecule on access; see :class:`StructureDataset`.
        source: Folder with files ``qm9_part*.csv`` in the format of ``qm9pack``, read instead of those.
        dtype: Of ``pos``.
        force_reload: Read the source again, whether there is a cache or not.
        progress: Whether to show a progress bar while the source is read.

    Raises:
        ImportError: If there is neither a cache nor ``qm9pack``.
        FileNotFoundError: If ``source`` has no such file.
        ValueError: If a line of the source is not what it should be; the message names file and line.
    """

    targets: dict[str, Property] = QM9_PROPERTIES
    properties: dict[str, Property] = QM9_PROPERTIES

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        transform: Callable | None = None,
        source: str | os.PathLike | None = None,
        dtype: torch.dtype = torch.float32,
        force_reload: bool = False,
        progress: bool = True,
    ) -> None:
        super().__init__(str(_default_root() if root is None else root), transform)
        files = None if source is None else _source_files(Path(source))
        cache = Path(self.processed_dir) / (
            "qm9-1" + ("" if files is None else "-" + _signature(files)) + ".safetensors"
        )
        if force_reload or not cache.exists():
            columns = _read(_qm9pack_files() if files is None else files, progress)
            _save(columns, cache)
        self._fill(_load(cache), dtype)

    def _fill(self, columns: dict[str, Tensor], dtype: torch.dtype) -> None:
        idx = columns["idx"]
        self.set_store(
            columns["n_atoms"],
            atoms={"z": columns["z"].long(), "pos": columns["pos"].to(dtype)},
            structures={"y": columns["y"], "idx": idx, "name": [f"gdb_{i + 1}" for i in idx.tolist()]},
        )

    def atomref(self, target: str | int) -> Tensor | None:
        """Value of a target for free atoms, by atomic number, shape ``[100, 1]``, in the unit of the target.

        Args:
            target: Name or column of the target.

        Returns:
            float64; the total energies for ``U0``, ``U``, ``H``, ``G``, zeros for ``zpve`` and ``cv``, ``None`` for
            targets that are no sums over atoms.
        """
        name = list(self.targets)[target] if isinstance(target, int) else find_property(self, target).name
        if name not in _ATOM_ENERGIES:
            return None
        out = torch.zeros(_MAX_Z, 1, dtype=torch.float64)
        out[list(_NUMBERS.values()), 0] = torch.tensor(_ATOM_ENERGIES[name], dtype=torch.float64) * _HARTREE
        return out

    def mean(self, name: str | int) -> float:
        """Mean of a target, given by name or column, in its unit."""
        return super().mean(list(self.targets)[name] if isinstance(name, int) else name)

    def std(self, name: str | int) -> float:
        """Standard deviation of a target, given by name or column, in its unit."""
        return super().std(list(self.targets)[name] if isinstance(name, int) else name)


def _default_root() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyg_schnet" / "qm9"


def _qm9pack_files() -> list[Path]:
    # Importing qm9pack would need pkg_resources, which setuptools no longer has; only its files are wanted.
    spec = importlib.util.find_spec("qm9pack")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            "QM9 is built from the package qm9pack; install it with `pip install pyg_schnet[qm9]`, "
            "or give `source`, a folder with its files qm9_part*.csv"
        )
    return _source_files(Path(next(iter(spec.submodule_search_locations))) / "data")


def _source_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("qm9_part*.csv"))
    if not files:
        raise FileNotFoundError(f"no file qm9_part*.csv in {folder}")
    return files


def _signature(files: list[Path]) -> str:
    """Short hash of contents, so that two sources do not share a cache."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + check_file(file).read_bytes())
    return digest.hexdigest()[:12]


def _read(files: list[Path], progress: bool) -> dict[str, Tensor]:
    idx, n_atoms, z, pos, targets = [], [], [], [], []
    rows = (row for file in files for row in _rows(file))
    for index, numbers, positions, values in tqdm(
        rows, desc="Reading QM9", unit=" molecules", disable=not progress, mininterval=0.5
    ):
        idx.append(index - 1)
        n_atoms.append(len(numbers))
        z.extend(numbers)
        pos.append(positions)
        targets.append(values)
    if not idx:
        raise ValueError(f"the files {files[0].parent / 'qm9_part*.csv'} have no molecules")
    if idx != sorted(set(idx)):
        wrong = next(two for one, two in itertools.pairwise(idx) if two <= one) + 1
        raise ValueError(
            f"the molecules of {files[0].parent} are not in the order of their Index, or appear twice: that with Index "
            f"{wrong} comes behind one that is not smaller"
        )
    species, counts = torch.tensor(z, dtype=torch.uint8), torch.tensor(n_atoms)
    values = torch.from_numpy(np.array(targets))
    return {
        "idx": torch.tensor(idx),
        "n_atoms": counts,
        "z": species,
        "pos": torch.from_numpy(np.concatenate(pos)),
        "y": _targets(values, species, counts),
    }


def _targets(values: Tensor, z: Tensor, n_atoms: Tensor) -> Tensor:
    """The 19 columns of y from the 15 of the files, shape ``[B, 19]``."""
    names = list(_SOURCE_COLUMNS)
    molecule = torch.repeat_interleave(torch.arange(n_atoms.numel()), n_atoms)
    atomization = []
    for name in ("U0", "U", "H", "G"):
        free = torch.zeros(_MAX_Z, dtype=torch.float64)
        free[list(_NUMBERS.values())] = torch.tensor(_ATOM_ENERGIES[name], dtype=torch.float64)
        of_atoms = torch.zeros(n_atoms.numel(), dtype=torch.float64).index_add_(0, molecule, free[z.long()])
        atomization.append(values[:, names.index(name)] - of_atoms)
    scale = torch.tensor([unit for _, unit in _SOURCE_COLUMNS.values()], dtype=torch.float64)
    scaled = values * scale
    return torch.cat([scaled[:, :12], torch.stack(atomization, dim=1) * _HARTREE, scaled[:, 12:]], dim=1)


def _rows(file: Path) -> Iterator[tuple[int, list[int], np.ndarray, list[float]]]:
    """Index, atomic numbers, positions ``[N, 3]`` and the 15 numbers of every line."""
    needed = {"Index", "N_atoms", "Elements", "XYZ_Ang", *(column for column, _ in _SOURCE_COLUMNS.values())}
    with check_file(file).open(newline="", encoding="utf-8") as handle:
        number = 1
        try:
            rows = csv.DictReader(handle, strict=True)
            if missing := sorted(needed - set(rows.fieldnames or ())):
                raise ValueError(f"it has no column {', '.join(missing)}")
            for number, row in enumerate(rows, start=2):  # noqa: B007 - the number is that of what is raised
                yield _row(row)
        except UnicodeDecodeError as error:
            raise ValueError(f"{file}, behind line {number}, is not text in UTF-8") from error
        except (ValueError, csv.Error) as error:
            number += isinstance(error, csv.Error)  # the line that could not be taken apart
            raise ValueError(f"{file}, line {number}, is not a molecule of QM9: {error}") from error


def _row(row: dict[str, Any]) -> tuple[int, list[int], np.ndarray, list[float]]:
    if short := [name for name, text in row.items() if name is None or text is None]:
        more = "more" if None in short else "fewer"
        raise ValueError(f"it has {more} columns than the first line")
    symbols = [symbol.strip() for symbol in row["Elements"].strip("[]").replace("'", "").split(",")]
    if unknown := [one for one in symbols if one not in _NUMBERS and one not in ISOTOPE_MASSES]:
        raise ValueError(f"Elements must be some of {', '.join(_NUMBERS)}, got {unknown[0]!r}")
    numbers = [1 if symbol in ISOTOPE_MASSES else _NUMBERS[symbol] for symbol in symbols]
    coordinates = row["XYZ_Ang"].replace("[", "").replace("]", "").split(",")
    positions = np.array([_real("XYZ_Ang", number) for number in coordinates])
    n_atoms, index = (_whole(name, row[name]) for name in ("N_atoms", "Index"))
    if not len(numbers) == n_atoms == positions.size / 3:
        raise ValueError(f"{n_atoms} atoms, {len(numbers)} elements and {positions.size} coordinates")
    values = [_real(column, row[column]) for column, _ in _SOURCE_COLUMNS.values()]
    positions = positions.reshape(-1, 3)
    near = np.abs(positions[:, None] - positions).max(-1) < 1e-3
    if np.count_nonzero(near) > n_atoms:
        first, second = np.argwhere(np.triu(near, 1))[0]
        raise ValueError(f"atoms {first} and {second} are in the same place")
    return index, numbers, positions, values


def _real(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{name} must be a number, got {text!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"{name}: a number is not finite, {text!r}")
    return number


def _whole(name: str, text: str) -> int:
    if not text.strip().isdecimal():
        raise ValueError(f"{name} must be a whole number, got {text!r}")
    return int(text)


def _save(columns: dict[str, Tensor], cache: Path) -> None:
    """Write the cache beside its place and move it there, so that it is whole or absent."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    partial = cache.with_name(f".{cache.name}.{os.getpid()}.partial")
    try:
        save_file(columns, partial)
        partial.replace(cache)
    finally:
        partial.unlink(missing_ok=True)


def _load(cache: Path) -> dict[str, Tensor]:
    try:
        columns = load_file(check_file(cache))
        _check_columns(columns)
    except (SafetensorError, ValueError) as error:
        raise OSError(f"the cache {cache} is damaged ({error}); pass force_reload=True to make it again") from error
    return columns


def _check_columns(columns: dict[str, Tensor]) -> None:
    """Raise unless a cache has the columns of some molecules, of the sizes that fit together."""
    if missing := [name for name in ("idx", "n_atoms", "z", "pos", "y") if name not in columns]:
        raise ValueError(f"it has no {', '.join(missing)}")
    n_atoms = columns["n_atoms"]
    if n_atoms.dim() != 1 or not len(n_atoms) or n_atoms.is_floating_point() or int(n_atoms.min()) < 1:
        raise ValueError("n_atoms must be numbers of atoms")
    total, count = int(n_atoms.sum()), len(n_atoms)
    expected = {"idx": [count], "z": [total], "pos": [total, 3], "y": [count, len(QM9_PROPERTIES)]}
    for name, shape in expected.items():
        if list(columns[name].shape) != shape:
            raise ValueError(f"{name} has shape {list(columns[name].shape)}, expected {shape}")
        if columns[name].is_floating_point() != (name in ("pos", "y")):
            raise ValueError(f"{name} is of {columns[name].dtype}")
