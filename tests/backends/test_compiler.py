"""Compiled code on disk: kept where it can be, and never the reason that a kernel cannot be called."""

import errno
import importlib.util
import itertools
import logging
import os
from pathlib import Path

import numba
import numba.core.caching as caching
import numpy as np
import pytest

from pyg_schnet.backends.numba.lib import compiler

SOURCE = """
from pyg_schnet.backends.numba.lib.compiler import njit

@njit
def twice(x):
    return 2 * x

@njit(cache=True)
def cube(x):
    return x * x * x
"""
_number = itertools.count()


@pytest.fixture(autouse=True)
def log(caplog):
    """Messages of this test, also those that are given once a process."""
    for once in (compiler._temporary_folder, compiler._say_that_it_compiles, compiler._say_that_nothing_is_kept):
        once.cache_clear()
    caplog.set_level(logging.INFO, compiler.__name__)
    yield caplog
    compiler._temporary_folder.cache_clear()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "kernels.py"
    path.write_text(SOURCE)
    return path


def load(path):
    """The module as a new process finds it."""
    spec = importlib.util.spec_from_file_location(f"kernels_{next(_number)}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kept(path):
    return sorted((path.parent / "__pycache__").glob("*.nb?"))


def test_compiled_code_is_found_again(path, log):
    first, second = load(path), load(path)
    assert first.twice(4) == 8
    assert first.cube(3) == 27
    assert log.text.count("compiling kernels for this processor") == 1
    assert len(kept(path)) == 2  # an index and one signature
    assert second.cube(3) == 27
    assert sum(second.cube.kernel.stats.cache_hits.values()) == 1


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: bytes(range(256)) * 8,
        lambda content: content[:-200] + bytes(200),
        lambda content: content[: len(content) // 2] + b"\x00\xff" * 8 + content[len(content) // 2 + 16 :],
        lambda content: b"cos\nnothing_of_this_name\n(tR.",
    ],
    ids=["empty", "cut", "random", "end", "middle", "foreign"],
)
def test_damaged_files_are_replaced(path, log, suffix, damage):
    load(path).cube(3)
    [file] = [file for file in kept(path) if file.suffix == f".{suffix}"]
    file.write_bytes(damage(file.read_bytes()))
    assert load(path).cube(3) == 27
    again = load(path)
    assert again.cube(3) == 27
    assert sum(again.cube.kernel.stats.cache_hits.values()) == 1


@pytest.fixture
def nowhere(monkeypatch):
    """Only folders of the module itself can be written to, as in a container without a writable home."""

    def ensure_cache_path(self):
        if "pyg_schnet-kernels-" not in self.get_cache_path():
            raise OSError(errno.EROFS, "Read-only file system")
        Path(self.get_cache_path()).mkdir(parents=True, exist_ok=True)

    for locator in list(vars(caching).values()):
        if isinstance(locator, type) and hasattr(locator, "ensure_cache_path"):
            monkeypatch.setattr(locator, "ensure_cache_path", ensure_cache_path)


@pytest.mark.usefixtures("nowhere")
def test_without_a_folder_a_private_one_serves(path, log, monkeypatch):
    cube = load(path).cube
    folder = Path(compiler._temporary_folder())
    assert cube(3) == 27
    assert list(folder.rglob("*.nbc"))
    assert folder.stat().st_mode & 0o077 == 0
    load(path)
    assert log.text.count("no folder for compiled kernels can be written to") == 1
    assert "set NUMBA_CACHE_DIR" in log.text


@pytest.mark.usefixtures("nowhere")
def test_without_any_folder_kernels_are_compiled_in_every_process(path, log, monkeypatch):
    def refuse(**options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(compiler.tempfile, "mkdtemp", refuse)
    assert load(path).cube(3) == 27
    assert not kept(path)
    assert log.text.count("no folder for compiled kernels can be written to") == 1


def test_a_full_disk_is_said_once(path, log, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(caching.IndexDataCacheFile, "save", full)
    module = load(path)
    assert module.cube(3) == 27
    assert module.cube(0.5) == 0.125
    assert log.text.count("compiled kernels cannot be kept on disk") == 1
    assert "No space left" in log.text


def test_parts_and_parallel_twins(tmp_path):
    path = tmp_path / "kernels.py"
    path.write_text(
        SOURCE
        + """
@njit(cache=True)
def cubes(begin, end, x, pair):
    for i in range(begin, end):
        x[i] = cube(x[i]) + pair[0][i]
"""
    )
    for hits in (0, 1):
        module, x = load(path), np.arange(4.0)
        module.cubes(1, 3, x, (x.copy(), x))
        np.testing.assert_array_equal(x, [0, 2, 10, 3])
        module.cubes.parallel(np.array([0, 2, 4]), x, (np.zeros(4), x))
        np.testing.assert_array_equal(x, [0, 8, 1000, 27])
        for kernel in (module.cubes.kernel, module.cubes.parallel):
            assert sum(kernel.stats.cache_hits.values()) == hits
    assert len(kept(path)) == 4  # nothing of the function that is a part of both


def test_a_numba_that_has_no_parts(path, log, monkeypatch):
    class Changed(compiler._LinkingCompiler):
        def define_pipelines(self):
            raise AttributeError("no such pass")

    compiler._parts_are_possible.cache_clear()
    monkeypatch.setattr(compiler, "_LinkingCompiler", Changed)
    path.write_text(SOURCE + "\n@njit\ndef both(x):\n    return twice(x) + cube(x)\n")
    assert load(path).both(2) == 12
    assert log.text.count("no such pass") == 1
    compiler._parts_are_possible.cache_clear()


def test_parts_are_possible_with_this_numba(log):
    compiler._parts_are_possible.cache_clear()
    assert compiler._parts_are_possible()
    assert log.text == ""


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows has no such permissions")
@pytest.mark.parametrize(
    ("above", "mode", "accepted"),
    [(0o700, 0o700, True), (0o1777, 0o700, True), (0o777, 0o700, False), (0o700, 0o770, False), (0o700, 0o777, False)],
)
def test_folders_that_others_can_write_to_are_not_used(tmp_path, monkeypatch, log, above, mode, accepted):
    folder = tmp_path / "kernels"
    locator = getattr(caching, "UserProvidedCacheLocator", None) or caching._UserProvidedCacheLocator  # numba 0.60
    monkeypatch.setattr(locator, "get_cache_path", lambda self: str(folder / "sub"))
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(folder))
    (folder / "sub").mkdir(parents=True)
    (folder / "sub").chmod(mode)
    folder.chmod(above)
    found = compiler.cache_folder()
    assert (found == str(folder / "sub")) == accepted
    assert Path(found).stat().st_mode & 0o022 == 0
