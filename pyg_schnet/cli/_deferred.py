"""Packages that others import and no short command needs: imported when something of them is asked for.

Importing PyTorch Geometric takes three times as long as torch alone: it imports all of its data sets, which bring
pandas, and torch's compiler with sympy, for one ``isinstance``. A command that computes one energy waits for neither.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

UNUSED = {"torch": ("_dynamo",), "torch_geometric": ("datasets",)}
"""Modules by their packages."""


def defer() -> None:
    """Import the modules of :data:`UNUSED` only when they are used, in this process; those that are there stay."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Deferred(ModuleType):
    """A module whose code runs when a name of it is asked for, or a module inside of it is imported."""

    def __getattr__(self, name: str) -> Any:
        waiting = self.__dict__.pop("_waiting", None)
        if waiting is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        loader, self.__path__ = waiting
        self.__class__ = ModuleType  # before its code runs, which may import the module itself
        loader.exec_module(self)
        return getattr(self, name)


class _DeferringLoader(Loader):
    """Make a module, and keep its code for later.

    Args:
        loader: What runs the code.
    """

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """An empty module."""
        return _Deferred(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Note what runs the code, and hide the path, so that modules inside are not imported before it."""
        module._waiting = (self.loader, module.__dict__.pop("__path__"))


class _Finder(MetaPathFinder):
    """Finds the modules of :data:`UNUSED`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the module is made by, or ``None`` for those of other finders."""
        package, _, name = fullname.rpartition(".")
        if name not in UNUSED.get(package, ()):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None or spec.submodule_search_locations is None:
            return None
        spec.loader = _DeferringLoader(spec.loader)
        return spec
