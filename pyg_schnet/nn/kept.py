"""Values that are kept until the tensors they were computed from change."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from pyg_schnet.kernels import is_followed


class Kept:
    """One value, and the state of the tensors it was computed from.

    A change is seen by where a tensor lies in memory and by autograd's count of its changes. Changes that autograd is
    not told of (``tensor.data``) are seen on CPUs if they touch the element in the middle, as changes of whole tensors
    do. Copies start empty.
    """

    def __init__(self) -> None:
        self._value: Any = None
        self._key: Hashable = None
        self._state: list[tuple[int, int]] = []
        self._samples: list[tuple[Any, int, float]] = []

    def __reduce__(self) -> tuple[type[Kept], tuple[()]]:
        return Kept, ()

    def get(self, tensors: Sequence[Tensor], key: Hashable, compute: Callable[[], Any]) -> Any:
        """The value kept for these tensors, or a new one; it carries no gradient.

        Args:
            tensors: What the value is computed from.
            key: What else it depends on.
            compute: Makes the value.

        Returns:
            The value; ``None`` where a change of the tensors could not be seen, so that nothing can be kept.
        """
        if is_followed():
            return None
        if any([isinstance(tensor, FakeTensor) for tensor in tensors]):  # noqa: C419 - a list is faster
            return None
        try:
            state = [(tensor.data_ptr(), tensor._version) for tensor in tensors]
        except RuntimeError:  # a tensor without memory of its own, or of inference mode
            return None
        if state != self._state and any(tensor.is_meta or tensor.is_inference() for tensor in tensors):
            return None
        if self._value is None or (state, key) != (self._state, self._key) or self._touched():
            with torch.inference_mode(False), torch.no_grad():
                self._value = compute()
            self._state, self._key, self._samples = state, key, _samples(tensors)
        return self._value

    def _touched(self) -> bool:
        return any(flat[middle] != value for flat, middle, value in self._samples)


def _samples(tensors: Sequence[Tensor]) -> list[tuple[Any, int, float]]:
    """Elements in the middle, as places in memory and the values they have now."""
    found = []
    for tensor in tensors:
        if tensor.device.type == "cpu" and tensor.is_contiguous() and tensor.dtype in (torch.float32, torch.float64):
            flat = tensor.detach().view(-1).numpy()
            if flat.size:
                found.append((flat, flat.size // 2, flat[flat.size // 2]))
    return found
