"""What every structure has: atomic numbers and positions."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def atoms_of(data: Any) -> tuple[Tensor, Tensor]:
    """Atomic numbers ``[N]`` and positions in Å ``[N, 3]`` of a structure or a batch.

    Args:
        data: A ``Data`` or ``Batch``.

    Raises:
        ValueError: If one of the two is missing.

    Example:
        >>> import torch
        >>> from torch_geometric.data import Data
        >>> atoms_of(Data(z=torch.tensor([1]), pos=torch.zeros(1, 3)))[0]
        tensor([1])
    """
    return required(data, "z", "atomic numbers, [N] of int64"), positions_of(data)


def positions_of(data: Any) -> Tensor:
    """Positions in Å of a structure or a batch, shape ``[N, 3]``.

    Raises:
        ValueError: If it has none.
    """
    return required(data, "pos", "positions in Å, [N, 3]")


def required(data: Any, name: str, meaning: str) -> Tensor:
    """An attribute that a structure cannot do without.

    Raises:
        ValueError: If it has none.
    """
    if not hasattr(data, "keys") or not hasattr(data, "get"):
        raise ValueError(f"structures must be torch_geometric.data.Data with z and pos, got a {type(data).__name__}")
    value = data.get(name)
    if not isinstance(value, Tensor):
        has = ", ".join(sorted(data.keys())) or "nothing"
        raise ValueError(f"a structure has no `{name}` ({meaning}); it has {has}. Set data.{name}")
    return value
