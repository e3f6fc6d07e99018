"""A planted mistake: which text of a file becomes which other one, and the tests that have to notice it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGE = "pyg_schnet"


class Mutant(NamedTuple):
    """One planted mistake.

    Attributes:
        name: What is reported, and what ``--only`` looks in.
        file: File below the package, such as ``"nn/conv.py"``.
        old: Text that is replaced; it occurs once in the file, or is the whole line number ``line``.
        new: What it becomes.
        line: Number of the line from 1 on, where ``old`` may occur several times.
        tests: Test files or folders to begin with, below ``tests``; empty takes those of the module.
    """

    name: str
    file: str
    old: str
    new: str
    line: int | None = None
    tests: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """File below the root of the repository."""
        return f"{PACKAGE}/{self.file}"

    @property
    def is_kernel(self) -> bool:
        """Whether compiled code depends on the file, so that nothing of it may be taken from a cache."""
        return self.file.startswith("backends/numba/")

    def plant(self, text: str) -> str:
        """The text of the file with the mistake.

        Raises:
            ValueError: If the old text is not there, or not once; the list is out of date then.
        """
        if self.line is None:
            if (count := text.count(self.old)) != 1:
                raise ValueError(f"{self.name}: {self.old!r} occurs {count} times in {self.path}, expected once")
            return text.replace(self.old, self.new)
        lines = text.split("\n")
        if lines[self.line - 1] != self.old:
            raise ValueError(f"{self.name}: line {self.line} of {self.path} is no longer {self.old.strip()!r}")
        lines[self.line - 1] = self.new
        return "\n".join(lines)

    def key(self) -> tuple[str, str, str]:
        """What an explanation of a survivor is found by: the lines alone, wherever they move to."""
        return self.file, self.old.strip(), self.new.strip()
