"""Compilation of the kernels by numba, and cache of the compiled code.

A function decorated with :func:`njit` has three forms, each compiled when it is first needed: a part of the kernels
that call it; a kernel of its own when it is called from Python; and, for functions of a range of rows, a
parallel form, which runs several ranges at a time. Only kernels are kept on disk.

Parts are optimised together with the kernel that they end up in and never by themselves, which halves the time of
compilation. This reaches into numba; where a version of it does not allow that, parts are compiled as numba does.

Numba keeps compiled code in ``__pycache__`` beside the sources, in the user's cache folder, or in ``NUMBA_CACHE_DIR``.
It is unpickled, so folders that others can write to are not used. Where none is left, a private temporary folder
serves for the life of the process. A damaged file is compiled again and replaced. All this numba leaves to its callers:
without this module a missing folder raises "cannot cache function", a damaged file an unpickling error in every later
process.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import pickle
import shutil
import stat
import tempfile
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import LoweringPass, register_pass
from numba.core.registry import CPUDispatcher
from numba.core.serialize import dumps
from numba.core.typed_passes import NativeLowering

_logger = logging.getLogger(__name__)


REASSOCIATED = {"fastmath": {"reassoc", "contract", "nsz", "arcp"}, "error_model": "numpy", "cache": True}
"""Options of kernels whose sums may be reordered and fused; nothing is assumed of NaN and infinity."""

ORDERED = {"fastmath": {"contract"}, "error_model": "numpy", "cache": True}
"""Sums keep their order, and fuse with products: what is compiled into several kernels must give the same numbers."""

INLINED = {**ORDERED, "forceinline": True}
"""As above, for functions that are called once for each pair and inlined, since a call takes as long."""

EXACT = {"error_model": "numpy", "cache": True}
"""As above, for sums of two products, where it is not defined which of them is fused."""


class Routine(CPUDispatcher):
    """A function that kernels call; called from Python it is a kernel itself."""

    def __call__(self, *arguments: Any) -> Any:
        """Call the function as a kernel."""
        return self.kernel(*arguments)

    @cached_property
    def kernel(self) -> Callable:
        """The function by itself."""
        return kernel_of(self.py_func, self.kernel_options)

    @cached_property
    def parallel(self) -> Callable:
        """Parallel form of ``f(begin, end, ...)``; begin and end become bounds of several ranges, ``[ranges + 1]``."""
        function = self.py_func
        names = ", ".join(function.__code__.co_varnames[2 : function.__code__.co_argcount])
        lines = [
            f"def {function.__name__}_parallel(bounds, {names}):",
            "    for part in prange(bounds.shape[0] - 1):",
            f"        routine(bounds[part], bounds[part + 1], {names})",
        ]
        return kernel_of(generate(lines, function, routine=self), {**self.kernel_options, "parallel": True})


def njit(function: Callable | None = None, **options: Any) -> Callable:
    """Numba's ``njit`` for the functions that kernels are made of, and for kernels.

    Args:
        function: Function to compile, where the decorator has no options.
        **options: Options of :func:`numba.njit`; ``cache`` keeps the kernel that it is by itself on disk.

    Returns:
        The :class:`Routine`, or a decorator that makes it.
    """
    if function is None:
        return lambda decorated: njit(decorated, **options)
    part = {name: value for name, value in options.items() if name != "cache"}
    routine = numba.njit(pipeline_class=_PartCompiler, no_cpython_wrapper=True, no_cfunc_wrapper=True, **part)(function)
    routine.__class__, routine.kernel_options = Routine, options
    return routine


def generate(lines: list[str], beside: Callable, **names: Any) -> Callable:
    """Function made from its source, which calls others by name: closures could not be found again on disk.

    Args:
        lines: Its source.
        beside: Function of the module that it belongs to, and beside which compiled code is kept.
        **names: What it calls, besides ``range`` and ``prange``.
    """
    [code] = [
        each
        for each in compile("\n".join(lines), beside.__code__.co_filename, "exec").co_consts
        if isinstance(each, CodeType)
    ]
    function = FunctionType(code, {"prange": numba.prange, "__name__": beside.__module__, **names}, code.co_name)
    function.__module__ = beside.__module__
    return function


def kernel_of(function: Callable, options: dict[str, Any]) -> Callable:
    """The function as a kernel that Python calls, kept on disk if ``options["cache"]``."""
    chosen = {name: value for name, value in options.items() if name != "cache"}
    dispatcher = numba.njit(no_cfunc_wrapper=True, **chosen)(function)
    if options.get("cache"):
        _keep_on_disk(dispatcher)
    return dispatcher


class _Unlinked:
    """Code generator for functions that have no address yet, so that nothing can be written there."""

    def __init__(self, codegen: Any) -> None:
        self._codegen = codegen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codegen, name)

    def set_env(self, name: str, env: Any) -> None:
        """Nothing to set: the kernel that the function is linked into does so."""


class _PartLibrary(JITCodeLibrary):
    """Code that is neither optimised nor turned into machine code before it is linked into a kernel."""

    @property
    def codegen(self) -> _Unlinked:
        return _Unlinked(self._codegen)

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        self._ensure_finalized()
        return 0


@register_pass(mutates_CFG=False, analysis_only=False)
class _MakePart(LoweringPass):
    _name = "pyg_schnet_make_part"

    def __init__(self) -> None:
        super().__init__()

    def run_pass(self, state: Any) -> bool:
        state.library = _PartLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        return True


class _LinkingCompiler(CompilerBase):
    """Numba's passes, with another library."""

    def define_pipelines(self) -> list[Any]:
        """The passes, one more before the code of the function is made."""
        pipeline = DefaultPassBuilder.define_nopython_pipeline(self.state)
        [place] = [k for k, (one, _) in enumerate(pipeline.passes) if one is NativeLowering]
        pipeline.passes.insert(place, (_MakePart, "code of a part of kernels"))
        pipeline._finalized = False
        pipeline.finalize()
        return [pipeline]


class _PartCompiler(_LinkingCompiler):
    """The same where numba allows it, and numba's own passes where it does not."""

    def define_pipelines(self) -> list[Any]:
        """The passes."""
        if _parts_are_possible():
            return super().define_pipelines()
        return [DefaultPassBuilder.define_nopython_pipeline(self.state)]


@cache
def _parts_are_possible() -> bool:
    """Whether a kernel with a part gives what it should; tried once in a process that compiles."""
    try:
        part = numba.njit(pipeline_class=_LinkingCompiler, no_cpython_wrapper=True, no_cfunc_wrapper=True)(_add_one)
        return numba.njit(generate(["def trial(x):", "    return part(x) + part(x)"], _add_one, part=part))(1) == 4
    except Exception as error:  # names and their meaning may change with every version of numba
        _logger.warning("numba %s compiles kernels slowly, since it takes them apart: %r", numba.__version__, error)
        return False


def _add_one(x: int) -> int:
    return x + 1


def _keep_on_disk(dispatcher: Any) -> None:
    """What ``dispatcher.enable_caching()`` does, with :class:`_Cache`."""
    try:
        dispatcher._cache = _Cache(dispatcher.py_func)
    except RuntimeError:  # numba found no folder that it can write to
        folder = _temporary_folder()
        if folder is None:
            return
        before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, folder
        try:
            dispatcher._cache = _Cache(dispatcher.py_func)
        except RuntimeError:
            return  # compiled in every process
        finally:
            numba.config.CACHE_DIR = before


@cache
def _temporary_folder() -> str | None:
    """A private folder (mode 0700) that lasts as long as this process; ``None`` where there is no place for one."""
    try:
        folder = tempfile.mkdtemp(prefix="pyg_schnet-kernels-")
    except OSError:
        folder = None
    _logger.warning(
        "no folder for compiled kernels can be written to by this user alone, so every process compiles them again; "
        "set NUMBA_CACHE_DIR to a folder of your own"
    )
    if folder is not None:
        owner = os.getpid()
        atexit.register(lambda: os.getpid() == owner and shutil.rmtree(folder, ignore_errors=True))
    return folder


def cache_folder() -> str | None:
    """Folder in which compiled kernels are kept on disk; ``None`` where there is none."""
    return getattr(kernel_of(_add_one, {"cache": True})._cache, "cache_path", None)


def _private(locator: type) -> type:
    """One of numba's locators of folders, for folders that this user alone can write to."""

    class Private(locator):
        def ensure_cache_path(self) -> None:
            folder = self.get_cache_path()
            os.makedirs(folder, mode=0o700, exist_ok=True)
            _check_private(Path(folder), Path(self._py_file).parent)
            super().ensure_cache_path()

    return Private


def _check_private(folder: Path, sources: Path) -> None:
    """Raise OSError, with which numba goes on to its next folder, for a folder that others could put code into."""
    if not hasattr(os, "getuid"):  # folders of Windows are those of the user
        return
    status, above, beside = (path.stat() for path in (folder, folder.parent, sources))
    if folder.parent == sources and status.st_uid == beside.st_uid and not status.st_mode & ~beside.st_mode & 0o022:
        return  # those who can write there can change the sources as well
    mine = {status.st_uid, above.st_uid} <= {os.getuid(), 0}
    replaceable = above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX
    if not mine or status.st_mode & 0o022 or replaceable:
        raise OSError(f"others can write to {folder}, where compiled kernels would be kept")


@cache
def _say_that_it_compiles() -> None:
    """One line a process, at the first kernel that is not on disk."""
    _logger.warning("compiling kernels for this processor, which takes a minute or two once; later calls find them")


@cache
def _say_that_nothing_is_kept(reason: str) -> None:
    _logger.warning("compiled kernels cannot be kept on disk: %s", reason)


@cache
def _stamp_of_sources() -> tuple[tuple[float, int], ...]:
    """Time and size of the files of this backend."""
    found = [path.stat() for path in sorted(Path(__file__).parents[1].rglob("*.py"))]
    return tuple((status.st_mtime, status.st_size) for status in found)


class _CheckedResult(CompileResultCacheImpl):
    """Compiled code with its checksum, since damaged machine code ends the process."""

    _locator_classes = tuple(map(_private, CompileResultCacheImpl._locator_classes))

    def reduce(self, cres: Any) -> tuple[bytes, bytes]:
        payload = dumps(super().reduce(cres))
        return hashlib.sha256(payload).digest(), payload

    def rebuild(self, target_context: Any, payload: tuple[bytes, bytes]) -> Any:
        digest, content = payload
        if hashlib.sha256(content).digest() != digest:
            raise ValueError("the file is damaged")
        return super().rebuild(target_context, pickle.loads(content))


class _Cache(FunctionCache):
    """Numba's cache of one function: what cannot be read is compiled, what cannot be written is not kept."""

    _impl_class = _CheckedResult

    def __init__(self, function: Callable) -> None:
        super().__init__(function)
        stamps = self._cache_file._source_stamp, _stamp_of_sources()
        self._cache_file._source_stamp = stamps  # a kernel consists of functions of many files

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        found = None
        try:
            found = super().load_overload(sig, target_context)
        except Exception as error:  # unpickling random bytes raises nearly anything
            _logger.info("a file of compiled kernels in %s is damaged (%r) and is replaced", self.cache_path, error)
            self._forget()
        if found is None:
            _say_that_it_compiles()
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception as error:  # a full disk, a folder that is gone, an index that cannot be replaced
            _say_that_nothing_is_kept(repr(error))

    def _forget(self) -> None:
        try:
            self.flush()
        except OSError as error:
            _say_that_nothing_is_kept(repr(error))
