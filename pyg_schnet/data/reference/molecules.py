"""Molecules to make geometries of: from QM9, and from files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from ase.build import molecule as of_name

from pyg_schnet.data.ase_files import read_all
from pyg_schnet.data.charge import charge_and_spin
from pyg_schnet.data.qm9 import QM9
from pyg_schnet.data.reference.frames import Molecule

SMALL = (
    "H2", "N2", "CO", "CO2", "H2O", "NH3", "CH4", "HF", "HCN", "C2H2", "C2H4", "C2H6", "H2CO", "CH3OH", "HCOOH",
    "H3CNH2", "H2CF2", "SH2", "PH3", "HCl", "CH3SH", "CH3Cl", "OCS", "CS2", "SO2",
)  # fmt: skip
"""Small molecules, by the names that ASE knows, which are partners in pairs beside those of the data."""

_PARTNERS, _PARTNER_ATOMS = 400, 12


class Chosen(NamedTuple):
    """Molecules of QM9.

    Attributes:
        molecules: Those to make geometries of.
        forbidden: Graphs of the molecules that are left for tests.
    """

    molecules: list[Molecule]
    forbidden: frozenset[str]


def from_qm9(
    dataset: Any,
    count: int,
    part: Literal["train", "test"] = "train",
    held_out: int = 2000,
    leave_out: Iterable[str] = (),
    seed: int = 0,
) -> Chosen:
    """Some molecules of QM9, of which the first ones in a random order are held out for tests.

    The order depends on the seed alone. A training molecule has the graph of no molecule that is held out or left out:
    its stereoisomers are left out with it.

    Args:
        dataset: The data set QM9.
        count: Number of molecules; fewer where there are no more.
        part: Molecules to train on, or of those that are held out.
        held_out: Number of molecules that are held out.
        leave_out: Names such as ``"gdb_21"``, or files of molecules; they are no training molecules, and come first
            among those of the test if they have a name.
        seed: Of the order.

    Raises:
        ValueError: If a number is negative, or there is no molecule of a name.
        FileNotFoundError: If there is no such file.
    """
    if count < 0 or held_out < 0:
        raise ValueError(f"numbers of molecules must not be negative, got {count} and {held_out} held out")
    order = np.argsort(np.random.PCG64(seed).random_raw(len(dataset)), kind="stable")
    named, graphs = _left_out(dataset, leave_out)
    test = [*named, *(one for one in order[:held_out].tolist() if one not in named)]
    if part == "test":
        return Chosen([_of_qm9(dataset, one) for one in test[:count]], frozenset())
    forbidden = frozenset([*graphs, *(_of_qm9(dataset, one).key() for one in test)])
    found: list[Molecule] = []
    for one in order[held_out:].tolist():
        if len(found) == count:
            break
        molecule = _of_qm9(dataset, one)
        if molecule.key() not in forbidden:
            found.append(molecule)
    return Chosen(found, forbidden)


def _of_qm9(dataset: Any, index: int) -> Molecule:
    data = dataset[index]
    return Molecule(data.name, data.z.numpy(), data.pos.numpy().astype(float))


def _left_out(dataset: Any, leave_out: Iterable[str]) -> tuple[list[int], list[str]]:
    """Places of named molecules, and graphs of those in files."""
    given = list(leave_out)
    names = [one for one in given if not Path(one).suffix]
    places = {name: place for place, name in enumerate(dataset._data.name)} if names else {}
    if missing := [name for name in names if name not in places]:
        raise ValueError(f"QM9 has no molecule {missing[0]!r}; names are gdb_1, gdb_2, ..., others must be files")
    return [places[name] for name in names], sorted(graphs_of(name for name in given if name not in names))


def graphs_of(files: Iterable[str]) -> frozenset[str]:
    """Graphs of the molecules in some files, as :meth:`Molecule.key` has them.

    Args:
        files: Files that ASE reads.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a file cannot be read.
    """
    return frozenset(one.key() for name in files for one in from_files(name, pbc=False))


def without(molecules: Iterable[Molecule], forbidden: frozenset[str]) -> list[Molecule]:
    """Molecules whose graphs are not forbidden.

    Args:
        molecules: Some molecules.
        forbidden: Graphs of others.

    Example:
        >>> water, ammonia = (Molecule(name, of_name(name).numbers, of_name(name).positions) for name in ("H2O", "NH3"))
        >>> [one.name for one in without([water, ammonia], frozenset([water.key()]))]
        ['NH3']
    """
    return [one for one in molecules if one.key() not in forbidden]


def from_files(
    source: Sequence[str | os.PathLike[str]] | str | os.PathLike[str], index: str = ":", pbc: bool | None = None
) -> list[Molecule]:
    """Molecules of any files that ASE reads; their names say where they are from. Charge and spin are warned of.

    Args:
        source: Path or pattern, or several.
        index: Which structures of each file, in ASE's notation.
        pbc: ``False`` takes periodic structures as molecules in a box.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a file cannot be read, or a structure is periodic.
    """
    found, states = [], []
    for where, atoms in read_all(source, index, None):
        if pbc is not False and atoms.pbc.any():
            raise ValueError(f"{where} is periodic, expected a molecule; --pbc false takes it for one in a box")
        if (state := charge_and_spin(atoms)) is not None:
            states.append(f"{where} has {state}")
        found.append(Molecule(os.path.basename(where), atoms.numbers, atoms.positions))
    if states:
        more = f", and {len(states) - 1:,} more structures have charge or spin" if len(states) > 1 else ""
        warnings.warn(
            f"{states[0]}{more}; files are not asked for it: all structures are calculated with the one --charge and "
            "as few unpaired electrons as they can have",
            UserWarning,
            stacklevel=2,
        )
    return found


def load_qm9(root: str | None = None) -> QM9:
    """The data set QM9.

    Args:
        root: Folder of its cache.
    """
    return QM9(root)


def partners_of(molecules: Sequence[Molecule], forbidden: frozenset[str] = frozenset()) -> list[Molecule]:
    """Molecules to make pairs with: ``SMALL`` ones of the same elements, and the first small ones of the data.

    Args:
        molecules: Molecules of the data.
        forbidden: Graphs that are not to be among them.
    """
    elements = elements_of(molecules)
    found = [Molecule(name, atoms.numbers, atoms.positions) for name in SMALL for atoms in [of_name(name)]]
    found = [one for one in found if set(one.numbers.tolist()) <= elements]
    found += [one for one in molecules if 1 < len(one.numbers) <= _PARTNER_ATOMS][:_PARTNERS]
    return without(found, forbidden)


def elements_of(molecules: Sequence[Molecule]) -> set[int]:
    """Atomic numbers of some molecules."""
    return {number for one in molecules for number in np.unique(one.numbers).tolist()}
