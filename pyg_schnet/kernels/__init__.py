"""The fused filter-convolution: one registered operator and its derivatives, in plain torch and in numba for CPUs."""

from pyg_schnet.kernels.bspline import SPAN, bspline_weights, locate, spline_coefficients
from pyg_schnet.kernels.edges import edge_lengths, spline_weights
from pyg_schnet.kernels.graph import Pairs, SplineGraph, check_sources, pair_edges, spline_graph
from pyg_schnet.kernels.matmul import linear
from pyg_schnet.kernels.operator import cpu_kernels, spline_conv, spline_conv_coefficients, spline_conv_weights
from pyg_schnet.kernels.plain import is_plain

__all__ = [
    "SPAN",
    "Pairs",
    "SplineGraph",
    "bspline_weights",
    "check_sources",
    "cpu_kernels",
    "edge_lengths",
    "is_plain",
    "linear",
    "locate",
    "pair_edges",
    "spline_coefficients",
    "spline_conv",
    "spline_conv_coefficients",
    "spline_conv_weights",
    "spline_graph",
    "spline_weights",
]
