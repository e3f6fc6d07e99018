"""Triton's interpreter in tests, without most of the time that it takes."""

import functools
from types import ModuleType
from typing import Any


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
