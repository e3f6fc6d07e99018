"""Cache of a value until the tensors it was computed from change."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyg_schnet.ops.dispatch import is_at_hand, is_followed

_TYPES = {Tensor, nn.Parameter, nn.Buffer}


class VersionedCache:
    """One value, and the tensors it was computed from.

    A change is detected by the memory address of a tensor, and by comparing all of its elements with those that the
    value was computed from: autograd's version counter misses ``tensor.data``, inference mode and arrays that share
    memory.
    On other devices, where comparing would wait, values are computed in every call; those of constants only after their
    version counters have changed. Copies start empty.
    """

    def __init__(self) -> None:
        self._value: Any = None
        self._key: Hashable = None
        self._places: list[int] = []
        self._elements: list[tuple[Any, Any]] = []

    def __reduce__(self) -> tuple[type[VersionedCache], tuple[()]]:
        return VersionedCache, ()

    def get(
        self, tensors: Sequence[Tensor], key: Hashable, compute: Callable[[], Any], *, constants: bool = False
    ) -> Any:
        """The cached value for these tensors, or a new one, without gradient.

        Args:
            tensors: Tensors that the value is computed from.
            key: Anything else that it depends on.
            compute: Computes the value.
            constants: Whether the tensors are no weights, such as the centres of a basis.

        Returns:
            The value; ``None`` if changes of the tensors could not be detected, so that nothing can be cached.
        """
        if is_followed() or not _TYPES.issuperset(map(type, tensors)):
            return None
        try:
            places = list(map(Tensor.data_ptr, tensors))
        except RuntimeError:  # a tensor without memory of its own
            return None
        if places != self._places and any(tensor.is_meta for tensor in tensors):
            return None
        if tensors and _is_elsewhere(tensors[0]):
            return self._get_elsewhere(tensors, (key, places), compute, constants)
        if self._value is None or places != self._places or key != self._key or self._touched():
            with torch.inference_mode(False), torch.no_grad():
                self._value = compute()
            self._places, self._key, self._elements = places, key, _elements(tensors)
        return self._value

    def _get_elsewhere(
        self, tensors: Sequence[Tensor], key: Hashable, compute: Callable[[], Any], constants: bool
    ) -> Any:
        """The value for tensors of another device than the CPU."""
        versions = [(tensor._version, None) for tensor in tensors if constants and not tensor.is_inference()]
        is_known = len(versions) == len(tensors) and key == self._key and versions == self._elements
        if not is_known or self._value is None:
            with torch.inference_mode(False), torch.no_grad():
                self._value = compute()
            self._places, self._key, self._elements = [], key, versions
        return self._value

    def _touched(self) -> bool:
        """Whether the bits of an element have changed; NaN is equal to itself, and -0.0 differs from 0.0."""
        for now, before in self._elements:
            if not (before == now if type(before) is bytearray else torch.equal(_bits(now), before)):
                return True
        return False


def _is_elsewhere(tensor: Tensor) -> bool:
    """Whether comparing a tensor waits for its device."""
    compared = tensor.dtype in (torch.float32, torch.float64)
    return not tensor.is_meta and (not tensor.is_cpu or (compared and not is_at_hand(tensor)))


def _elements(tensors: Sequence[Tensor]) -> list[tuple[Any, Any]]:
    """Tensors and copies of their bits, as bytes for CPU tensors, which is fastest to compare."""
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
