"""Kernels in triton for float32 and float64 on CUDA and ROCm devices: operators 1 to 5, compiled on first use.

All other operators are compositions of these and of torch's own. No sum is made by atomic additions, so results are the
same in every run; nothing of shape ``[E, F]`` or ``[E, 3]`` is stored, and nothing waits for the device.
"""

from pyg_schnet.backends.triton.cache import cache_folder
from pyg_schnet.backends.triton.edge_lengths import edge_lengths, edge_lengths_backward, edge_lengths_double_backward
from pyg_schnet.backends.triton.launch import Launch, failure, recorded, refusal, take_cpu_tensors
from pyg_schnet.backends.triton.spline_basis import spline_basis
from pyg_schnet.backends.triton.spline_conv import spline_conv, spline_conv_grad_basis, spline_conv_grad_table

__all__ = [
    "Launch",
    "cache_folder",
    "edge_lengths",
    "edge_lengths_backward",
    "edge_lengths_double_backward",
    "failure",
    "recorded",
    "refusal",
    "spline_basis",
    "spline_conv",
    "spline_conv_grad_basis",
    "spline_conv_grad_table",
    "take_cpu_tensors",
]
