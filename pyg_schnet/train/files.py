"""Where the files of a run are: those it leaves, and those of its data sets."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODEL_FILE, SPLIT_FILE, CONFIG_FILE, RESULT_FILE = "model.safetensors", "split.json", "config.yaml", "result.json"

RUN = "run"
"""Entry of a model's card: kind of task and options of the data, so that the model can be tested without its folder."""

_DATASETS = ("dataset", "test_dataset")
_ARGUMENTS = ("path", "source")  # of data sets, that name their files


def locate_data(data: Any, folder: str | os.PathLike[str] | None) -> Any:
    """Options of a data module whose data sets read their files from ``folder``; absolute names stay.

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
    return _rename(data, lambda name: str(Path(folder) / name))


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
    for dataset in _DATASETS:
        ((data.get(dataset) or {}).get("init_args") or {}).pop("root", None)
    return data


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
