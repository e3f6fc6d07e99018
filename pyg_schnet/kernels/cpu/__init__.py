"""The kernels in numba, for float32 and float64 on CPUs; compiled when first called, and kept on disk from then on."""

from pyg_schnet.kernels.cpu.blocks import Weights, ascend, descend
from pyg_schnet.kernels.cpu.convolution import coefficient_gradient, convolve, weight_gradient
from pyg_schnet.kernels.cpu.dense import matrix_product, product_of_rows
from pyg_schnet.kernels.cpu.edges import measure, push, weigh
from pyg_schnet.kernels.cpu.network import Sampled, sample_filters, sampled_gradient
from pyg_schnet.kernels.cpu.prefilter import prefilter, prefilter_transposed
from pyg_schnet.kernels.cpu.run import SERIAL_WORK
from pyg_schnet.kernels.cpu.softplus import shifted_softplus
from pyg_schnet.kernels.cpu.sort import half_of, pointer_of_sorted, sort_edges
from pyg_schnet.kernels.cpu.transpose import transpose

__all__ = [
    "SERIAL_WORK",
    "Sampled",
    "Weights",
    "ascend",
    "coefficient_gradient",
    "convolve",
    "descend",
    "half_of",
    "matrix_product",
    "measure",
    "pointer_of_sorted",
    "prefilter",
    "prefilter_transposed",
    "product_of_rows",
    "push",
    "sample_filters",
    "sampled_gradient",
    "shifted_softplus",
    "sort_edges",
    "transpose",
    "weigh",
    "weight_gradient",
]
