"""Which model it is: its name, the version of the package, and a hash of its file or weights."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from pyg_schnet import pretrained

_PIECE = 1 << 20  # bytes


class Identity(NamedTuple):
    """Names a model in results of simulations.

    Attributes:
        model: File, name of a pretrained model, or class.
        version: Version of the package that computes.
        sha256: Of the file, or of the weights where there is none.
    """

    model: str
    version: str
    sha256: str

    @classmethod
    def of(cls, source: Any) -> Identity:
        """Identity of a model, its file, or the name of a pretrained one.

        Args:
            source: What a :class:`pyg_schnet.potential.Potential` is made of.

        Raises:
            FileNotFoundError: If a file is not there.

        Example:
            >>> Identity.of("qm9-u0").sha256 == Identity.of(pretrained.path_of("qm9-u0")).sha256
            True
            >>> Identity.of(torch.nn.Linear(1, 1)).model
            'Linear'
        """
        if isinstance(source, (str, os.PathLike)):
            return cls(os.fspath(source), pretrained.VERSION, hash_of_file(pretrained.find(source)))
        if isinstance(source, nn.Module):
            return cls(type(source).__name__, pretrained.VERSION, hash_of_weights(source))
        name = getattr(source, "__qualname__", type(source).__qualname__)
        return cls(name, pretrained.VERSION, "")


def hash_of_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, as ``sha256sum`` gives it.

    Args:
        path: File.
    """
    found = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(_PIECE):
            found.update(piece)
    return found.hexdigest()


def hash_of_weights(model: nn.Module) -> str:
    """SHA-256 of the class of a model and of names, types, shapes and values of its parameters and buffers.

    It does not depend on the device, nor on the file, that the weights come from.

    Args:
        model: Any module.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> before = hash_of_weights(layer)
        >>> with torch.no_grad():
        ...     _ = layer.bias.add_(1.0)
        >>> hash_of_weights(layer) == before
        False
    """
    found = hashlib.sha256(type(model).__name__.encode())
    for name, value in sorted(model.state_dict().items()):
        if not isinstance(value, torch.Tensor):
            continue
        held = value.detach().cpu().contiguous()
        found.update(f"{name} {held.dtype} {tuple(held.shape)}".encode())
        found.update(held.view(-1).view(torch.uint8).numpy().tobytes() if held.numel() else b"")
    return found.hexdigest()
