"""Weights of model files in half the room: matrices as float16, all else in float32."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

Storage = Literal["float16"]
"""How matrices of weights are stored in a file that is to be small."""

Model = TypeVar("Model", bound=nn.Module)


def check_storage(storage: Any) -> None:
    """Raise unless a storage is ``None``, for weights as they are, or one of :data:`Storage`.

    Raises:
        ValueError: If it is another one.
    """
    if storage is not None and storage not in get_args(Storage):
        raise ValueError(f"storage must be one of {', '.join(get_args(Storage))}, or None, got {storage!r}")


def stored(model: nn.Module, storage: Storage | None) -> dict[str, Tensor]:
    """Weights of a model as a file holds them.

    Matrices (weights of dense layers, embeddings) are rounded, relative to each number by at most 2⁻¹¹. Vectors and
    buffers (biases, scales, energies of the elements) take little room and stay in float32.

    Args:
        model: The model.
        storage: How they are stored; ``None`` leaves all as they are.

    Raises:
        ValueError: If a weight is too large for it.
    """
    state = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    if storage is None:
        return state
    matrices = {name for name, value in model.named_parameters(remove_duplicate=False) if value.dim() >= 2}
    found = {}
    for name, value in state.items():
        wide = value.float() if value.is_floating_point() else value
        found[name] = wide.half() if name in matrices else wide
        if not torch.equal(found[name].isfinite(), wide.isfinite()):
            raise ValueError(
                f"{name} has the weight {float(value.abs().max()):.4g}, too large for float16, which ends at 65,504; "
                "save the model without storage"
            )
    return found


def restored(state: Mapping[str, Tensor], storage: Storage | None) -> dict[str, Tensor]:
    """Weights of a file as a model holds them: in float32, unless they were stored as they are.

    Args:
        state: Weights of the file.
        storage: How they are stored.
    """
    if storage is None:
        return dict(state)
    return {name: value.float() if value.dtype == torch.float16 else value for name, value in state.items()}


def rounded(model: Model, storage: Storage = "float16") -> Model:
    """A copy of a model with the weights that come back from a file that was saved with this storage.

    Its errors are those of the file, and its differences from the model those that storing adds.

    Args:
        model: Any module.
        storage: How weights are stored.

    Example:
        >>> from pyg_schnet import SchNet
        >>> model = SchNet(16, 16, 2, cutoff=5.0)
        >>> difference = rounded(model).embedding.weight - model.embedding.weight
        >>> 0 < difference.abs().max() < 2**-11 * model.embedding.weight.abs().max()
        tensor(True)
    """
    check_storage(storage)
    copied = copy.deepcopy(model).float()
    copied.load_state_dict(restored(stored(copied, storage), storage))
    return copied
