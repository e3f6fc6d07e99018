"""Values that are kept until the tensors they were computed from change."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyg_schnet.ops.dispatch import is_followed

_TYPES = {Tensor, nn.Parameter, nn.Buffer}


class VersionedCache:
    """One value, and the state of the tensors it was computed from.

    A change is seen by where a tensor lies in memory, by autograd's count of its changes, and, for those that autograd
    is not told of (``tensor.data``, arrays that share its memory), by comparing all of its elements with those that the
    value was computed from. Copies start empty.
    """

    def __init__(self) -> None:
        self._value: Any = None
        self._key: Hashable = None
        self._state: tuple[list[int], list[int]] = [], []
        self._elements: list[tuple[Any, Any]] = []

    def __reduce__(self) -> tuple[type[VersionedCache], tuple[()]]:
        return VersionedCache, ()

    def get(self, tensors: Sequence[Tensor], key: Hashable, compute: Callable[[], Any]) -> Any:
        """The value kept for these tensors, or a new one; it carries no gradient.

        Args:
            tensors: What the value is computed from.
            key: What else it depends on.
            compute: Makes the value.

        Returns:
            The value; ``None`` where a change of the tensors could not be seen, so that nothing can be kept.
        """
        if is_followed() or not _TYPES.issuperset(map(type, tensors)):
            return None
        try:
            state = list(map(Tensor.data_ptr, tensors)), [tensor._version for tensor in tensors]
        except RuntimeError:  # a tensor without memory of its own, or of inference mode
            return None
        if state != self._state and any(tensor.is_meta or tensor.is_inference() for tensor in tensors):
            return None
        if self._value is None or state != self._state or key != self._key or self._touched():
            with torch.inference_mode(False), torch.no_grad():
                self._value = compute()
            self._state, self._key, self._elements = state, key, _elements(tensors)
        return self._value

    def _touched(self) -> bool:
        """Whether an element has other bits than it had; so NaN is equal to itself, and -0.0 is not 0.0."""
        for now, before in self._elements:
            if not (before == now if type(before) is bytearray else torch.equal(_bits(now), before)):
                return True
        return False


def _elements(tensors: Sequence[Tensor]) -> list[tuple[Any, Any]]:
    """Tensors, and copies of their bits as they are now: of memory at hand as bytes, which compare the fastest."""
    found: list[tuple[Any, Any]] = []
    for tensor in map(Tensor.detach, tensors):
        if tensor.device.type == "cpu" and tensor.is_contiguous() and tensor.dtype in (torch.float32, torch.float64):
            array = tensor.numpy()
            found.append((array, bytearray(array)))
        else:
            found.append((tensor, _bits(tensor).clone()))
    return found


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8) if tensor.dim() else tensor.view(1).view(torch.uint8)
