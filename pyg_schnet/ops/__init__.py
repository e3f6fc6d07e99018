"""The fused filter-convolution: one registered operator and its derivatives, in plain torch and in numba for CPUs."""

import pyg_schnet.ops._pyg  # noqa: F401 - PyTorch Geometric comes first, without its warnings
from pyg_schnet.ops.bspline import SPAN, bspline_basis, locate, spline_coefficients
from pyg_schnet.ops.dispatch import Backend, cpu_kernels, is_dense_cpu, kernels_for
from pyg_schnet.ops.edge_lengths import edge_lengths, spline_basis
from pyg_schnet.ops.graph import Pairs, SplineGraph, check_sources, pair_edges, spline_graph
from pyg_schnet.ops.linear import linear
from pyg_schnet.ops.spline_conv import spline_conv, spline_conv_coefficients, spline_conv_weights

__all__ = [
    "SPAN",
    "Backend",
    "Pairs",
    "SplineGraph",
    "bspline_basis",
    "check_sources",
    "cpu_kernels",
    "edge_lengths",
    "is_dense_cpu",
    "kernels_for",
    "linear",
    "locate",
    "pair_edges",
    "spline_basis",
    "spline_coefficients",
    "spline_conv",
    "spline_conv_coefficients",
    "spline_conv_weights",
    "spline_graph",
]
