"""Triton's interpreter in tests, without most of the time that it takes."""

import functools
from importlib.metadata import version
from types import ModuleType
from typing import Any

import pytest


def skip_where_it_is_broken() -> None:
    """Triton 3.6 makes numbers of loops from arrays in a way that NumPy 2.4 refuses."""
    triton, numpy = (tuple(int(number) for number in version(name).split(".")[:2]) for name in ("triton", "numpy"))
    if triton < (3, 7) and numpy >= (2, 4):
        pytest.skip("triton 3.6 interprets no loops with NumPy 2.4 or newer: pip install 'numpy<2.4'")


def patch_language_once() -> None:
    """Let the interpreter replace triton's language once in this process, not in every call within a kernel.

    It exchanges the functions of ``triton.language`` for its own whenever a kernel is launched, and again whenever a
    kernel calls a function: most of the time of small kernels. Here they stay exchanged, so nothing can be compiled in
    this process. A version of triton without these private names is slow and nothing else.
    """
    from triton.runtime import interpreter

    names: Any = interpreter
    if not (hasattr(names, "_patch_lang") and hasattr(names, "_LangPatchScope")):
        return
    original, seen = names._patch_lang, set()

    @functools.wraps(original)
    def patch(function: Any) -> Any:
        languages = frozenset(
            id(value)
            for value in function.__globals__.values()
            if isinstance(value, ModuleType) and value.__name__.startswith("triton.language")
        )
        if languages not in seen:
            original(function)
            seen.add(languages)
        return names._LangPatchScope()  # with nothing to put back

    names._patch_lang = patch
