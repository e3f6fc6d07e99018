"""Trajectory and log of a simulation: files that grow, and can be cut back to an earlier length."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian
from ase.io.trajectory import TrajectoryWriter

ENDINGS = (".xyz", ".extxyz", ".traj")
"""Of trajectories: extended xyz, and ASE's own format."""

_HEAD = 48  # bytes at the head of ASE's format: a mark, the number of frames and the place of their table


def frame_of(atoms: Atoms, **info: Any) -> Atoms:
    """The present state alone: elements, positions, momenta, cell, fixed atoms, and results for these positions.

    Committees add standard deviations, as :mod:`pyg_schnet.interfaces.ase_properties` has them.

    Args:
        atoms: Structure with a calculator.
        **info: Entries of ``info``.
    """
    frame = Atoms(atoms.numbers, atoms.get_positions(), cell=atoms.cell, pbc=atoms.pbc, info=info)
    if atoms.has("masses"):
        frame.set_masses(atoms.get_masses())
    if atoms.has("momenta"):
        frame.set_momenta(atoms.get_momenta())
    frame.set_constraint([one for one in atoms.constraints if isinstance(one, FixAtoms | FixCartesian)])
    names = ("energy", "forces", "stress", "energy_std", "forces_std", "stress_std")
    found = {name: atoms.calc.results[name] for name in names if name in getattr(atoms.calc, "results", {})}
    frame.calc = SinglePointCalculator(frame, **found)
    return frame


def write_extended_xyz(file: Any, frame: Atoms) -> None:
    """Write a frame in extended xyz, with the atoms that are fixed, which old versions of ASE have to be asked for.

    Args:
        file: Open file, or path.
        frame: The frame.
    """
    columns = None
    if frame.constraints:
        others = [name for name in frame.arrays if name not in ("numbers", "positions")]
        results = [name for name in ("forces", "forces_std") if name in getattr(frame.calc, "results", {})]
        columns = ["symbols", "positions", *others, *results, "move_mask"]
    ase.io.write(file, frame, format="extxyz", columns=columns)


class GrowingFile:
    """A file that grows, and is cut back to a noted length when a run goes on.

    Args:
        path: The file; its folder has to be there.
        noted: What :meth:`state` has given for it; ``None`` to begin.

    Raises:
        ValueError: If the file is not there, or shorter than it was.
    """

    def __init__(self, path: Path, noted: Mapping[str, Any] | None = None) -> None:
        self.path = path
        if noted is not None:
            size = path.stat().st_size if path.is_file() else -1
            if size < noted["length"]:
                found = f"has {size:,}" if size >= 0 else "is not there"
                raise ValueError(
                    f"{path} {found}, but had {noted['length']:,} bytes at the checkpoint; put it back, or begin with "
                    "another output"
                )
            self._cut(noted)

    def _cut(self, noted: Mapping[str, Any]) -> None:
        with self.path.open("r+b") as file:
            file.truncate(noted["length"])

    def state(self) -> dict[str, Any]:
        """Wait until everything is on the disk, and give the length in bytes."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        return {"length": self.path.stat().st_size}

    def close(self) -> None:
        """Nothing comes any more."""


class Table(GrowingFile):
    r"""A table of numbers with commas, a line at a time.

    Args:
        path: The file.
        columns: Names of the columns.
        noted: As of :class:`GrowingFile`.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.csv"
        >>> table = Table(path, ["step", "energy [eV]"])
        >>> table.write([0, 0.1]), table.write([1, None])
        (None, None)
        >>> table.close()
        >>> path.read_text()
        'step,energy [eV]\n0,0.1\n1,\n'
    """

    def __init__(self, path: Path, columns: Sequence[str], noted: Mapping[str, Any] | None = None) -> None:
        super().__init__(path, noted)
        self._file = path.open("w" if noted is None else "a", encoding="utf-8", newline="")
        if noted is None:
            self._line(list(columns))

    def write(self, values: Sequence[float | None]) -> None:
        """Add a line, and hand it to the system.

        Args:
            values: Numbers in the order of the columns; ``None`` leaves a place empty.
        """
        self._line(["" if one is None else format(one, ".12g") for one in values])

    def _line(self, words: list[str]) -> None:
        self._file.write(",".join(words) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class ExtendedXYZ(GrowingFile):
    """Frames in extended xyz.

    Args:
        path: The file.
        noted: As of :class:`GrowingFile`.
    """

    def __init__(self, path: Path, noted: Mapping[str, Any] | None = None) -> None:
        super().__init__(path, noted)
        self._file = path.open("w" if noted is None else "a", encoding="utf-8", newline="")

    def write(self, frame: Atoms) -> None:
        """Add a frame, and hand it to the system."""
        write_extended_xyz(self._file, frame)
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Trajectory(GrowingFile):
    """Frames in ASE's own format, which has their number and places in its head; that is noted too.

    Args:
        path: The file.
        noted: As of :class:`GrowingFile`.
    """

    def __init__(self, path: Path, noted: Mapping[str, Any] | None = None) -> None:
        super().__init__(path, noted)
        self._writer = TrajectoryWriter(str(path), "w" if noted is None else "a")

    def _cut(self, noted: Mapping[str, Any]) -> None:
        super()._cut(noted)
        with self.path.open("r+b") as file:
            file.write(bytes.fromhex(noted["head"]))

    def state(self) -> dict[str, Any]:
        """As of :class:`GrowingFile`, with the head of the file."""
        with self.path.open("rb") as file:
            head = file.read(_HEAD)
        return {**super().state(), "head": head.hex()}

    def write(self, frame: Atoms) -> None:
        """Add a frame, and hand it to the system."""
        self._writer.write(frame)

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


def frames_in(path: Path, noted: Mapping[str, Any] | None = None) -> ExtendedXYZ | Trajectory:
    """File of frames by its ending.

    Args:
        path: The file.
        noted: As of :class:`GrowingFile`.

    Raises:
        ValueError: If it has none of :data:`ENDINGS`.
    """
    if path.suffix not in ENDINGS:
        raise ValueError(f"output must end in {', '.join(ENDINGS)}, got {path}")
    return (Trajectory if path.suffix == ".traj" else ExtendedXYZ)(path, noted)
