"""``pyg-schnet reference-data``: training data for potentials, labelled by a semi-empirical method or a calculator."""

from __future__ import annotations

from typing import Any, Literal

from pyg_schnet.cli._help import REFERENCE_DATA
from pyg_schnet.cli._options import run_function


def run(args: list[str]) -> None:
    """Run the command with its arguments."""
    if any(one in ("-h", "--help") for one in args):
        print(REFERENCE_DATA, end="")
        return
    run_function("reference-data", make, args, needs=["pyg_schnet.cli._reference"])


def make(
    folder: str,
    *,
    qm9: int = 0,
    part: Literal["train", "test"] = "train",
    held_out: int = 2000,
    leave_out: str | list[str] | None = None,
    qm9_dir: str | None = None,
    files: str | list[str] | None = None,
    relabel: str | list[str] | None = None,
    index: str = ":",
    pbc: bool | None = None,
    smiles: str | list[str] | None = None,
    conformers: int = 1,
    exchange: dict[str, str] | None = None,
    kinds: dict[str, float] | None = None,
    temperature: tuple[float, float] = (300.0, 1000.0),
    every: int = 5,
    timestep: float = 1.0,
    friction: float = 0.02,
    max_force: float | None = None,
    max_energy: float = 1.0,
    pair_atoms: int = 26,
    method: str = "GFN2-xTB",
    method_options: dict[str, Any] | None = None,
    charge: int = 0,
    repeats: int = 1,
    shard_size: int | None = None,
    processes: int = 1,
    seed: int = 0,
) -> None:
    """Energies and forces of geometries of molecules, in shards that training reads.

    Args:
        folder: Folder of the data; the same command goes on where it was ended.
        qm9: Number of molecules of QM9.
        part: Molecules of QM9 to train on, or of those that are held out for tests.
        held_out: Number of molecules of QM9 that are held out.
        leave_out: Names of QM9 as gdb_21, or files, of molecules to be left out, too.
        qm9_dir: Folder of QM9's cache.
        files: Files of molecules that ASE reads.
        relabel: Files whose structures are labelled as they are.
        index: Which structures of each file, in ASE's notation.
        pbc: Give false for molecules in a periodic box.
        smiles: SMILES, or files of them.
        conformers: Number of conformers of each SMILES.
        exchange: Elements and what takes their place in one to three atoms of each molecule.
        kinds: Number of geometries of each kind for each molecule.
        temperature: Lowest and highest in K.
        every: Steps between kept geometries of Langevin dynamics.
        timestep: In fs.
        friction: In 1/fs.
        max_force: Largest force in eV/Å that is kept; 20 by default, 1000 for --relabel.
        max_energy: Largest energy in eV/atom above that of the molecule that is kept.
        pair_atoms: Most atoms of a pair of molecules.
        method: Method of tblite, or path of a class of ASE's calculators.
        method_options: Its options.
        charge: Of each structure.
        repeats: How often each molecule is taken, with other random numbers.
        shard_size: Molecules in a shard; 50 by default, 1000 for --relabel.
        processes: Number of processes.
        seed: Of all random numbers.
    """
    options = dict(locals())
    from pyg_schnet.cli import _reference

    _reference.make(**options)
