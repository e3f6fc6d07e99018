"""Reads of numbers from tensors, which wait for a device: counted for tensors of the CPU."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pyg_schnet.ops import dispatch

WAITS = {
    "_local_scalar_dense", "nonzero", "equal", "is_nonzero", "_unique2", "unique_dim", "unique_consecutive", "bincount",
    "masked_select", "allclose",
}  # fmt: skip


class Reads(TorchDispatchMode):
    """Names of operations that wait for a device, in ``found``."""

    def __init__(self):
        super().__init__()
        self.found, self._patch = [], pytest.MonkeyPatch()

    def __enter__(self):
        for name in ("tolist", "numpy", "cpu"):
            original = getattr(torch.Tensor, name)

            def called(x, *arguments, name=name, original=original, **options):
                self.found.append(name)
                return original(x, *arguments, **options)

            self._patch.setattr(torch.Tensor, name, called)
        return super().__enter__()

    def __exit__(self, *error):
        self._patch.undo()
        return super().__exit__(*error)

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        options, name = options or {}, function.overloadpacket.__name__
        masks = arguments[1] if name in ("index", "index_put", "index_put_") else ()
        waits = name in WAITS or (name == "repeat_interleave" and options.get("output_size") is None)
        if waits or any(mask is not None and mask.dtype == torch.bool for mask in masks):
            self.found.append(name)
        return function(*arguments, **options)


def elsewhere(monkeypatch):
    """Let tensors of the CPU count as those of a device without kernels: plain operations, and nothing is looked at."""
    monkeypatch.setattr(dispatch, "_is_memory", lambda x: False)
