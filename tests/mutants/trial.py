"""One mutant in a copy of the repository: planted, shown to its tests, taken out again."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path
from typing import NamedTuple

from .mutant import PACKAGE, Mutant
from .selection import stages
from .server import TestServer

KERNEL_CACHES = tuple(f"{PACKAGE}/backends/numba/{name}" for name in ("__pycache__", "lib/__pycache__"))
_COPIED = (PACKAGE, "tests", "examples", "benchmarks", "pyproject.toml", "README.md", "CHANGELOG.md")
_FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)


class Result(NamedTuple):
    """What became of a mutant: ``killed``, ``survived``, ``timeout`` (not known) or ``error`` (of the tool)."""

    mutant: Mutant
    outcome: str
    by: str  # the test that failed
    seconds: float


def copy_tree(root: Path, folder: Path) -> Path:
    """The repository with its compiled kernels in a folder, times of files included, which caches go by."""
    for name in _COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, folder / name, symlinks=True)
        elif (root / name).exists():
            shutil.copy2(root / name, folder / name)
    return folder


def failed_in(printed: str) -> list[str]:
    """Names of the tests that failed."""
    return _FAILED.findall(printed)


def attempt(server: TestServer, folder: Path, mutant: Mutant, *, limit: float) -> Result:
    """Plant a mutant in a copy of the repository, run its tests up to the first failure, and restore the file.

    Args:
        server: Runs the tests.
        folder: Copy of the repository.
        mutant: What to plant.
        limit: Seconds for each of the two stages of tests.
    """
    file, start = folder / mutant.path, time.monotonic()
    text, times = file.read_text(encoding="utf-8"), file.stat()
    try:
        planted = mutant.plant(text)
    except (ValueError, IndexError) as error:
        return Result(mutant, "error", str(error), 0.0)
    caches = {folder / name: folder / f"kernel_cache_{k}" for k, name in enumerate(KERNEL_CACHES) if mutant.is_kernel}
    for cache, aside in caches.items():
        if cache.exists():
            cache.rename(aside)
    file.write_text(planted, encoding="utf-8")
    try:
        for tests in stages(mutant, folder):
            if not tests:
                continue
            code, printed = server.run(folder, tests, "-x", limit=limit)
            seconds = time.monotonic() - start
            if code is None:
                return Result(mutant, "timeout", "", seconds)
            failed = ["import"] if "while loading conftest" in printed else failed_in(printed)
            if code in (1, 2, 4) and failed:
                return Result(mutant, "killed", failed[0], seconds)
            if code not in (0, 5):
                return Result(mutant, "error", printed[-500:], seconds)
        return Result(mutant, "survived", "", time.monotonic() - start)
    finally:
        file.write_text(text, encoding="utf-8")
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        for cache, aside in caches.items():
            shutil.rmtree(cache, ignore_errors=True)
            if aside.exists():
                aside.rename(cache)
