"""Trained models that come with the package, one file each, with a card that says on what and how well.

``pyg_schnet.load("qm9-u0")``, ``SchNet.from_pretrained("qm9-u0")``, ``SchNetCalculator("rmd17-aspirin")`` and
``--model qm9-u0`` on the command line take their names; ``read_header`` shows the card alone.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["available"]

VERSION = "0.1.0"
"""Version of the package, which model files note."""

_FOLDER = Path(__file__).parent
_SUFFIX = ".safetensors"


def available() -> list[str]:
    """Names of the models that come with the package.

    Example:
        >>> "qm9-u0" in available()
        True
    """
    return sorted(path.name.removesuffix(_SUFFIX) for path in _FOLDER.glob("*" + _SUFFIX))


def path_of(name: str) -> Path:
    """File of a model that comes with the package.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in available():
        raise ValueError(f"no pretrained model {name!r}; there are {', '.join(available())}")
    return _FOLDER / f"{name}{_SUFFIX}"


def find(model: str | os.PathLike[str]) -> Path:
    """File of a model, given as such or by the name of one that comes with the package; a file comes first.

    Args:
        model: File, or one of :func:`available`.

    Raises:
        FileNotFoundError: If it is neither.

    Example:
        >>> find("qm9-u0").name
        'qm9-u0.safetensors'
    """
    if Path(model).is_file():
        return Path(model)
    if str(model) in available():
        return path_of(str(model))
    raise FileNotFoundError(
        f"no model file at {model}, and no pretrained model of that name; there are {', '.join(available())}"
    )
