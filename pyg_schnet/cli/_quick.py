"""PyTorch Geometric and ASE's readers, imported without what they import in turn and no short command needs.

Importing PyTorch Geometric takes three times as long as torch alone: it imports all of its data sets, which bring
pandas, and torch's compiler with sympy, for one ``isinstance``. ASE's readers bring numerical integration, for the
spectra of solids. While the two are imported, empty modules stand there instead; what they stood for is imported later,
as ever, if something asks for it.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import cast

UNUSED = (("torch", "_dynamo"), ("torch_geometric", "datasets"), ("ase", "dft"))
"""Package and module of what is left out."""


def import_quickly() -> None:
    """Import PyTorch Geometric and ASE's readers, where they were not imported before.

    Raises:
        ImportError: If one of them is not there.
        ValueError: If a variable of the environment is none that they can read.
    """
    import_module("torch")
    with _left_out():
        import_module("pyg_schnet.ops._pyg")
        import_module("ase.io")


@contextmanager
def _left_out() -> Iterator[None]:
    """Replace :data:`UNUSED` by empty modules."""
    names = [f"{package}.{name}" for package, name in UNUSED]
    added = [name for name in names if name not in sys.modules]
    sys.modules.update({name: ModuleType(name) for name in added})
    if "ase.dft" in added:  # whose lists of special points are used
        place = cast(str, import_module("ase").__file__)
        sys.modules["ase.dft"].__path__ = [str(Path(place).with_name("dft"))]
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.startswith(tuple(added))]:
            del sys.modules[name]


@contextmanager
def without_collection() -> Iterator[None]:
    """No search for garbage while modules are imported, and none among them later: a fifth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
