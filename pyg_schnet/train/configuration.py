"""Configurations of runs that are read from files, and which of them may name what code is run.

A configuration that the user names (``--config``) may name any class, which is its purpose. A card in a model file, or
a configuration that lies beside a model, comes with a file of any origin: it may name the data sets of this
package and nothing else, so that reading it executes no code of its own.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pyg_schnet import data
from pyg_schnet.models.reading import described, read_text

LARGEST = 1_000_000
"""Size in bytes above which a file is not read as a configuration; those of runs have a few thousand."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # makes plain values alone
_MOST_NODES = 100_000  # values of a configuration, with all that its aliases stand for
_DEEPEST = 50

_DATASETS = ("dataset", "test_dataset")
_NAMES = ("AtomsDataset", "MD17", "MLearn", "MaterialsDataset", "QM9", "ReferenceData")
_CLASSES = {name: getattr(data, name) for name in _NAMES}
_ON_DISK = {**_CLASSES, "StructureStore": data.StructureStore}
_FILES = ("path", "source")
_PRECISIONS = tuple(f"torch.{name}" for name in ("float16", "bfloat16", "float32", "float64"))
_COUNTS = ("num_train", "num_val", "num_test", "seed")
_BY_PATH = "give a configuration that you trust with --config"


def read_configuration(path: Path) -> dict[str, Any]:
    """Configuration in a YAML file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not a configuration; see :func:`parse_configuration`.
    """
    return parse_configuration(read_text(path, LARGEST), str(path))


def parse_configuration(text: str, where: str) -> dict[str, Any]:
    """Configuration of a text in YAML, unless it becomes much larger when it is read.

    Args:
        text: The text.
        where: What it is, for the message.

    Raises:
        ValueError: If it is not YAML of sections, has tags of Python, names a key twice, is nested too deeply, refers
            to itself, or stands for too many values (each alias counts with all that it stands for).

    Example:
        >>> parse_configuration("a: &a [*a]", "config.yaml")
        Traceback (most recent call last):
        ValueError: config.yaml is no configuration: *a in line 1 refers to itself
    """
    try:
        for reason in _reasons(text):
            raise ValueError(f"{where} is no configuration: {reason}")
        found = yaml.load(text, Loader=_LOADER)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f" in line {mark.line + 1}, column {mark.column + 1}"
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ValueError(f"{where} is not YAML: {problem}{place}") from error
    except (RecursionError, TypeError, OverflowError) as error:  # TypeError: of a key that is a list
        raise ValueError(f"{where} is not YAML that can be read: {error}") from error
    except ValueError as error:
        if str(error).startswith(where):
            raise
        raise ValueError(f"{where} is not YAML that can be read: {error}") from error  # of a date, or too many digits
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ValueError(
            f"{where} is no configuration: expected sections such as data: and model:, got {described(found)}"
        )
    return found


def _reasons(text: str) -> Iterator[str]:
    """What is wrong with the events of a text, which are read one after the other, so that nothing is expanded."""
    sizes: dict[str, int | None] = {}  # of what an anchor stands for; None while it is open
    stack: list[_Collection] = []
    for event in yaml.parse(text, Loader=_LOADER):
        line = event.start_mark.line + 1
        size: int | None = 0
        if isinstance(event, yaml.AliasEvent):
            size = sizes.get(event.anchor, 0)
            if size is None:
                yield f"*{event.anchor} in line {line} refers to itself"
                return
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
            if event.anchor:
                sizes[event.anchor] = 1
            if stack and stack[-1].repeats(event.value):
                yield f"the key {described(event.value)} appears twice, again in line {line}"
        elif isinstance(event, yaml.CollectionStartEvent):
            stack.append(_Collection(isinstance(event, yaml.MappingStartEvent), event.anchor))
            if event.anchor:
                sizes[event.anchor] = None
            if len(stack) > _DEEPEST:
                yield f"it is nested more than {_DEEPEST} times in line {line}"
            continue
        elif isinstance(event, yaml.CollectionEndEvent):
            closed = stack.pop()
            size = closed.size + 1
            if closed.anchor:
                sizes[closed.anchor] = size
        else:
            continue
        if stack:
            stack[-1].add(size)
            size = max(size, stack[-1].size)
        if size > _MOST_NODES:
            yield f"with its aliases it has more than {_MOST_NODES:,} values, in line {line}"


class _Collection:
    """A list or mapping that is being read.

    Args:
        is_mapping: Which of the two.
        anchor: Its name, if it has one.
    """

    def __init__(self, is_mapping: bool, anchor: str | None) -> None:
        self.is_mapping, self.anchor = is_mapping, anchor
        self.size = self.count = 0
        self.keys: set[str] = set()

    def add(self, size: int) -> None:
        """Note one more entry, of as many values."""
        self.size += size
        self.count += 1

    def repeats(self, value: str) -> bool:
        """Whether a scalar that comes next is a key that was there before."""
        if not self.is_mapping or self.count % 2:
            return False
        known = value in self.keys
        self.keys.add(value)
        return known


def check_run(run: Any, where: str, *, origin: str = "user") -> dict[str, Any]:
    """Configuration of a training run, as far as a test needs it.

    Args:
        run: What was read.
        where: Where it is from, for the message.
        origin: ``"user"`` where it was named by the user, who may name any class; ``"beside"`` where it lies beside a
            model, and ``"card"`` where it is part of one: both name data sets of this package alone, without code of
            others, the latter files by their bare names.

    Returns:
        The configuration, whose class names are whole.

    Raises:
        ValueError: If something is missing, of another type, or not allowed; the message names it.

    Example:
        >>> run = {"data": {"dataset": "QM9", "target": "U0"}, "model": {"class_path": "PropertyTask"}}
        >>> check_run(run, "a.safetensors", origin="card")["data"]["dataset"]
        {'class_path': 'pyg_schnet.data.QM9', 'init_args': {}}
    """
    for section in ("data", "model"):
        if not isinstance(run, dict) or not isinstance(run.get(section), dict):
            raise ValueError(f"{where} has no section {section!r} of a training run")
    if not isinstance(run["model"].get("class_path"), str):
        raise ValueError(f"{where} does not say the task of the run: model.class_path must be the name of a class")
    options = run["data"]
    targets = options.get("target")
    targets = targets if isinstance(targets, list) else [targets]
    if not targets or not all(isinstance(one, (str, dict)) for one in targets) or not options.get("dataset"):
        raise ValueError(f"{where} does not say what to test on: data.dataset and data.target must be there")
    for name in _COUNTS:
        value = options.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise ValueError(f"{where}: data.{name} must be a whole number, got {described(value)}")
    if origin == "user":
        return run
    options = copy.deepcopy(options)
    for name in _DATASETS:
        if options.get(name) is not None:
            options[name] = _own(options[name], where, origin)
    if isinstance(options["target"], list):
        options["target"] = [_own_target(one, where) for one in options["target"]]
    else:
        options["target"] = _own_target(options["target"], where)
    if not isinstance(options.get("split"), (str, type(None))):
        raise ValueError(f"{where}: data.split must be the name of a file, got {described(options['split'])}")
    return {**run, "data": options}


def _own(given: Any, where: str, origin: str) -> dict[str, Any]:
    """A data set of this package, with arguments that execute nothing."""
    given = {"class_path": given} if isinstance(given, str) else given
    path = given.get("class_path") if isinstance(given, dict) else None
    name = re.fullmatch(r"(?:pyg_schnet\.data\.)?(\w+)", path) if isinstance(path, str) else None
    classes = _CLASSES if origin == "card" else _ON_DISK
    if name is not None and name[1] == "StructureStore" and origin == "card":
        raise ValueError(f"{where} does not say where its store of structures is; {_BY_PATH}")
    if name is None or name[1] not in classes:
        raise ValueError(
            f"{where} names the data set {described(path or given)}, which is none of this package and could "
            f"execute anything; {_BY_PATH}"
        )
    arguments = given.get("init_args") or {}
    if not isinstance(arguments, dict):
        raise ValueError(f"{where}: the arguments of the data set must be a dictionary, got {described(arguments)}")
    arguments = {key: value for key, value in arguments.items() if value is not None}
    accepted = inspect.signature(classes[name[1]].__init__).parameters
    for key, value in arguments.items():
        if key not in accepted:
            raise ValueError(f"{where}: {name[1]} has no argument {described(key)}")
        _check_argument(key, value, where, origin)
    return {"class_path": f"pyg_schnet.data.{name[1]}", "init_args": arguments}


def _check_argument(key: str, value: Any, where: str, origin: str) -> None:
    of_files = key in _FILES or key == "root"
    if key == "root" and origin == "card":
        raise ValueError(f"{where} sets the folder 'root' of its data set, which a model file cannot; {_BY_PATH}")
    if key == "transform" and not (origin == "beside" and _is_neighbor_list(value)):
        raise ValueError(f"{where} gives its data set a transform, which could execute anything; {_BY_PATH}")
    if key == "dtype" and value not in _PRECISIONS:
        raise ValueError(f"{where}: dtype must be one of {', '.join(_PRECISIONS)}, got {described(value)}")
    for name in value if of_files and isinstance(value, list) else [value] if of_files else ():
        if not isinstance(name, str) or not name:
            raise ValueError(f"{where}: {key} of the data set must be the name of a file, got {described(name)}")
        if "://" in name:
            raise ValueError(f"{where}: {key} of the data set must be a file, got the address {described(name)}")
        if origin == "card" and not _is_bare(name):
            raise ValueError(
                f"{where}: {key} of the data set must be the bare name of a file, looked for in --data_dir, got "
                f"{described(name)}; {_BY_PATH}"
            )


def _is_bare(name: str) -> bool:
    return Path(name).name == name and name.strip() not in ("", ".", "..") and "\\" not in name and name[0] != "~"


def _is_neighbor_list(value: Any) -> bool:
    if not isinstance(value, dict) or value.get("class_path") not in ("pyg_schnet.data.NeighborList", "NeighborList"):
        return False
    return not _names_classes(value.get("init_args"))


def _own_target(target: str | dict[str, Any], where: str) -> str | dict[str, Any]:
    """A target by its name, or as the arguments of :class:`pyg_schnet.data.Property`."""
    if isinstance(target, str):
        return target
    path = target.get("class_path", "Property")
    arguments = target.get("init_args") if "class_path" in target else target
    if path not in ("Property", "pyg_schnet.data.Property") or _names_classes(arguments):
        raise ValueError(
            f"{where} names the target {described(path)}, expected the name of a target or a Property; {_BY_PATH}"
        )
    return {"class_path": "pyg_schnet.data.Property", "init_args": arguments} if "class_path" in target else target


def _names_classes(value: Any) -> bool:
    if isinstance(value, dict):
        return "class_path" in value or any(map(_names_classes, value.values()))
    return isinstance(value, list) and any(map(_names_classes, value))
