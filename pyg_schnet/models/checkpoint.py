"""Model files: configuration, weights, units and version together, as safetensors with a JSON header."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from pyg_schnet import pretrained
from pyg_schnet.models.card import check_card
from pyg_schnet.models.reading import check_file, described, parse_json
from pyg_schnet.models.structure import check_described
from pyg_schnet.models.writing import write_whole
from pyg_schnet.ops.checks import check_finite

FORMAT = 1
"""Version of the header format; increased when older versions could misread it."""

_KEY = "pyg_schnet"

_RENAMED = {"num_nodes": "num_grid_points"}  # arguments of models as earlier files name them

_PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_ENTRIES = {"format": (int, "a whole number of at least 1"), "class": (str, "the name of a class")}
_ENTRIES |= dict.fromkeys(("hyper_parameters", "card"), (dict, "a dictionary"))


class CheckpointMixin:
    """``save`` and ``load`` for models that can be built from their ``config``.

    Attributes:
        card: Metadata of the model: ``target``, ``unit`` and anything that JSON can hold (data, split, errors). Saved
            and loaded with the model.
    """

    card: dict[str, Any]
    _classes: ClassVar[dict[str, type[CheckpointMixin]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "config" in cls.__dict__:  # base classes cannot be built from a file
            CheckpointMixin._classes[cls.__name__] = cls

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that build a model of the same shape, as JSON can hold them."""
        raise NotImplementedError

    def save(self, path: str | os.PathLike[str], **card: Any) -> Path:
        """Write the model to one file without pickle.

        The file is written beside its place and then moved: an interruption or a full disk leaves the old one intact.

        Args:
            path: File to write, by convention ``*.safetensors``.
            **card: Entries to add to the attribute ``card``, for example ``target="U0", unit="eV"``.

        Returns:
            The path.

        Raises:
            ValueError: If a part of the model cannot be described in the header, because it was replaced, added or
                changed after construction, or an entry of the card is not what it has to be; the message names it.
        """
        path = Path(path)
        name = type(self).__name__
        if CheckpointMixin._classes.get(name) is not type(self):
            raise ValueError(
                f"models of class {name} cannot be stored in a model file, as the class has no config of its own to be "
                "built from; define one, or save model.state_dict()"
            )
        check_described(self)
        check_card({**self.card, **card})
        self.card = {**self.card, **card}
        header = {
            "format": FORMAT,
            "version": pretrained.VERSION,
            "class": name,
            "hyper_parameters": self.config,
            "units": {"length": "Å", "output": self.card.get("unit")},
            "card": self.card,
        }
        state = {key: value.detach().contiguous() for key, value in cast(torch.nn.Module, self).state_dict().items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, save(state, metadata={_KEY: json.dumps(header, ensure_ascii=False)}))
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Any:
        """Read a model written by :meth:`save`, in evaluation mode and in the precision it was saved with.

        Args:
            path: File to read, or the name of a pretrained model.
            device: Device for the weights.

        Returns:
            The model, of the class that the file names.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is truncated, not a model file, newer than this version, holds another class, or
                weights that do not fit its header or are not finite.
        """
        path = pretrained.find(path)
        header = read_header(path)
        known = CheckpointMixin._classes
        found = known.get(header["class"])
        if found is None or not issubclass(found, cls):
            wanted = cls.__name__ if cls is not CheckpointMixin else " or ".join(sorted(known))
            raise ValueError(f"{path} holds a {header['class']}, expected a {wanted}")
        try:
            model: Any = found(**header["hyper_parameters"])
        except Exception as error:  # whatever a constructor says to arguments of any type
            given = header["hyper_parameters"]
            unknown = [name for name in given if name not in inspect.signature(found.__init__).parameters]
            reason = f"it has no argument {described(unknown[0])}" if unknown else "one is of another type or size"
            reason = (
                " ".join(str(error).split()) if isinstance(error, ValueError) else f"{reason}: {described(given, 300)}"
            )
            raise ValueError(
                f"the hyper-parameters in the header of {path} make no {header['class']}: {reason}"
            ) from error
        with safe_open(path, framework="pt", device=str(device)) as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        _check_state(state, model.state_dict(), path)
        model.load_state_dict(state, assign=True)  # assign: keep the precision and the device of the file
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        model.to(device)
        model.card = header["card"]
        return model.eval()

    @classmethod
    def from_pretrained(cls, name: str, device: str | torch.device = "cpu") -> Any:
        """Load one of the trained models of the package; the attribute ``card`` has its training data and errors.

        Args:
            name: One of :func:`pyg_schnet.pretrained.available`.
            device: Device for the weights.

        Raises:
            ValueError: If there is none of that name, or it is of another class.
        """
        return cls.load(pretrained.path_of(name), device)


def _check_state(state: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], path: Path) -> None:
    """Raise unless the weights of a file are those that its header describes, all of them numbers."""
    for name in (*expected, *state):
        found, wanted = (list(one[name].shape) if name in one else None for one in (state, expected))
        if found != wanted:
            held = f"it has {name}, which the model has not" if wanted is None else f"it lacks {name} {wanted}"
            held = held if None in (found, wanted) else f"{name} is {found} instead of {wanted}"
            raise ValueError(f"{path}: weights do not fit the configuration in its header: {held}")
        if expected[name].is_floating_point() and state[name].dtype not in _PRECISIONS:
            kinds = ", ".join(str(one).removeprefix("torch.") for one in _PRECISIONS)
            raise ValueError(f"{path}: {name} is of {state[name].dtype}, expected one of {kinds}")
    check_finite(state.items(), str(path))


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Header of a model file: class, hyper-parameters, units, card, library version.

    Args:
        path: File, or the name of a pretrained model.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated, not a model file, or newer than this version of the library.
    """
    path = check_file(pretrained.find(path))
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, MemoryError) as error:
        raise ValueError(f"{path} is no whole safetensors file ({error}); copy or train it again") from error
    if _KEY not in metadata:
        raise ValueError(f"{path} is a safetensors file of another program: it has no {_KEY!r} header")
    header = parse_json(metadata[_KEY], f"the {_KEY!r} header of {path}")
    _check_entries(header, path)
    if header["format"] > FORMAT:
        raise ValueError(
            f"{path} was written by pyg_schnet {header.get('version')} in format {header['format']}; this version "
            f"({pretrained.VERSION}) reads up to format {FORMAT}, please update"
        )
    try:
        check_card(header["card"])
    except ValueError as error:
        raise ValueError(f"the header of {path} is damaged: {error}") from error
    header["hyper_parameters"] = {_RENAMED.get(name, name): value for name, value in header["hyper_parameters"].items()}
    return header


def _check_entries(header: Any, path: Path) -> None:
    """Raise unless a header has what it needs."""
    if not isinstance(header, dict):
        raise ValueError(f"the header of {path} is damaged: it must be a dictionary, got {described(header)}")
    for name, (kind, expected) in _ENTRIES.items():
        if name not in header:
            raise ValueError(f"the header of {path} is damaged: it has no {name!r}, {expected}")
        value = header[name]
        if not isinstance(value, kind) or isinstance(value, bool) or (isinstance(value, int) and value < 1):
            raise ValueError(f"the header of {path} is damaged: {name!r} must be {expected}, got {described(value)}")


def load(
    path: str | os.PathLike[str], device: str | torch.device = "cpu", *, target: str | None = None
) -> Any:
    """Read a model of any class, in evaluation mode and in the precision it was saved with.

    Args:
        path: File written by ``model.save``, or one of :func:`pyg_schnet.pretrained.available`.
        device: Device for the weights.
        target: Name of the one target that is wanted of a model of several: the model that is returned has its head
            alone, its unit and its errors, like one that was trained on nothing else. ``None`` takes all.

    Raises:
        FileNotFoundError: If there is no such file and no pretrained model of that name.
        ValueError: If the file is damaged, not a model file, newer than this version, or its model does not predict
            the target.

    Example:
        >>> load("qm9-u0").card["unit"]
        'eV'
    """
    model = CheckpointMixin.load(path, device)
    if target is None:
        return model
    from pyg_schnet.models.targets import one_target  # here, as its models are defined by this module

    return one_target(model, target)
