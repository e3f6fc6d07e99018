"""The fused filter-convolution: one registered operator and its derivatives, in plain torch and in numba for CPUs."""

from pyg_schnet.kernels.bspline import SPAN, bspline_weights, locate, spline_coefficients
from pyg_schnet.kernels.graph import SplineGraph, spline_graph
from pyg_schnet.kernels.matmul import linear
from pyg_schnet.kernels.operator import spline_conv, spline_conv_coefficients, spline_conv_weights

__all__ = [
    "SPAN",
    "SplineGraph",
    "bspline_weights",
    "linear",
    "locate",
    "spline_coefficients",
    "spline_conv",
    "spline_conv_coefficients",
    "spline_conv_weights",
    "spline_graph",
]
