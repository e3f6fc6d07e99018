"""Compilation of the kernels by numba: where compiled code is kept, and what happens where it cannot be.

Numba keeps compiled code in ``__pycache__`` beside the sources, in the user's cache folder, or in ``NUMBA_CACHE_DIR``.
Where none of these can be written to, a private temporary folder serves for the life of the process. A damaged file is
compiled again and replaced. Both numba leaves to its callers: without this module the first raises "cannot cache
function", the second an unpickling error in every later process.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from typing import Any

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.serialize import dumps

_logger = logging.getLogger(__name__)


def njit(function: Callable | None = None, *, cache: bool = False, **options: Any) -> Callable:
    """Numba's ``njit``, with a cache on disk that never stands in the way.

    Args:
        function: Function to compile, where the decorator has no options.
        cache: Whether compiled code is kept on disk.
        **options: Other options of :func:`numba.njit`.

    Returns:
        The dispatcher, or a decorator that makes it.
    """
    if function is None:
        return lambda decorated: njit(decorated, cache=cache, **options)
    dispatcher = numba.njit(**options)(function)
    if cache:
        _keep_on_disk(dispatcher)
    return dispatcher


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
        "no folder for compiled kernels can be written to, so every process compiles them again; set NUMBA_CACHE_DIR "
        "to a folder that can be written to"
    )
    if folder is not None:
        owner = os.getpid()
        atexit.register(lambda: os.getpid() == owner and shutil.rmtree(folder, ignore_errors=True))
    return folder


@cache
def _say_that_it_compiles() -> None:
    """One line a process, at the first kernel that is not on disk."""
    _logger.warning("compiling kernels for this processor, which takes a minute or two once; later calls find them")


@cache
def _say_that_nothing_is_kept(reason: str) -> None:
    _logger.warning("compiled kernels cannot be kept on disk: %s", reason)


class _CheckedResult(CompileResultCacheImpl):
    """Compiled code with its checksum, since damaged machine code ends the process."""

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
