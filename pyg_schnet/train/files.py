"""Where the files of a run are: those it leaves, and those of its data sets."""

from __future__ import annotations

import copy
import glob
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pyg_schnet.models.writing import write_whole

MODEL_FILE, SPLIT_FILE, CONFIG_FILE, RESULT_FILE = "model.safetensors", "split.json", "config.yaml", "result.json"
CHECKPOINTS = "checkpoints"

LOGS = "logs"
"""Folder of the tables that a run logs."""

RUN = "run"
"""Entry of a model's card: kind of task and options of the data, so that the model can be tested without its folder."""

_DATASETS = ("dataset", "test_dataset")
_ARGUMENTS = ("path", "source")  # of data sets, that name their files


def locate_data(data: Any, folder: str | os.PathLike[str] | None) -> Any:
    """Options of a data module whose data sets read their files from ``folder``.

    Files are looked for there by their names with folders and, where there is none, without; absolute names of files
    that exist stay.

    Args:
        data: Section ``data`` of a configuration, as a dictionary or jsonargparse's namespace.
        folder: Folder of the files; ``None`` changes nothing.

    Raises:
        FileNotFoundError: If there is no such folder.

    Example:
        >>> options = {"dataset": {"class_path": "AtomsDataset", "init_args": {"source": "a.xyz"}}}
        >>> locate_data(options, "/")["dataset"]["init_args"]["source"]
        '/a.xyz'
    """
    if folder is None:
        return data
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"no folder of data at {folder}")
    root = Path(folder).resolve()  # so that the options can be read in any place later on
    return _rename(data, lambda name: _within(root, name))


def _within(root: Path, name: str) -> str:
    """Name of a file in a folder."""
    whole, bare = root / name, root / Path(name).name
    return str(bare if bare.exists() and not whole.exists() else whole)


def check_files(data: Any) -> None:
    """Raise where files of the data sets, or of the split, are not there.

    Args:
        data: Section ``data`` of a configuration.

    Raises:
        FileNotFoundError: If a file is missing; the message names it and how to say where it is.
    """
    for name in _names(data):
        path = Path(name).expanduser()
        if not path.exists() and not (glob.has_magic(name) and glob.glob(str(path))):
            raise FileNotFoundError(
                f"there is no file {name}"
                + ("" if path.is_absolute() else f" in {Path.cwd()}")
                + "; give the folder of the data with --data_dir"
            )
    split = data.get("split")
    if isinstance(split, (str, os.PathLike)) and not Path(split).is_file():
        raise FileNotFoundError(f"there is no split at {split}; give another file with --data.split")


def _names(data: Any) -> Iterator[str]:
    """Names of the files of the data sets."""
    for dataset in (data.get(name) for name in _DATASETS):
        arguments = (dataset or {}).get("init_args") or {}
        for name in _ARGUMENTS:
            value = arguments.get(name)
            for one in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(one, (str, os.PathLike)):
                    yield str(one)


def as_json(value: Any) -> Any:
    """A value as JSON can hold it: numbers that are not finite become ``None``.

    Example:
        >>> as_json({"mae": float("nan"), "sizes": (1, 2)})
        {'mae': None, 'sizes': [1, 2]}
    """
    if isinstance(value, dict):
        return {str(name): as_json(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: Any) -> None:
    """Write a file that any reader of JSON takes."""
    text = json.dumps(as_json(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_whole(path, text + "\n")


def anonymous_data(data: dict[str, Any]) -> dict[str, Any]:
    """Options of a data module with the bare names of the files and without cache folders, to be read elsewhere.

    Args:
        data: Section ``data`` of a configuration.

    Example:
        >>> options = {"dataset": {"class_path": "AtomsDataset", "init_args": {"source": "/home/me/a.xyz"}}}
        >>> anonymous_data(options)["dataset"]["init_args"]["source"]
        'a.xyz'
    """
    data = _rename(data, lambda name: Path(name).name)
    if isinstance(data.get("split"), str):
        data["split"] = Path(data["split"]).name
    for dataset in _DATASETS:
        ((data.get(dataset) or {}).get("init_args") or {}).pop("root", None)
    return data


def name_of_model(source: str) -> str:
    """Name of a pretrained model, a file or a run, without where it lies.

    Example:
        >>> [name_of_model(source) for source in ("phonons", "mine/ethanol.safetensors", "runs/A/model.safetensors")]
        ['phonons', 'ethanol', 'A']
    """
    path = Path(source)
    return path.parent.name if path.name == MODEL_FILE and path.parent.name else path.stem


def _rename(data: Any, change: Callable[[str], str]) -> Any:
    data = copy.deepcopy(data)
    for dataset in (data.get(name) for name in _DATASETS):
        arguments = (dataset or {}).get("init_args") or {}
        for name in _ARGUMENTS:
            value = arguments.get(name)
            if isinstance(value, (str, os.PathLike)):
                arguments[name] = change(str(value))
            elif isinstance(value, (list, tuple)):
                arguments[name] = [change(str(one)) for one in value]
    return data
