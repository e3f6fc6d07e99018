"""Models of this package in i-PI: path integrals, replica exchange and instantons, all beads of a step in one batch."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch

from pyg_schnet.data.charge import warn_of_charge
from pyg_schnet.geometry import volume
from pyg_schnet.interfaces._extras import missing
from pyg_schnet.interfaces.committee import Committee

__all__ = ["SchNetDriver", "pes_file"]

Answer = tuple[float, np.ndarray, np.ndarray, str]
"""Energy in Hartree, forces in Hartree/Bohr ``[N, 3]``, virial in Hartree ``[3, 3]``, and further results as JSON."""


def pes_file() -> str:
    """The file that i-PI reads: ``i-pi-py_driver -m custom -P FILE``, or ``<pes_path>`` of ``<ffdirect>``.

    Example:
        >>> pes_file().endswith("ipi_pes.py")
        True
    """
    return str(Path(__file__).with_name("ipi_pes.py"))


class SchNetDriver:
    """A model, or a committee of several, as driver of `i-PI <https://ipi-code.org>`_ (``ipi.pes``).

    i-PI asks for one structure, or for a list of them: with ``<batch_size>`` of ``<ffdirect>`` or ``<ffsocket>`` set to
    the number of beads, all of them are evaluated in one batch. Lengths and energies are turned from atomic units by
    i-PI's own constants, cells from columns to rows. The virial is minus stress times volume, and zero for molecules.

    Args:
        template: File that ASE reads; elements, order of atoms and periodic directions are those of its first
            structure.
        model: Model file or name of a pretrained one; several, separated by ``|``, make a committee, and a file may
            hold one. In Python also models, and sequences of them.
        unit: Unit of the models' output, where they do not know it.
        dtype: ``"float64"`` or ``"float32"``, precision of the networks.
        device: Device of the networks.
        skin: Distance in Å that atoms may move, half of it each, before the neighbour list is built again.
        untrained_forces: Whether to give derivatives of models that were trained on energies alone.
        verbosity: What i-PI tells all drivers; of no effect.
        verbose: As ``verbosity``.

    Attributes:
        committee: The potentials.

    Raises:
        ImportError: If i-PI is not installed.
        ValueError: If ``dtype`` is another one, or a model cannot be used.

    Example:
        >>> import pytest; _ = pytest.importorskip("ipi")
        >>> from pyg_schnet import SchNet
        >>> driver = SchNetDriver("examples/aspirin.xyz", SchNet(16, 16, 2, 20, 5.0), unit="eV")
        >>> beads = [driver.positions / 0.529177] * 4
        >>> answers = driver([np.eye(3)] * 4, beads)
        >>> len(answers), answers[0][1].shape
        (4, (21, 3))
    """

    def __init__(
        self,
        template: str,
        model: Any,
        unit: str | None = None,
        dtype: str = "float64",
        device: str = "cpu",
        skin: float = 0.3,
        untrained_forces: bool = False,
        verbosity: Any = None,
        verbose: bool = False,
    ) -> None:
        if importlib.util.find_spec("ipi") is None:
            raise missing("i-PI", "ipi")
        if dtype not in ("float64", "float32"):
            raise ValueError(f"dtype must be float64 or float32, got {dtype}")
        atoms: Any = ase.io.read(template, index=0)
        warn_of_charge(atoms, where=f"the structure in {template}")
        self.numbers = torch.from_numpy(atoms.numbers.astype(np.int64))
        self.positions = atoms.get_positions()
        self.pbc = torch.from_numpy(atoms.pbc)
        if isinstance(model, str):
            model = model.split("|")
        options: dict[str, Any] = {"skin": float(skin), "device": device, "untrained_forces": _flag(untrained_forces)}
        self.committee = Committee(model, unit, dtype=getattr(torch, dtype), **options)

    def __call__(self, cell: Any, pos: Any) -> Any:
        """Answer for one structure, or for a list of them.

        Args:
            cell: Lattice vectors in columns in Bohr, ``[3, 3]``, or a list of such.
            pos: Positions in Bohr, ``[N, 3]``, or a list of such.

        Returns:
            Energy, forces, virial and JSON, or a list of such; see :data:`Answer`.

        Raises:
            ValueError: If numbers of cells, structures or atoms differ.
        """
        if isinstance(cell, list) != isinstance(pos, list):
            raise ValueError("cell and pos must be lists both, or arrays both")
        return self.compute(cell, pos) if isinstance(cell, list) else self.compute([cell], [pos])[0]

    def compute(self, cells: Sequence[np.ndarray], positions: Sequence[np.ndarray]) -> list[Answer]:
        """Answers for structures, of one batch; arguments as those of the call for a list."""
        from ipi.utils.units import unit_to_user

        if len(cells) != len(positions):
            raise ValueError(f"there must be one cell for each structure, got {len(cells)} and {len(positions)}")
        size, n_atoms = len(positions), len(self.numbers)
        given = np.stack([np.asarray(each, dtype=np.float64).reshape(-1, 3) for each in positions])
        if given.shape[1] != n_atoms:
            raise ValueError(f"the template has {n_atoms} atoms, i-PI sent {given.shape[1]}")
        columns = np.stack([np.asarray(each, dtype=np.float64).reshape(3, 3) for each in cells])
        pos = torch.from_numpy(unit_to_user("length", "angstrom", given)).view(-1, 3)
        cell = torch.from_numpy(unit_to_user("length", "angstrom", columns)).mT.contiguous()
        batch = torch.arange(size).repeat_interleave(n_atoms)
        found: Any = self.committee(
            self.numbers.repeat(size), pos, batch, size, cell=cell, pbc=self.pbc.expand(size, 3), stress=True
        )
        found = self.committee.calibrated(found)
        energy = _internal("energy", "electronvolt", found.energy)
        forces = _internal("force", "ev/ang", found.forces.view(len(self.committee), size, n_atoms, 3))
        volumes = volume(cell) if bool(self.pbc.any()) else torch.zeros(size)
        virial = _internal("energy", "electronvolt", -found.stress.cpu() * volumes.view(-1, 1, 1))
        return [_answer(energy[:, k], forces[:, k], virial[:, k]) for k in range(size)]


def _flag(value: Any) -> bool:
    """A truth value, which i-PI's input may give as a word."""
    return value.strip().lower() == "true" if isinstance(value, str) else bool(value)


def _internal(kind: str, unit: str, values: torch.Tensor) -> np.ndarray:
    """Values in i-PI's units, by its own constants."""
    from ipi.utils.units import unit_to_internal

    return unit_to_internal(kind, unit, values.cpu().double().numpy())


def _answer(energy: np.ndarray, forces: np.ndarray, virial: np.ndarray) -> Answer:
    """Mean over models; of committees, what each of them says goes along as i-PI's own committees have it.

    Deviations from the mean are times the factors of a calibration: the spread that i-PI takes has the size of errors.
    """
    extras = ""
    if len(energy) > 1:
        named = {"committee_pot": energy, "committee_force": forces, "committee_virial": virial}
        extras = json.dumps({name: value.tolist() for name, value in named.items()})
    return float(energy.mean()), forces.mean(0), virial.mean(0), extras
