"""What to install where an optional package is missing."""

from __future__ import annotations


def missing(package: str, extra: str) -> ImportError:
    """The error for an optional package that cannot be imported."""
    return ImportError(f'{package} is not installed; install it with pip install "pyg_schnet[{extra}]"')
