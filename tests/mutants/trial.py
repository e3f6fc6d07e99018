"""One mutant in a copy of the repository: planted, shown to its tests, taken out again."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from .mutant import PACKAGE, Mutant
from .selection import stages

KERNEL_CACHE = f"{PACKAGE}/kernels/cpu/__pycache__"
_COPIED = (PACKAGE, "tests", "examples", "benchmarks", "pyproject.toml", "README.md", "CHANGELOG.md")
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


class Result(NamedTuple):
    """What became of a mutant: ``killed``, ``survived``, ``timeout`` (counts as killed) or ``error`` (of the tool)."""

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


def run_tests(
    folder: Path, tests: Sequence[str], *options: str, limit: float, deselect: Sequence[str] = ()
) -> tuple[int | None, str]:
    """Exit status of pytest, ``None`` where it was ended after ``limit`` seconds, and what it printed."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",  # a file that changes twice in a second would be taken for the same
        "OMP_NUM_THREADS": "1",
        "NUMBA_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=no", *options]
    command += [argument for test in deselect for argument in ("--deselect", test)]
    process = subprocess.Popen(
        [*command, *tests],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0]
    return process.returncode, printed


def failed_in(printed: str) -> list[str]:
    """Names of the tests that failed."""
    return _FAILED.findall(printed)


def attempt(
    folder: Path,
    mutant: Mutant,
    *,
    limit: float,
    seconds_of: Mapping[str, float] | None = None,
    deselect: Sequence[str] = (),
) -> Result:
    """Plant a mutant in a copy of the repository, run its tests up to the first failure, and restore the file.

    Args:
        folder: Copy of the repository.
        mutant: What to plant.
        limit: Seconds for each of the two stages of tests.
        seconds_of: How long each test file takes; the cheapest come first.
        deselect: Tests that fail without any mistake.
    """
    file, start = folder / mutant.path, time.monotonic()
    text, times = file.read_text(encoding="utf-8"), file.stat()
    try:
        planted = mutant.plant(text)
    except (ValueError, IndexError) as error:
        return Result(mutant, "error", str(error), 0.0)
    cache, kept = folder / KERNEL_CACHE, folder / "kernel_cache"
    if mutant.is_kernel and cache.exists():
        cache.rename(kept)
    file.write_text(planted, encoding="utf-8")
    try:
        for tests in stages(mutant, folder):
            tests = sorted(tests, key=lambda test: (seconds_of or {}).get(test, 0.0))
            if not tests:
                continue
            code, printed = run_tests(folder, tests, "-x", limit=limit, deselect=deselect)
            seconds = time.monotonic() - start
            if code is None:
                return Result(mutant, "timeout", "", seconds)
            if code in (1, 2, 3):
                return Result(mutant, "killed", next(iter(failed_in(printed)), "import"), seconds)
            if code not in (0, 5):
                return Result(mutant, "error", printed[-500:], seconds)
        return Result(mutant, "survived", "", time.monotonic() - start)
    finally:
        file.write_text(text, encoding="utf-8")
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        if mutant.is_kernel:
            shutil.rmtree(cache, ignore_errors=True)
            if kept.exists():
                kept.rename(cache)
