"""The kernels in numba, for float32 and float64 on CPUs; compiled when first called, and kept on disk from then on."""

from pyg_schnet.kernels.cpu.blocks import ascend, descend
from pyg_schnet.kernels.cpu.candidates import close_pairs, close_pairs_once
from pyg_schnet.kernels.cpu.convolution import coefficient_gradient, convolve, weight_gradient
from pyg_schnet.kernels.cpu.dense import matrix_product, product_of_rows
from pyg_schnet.kernels.cpu.edges import measure, push, weigh
from pyg_schnet.kernels.cpu.layers import two_layers, two_layers_gradient
from pyg_schnet.kernels.cpu.many import Stacks, norm
from pyg_schnet.kernels.cpu.network import Networks, table_gradient, tabulate
from pyg_schnet.kernels.cpu.pooling import pool, sum_kinds, unpool
from pyg_schnet.kernels.cpu.records import Weights
from pyg_schnet.kernels.cpu.rows import rows_of
from pyg_schnet.kernels.cpu.run import SERIAL_WORK, is_large
from pyg_schnet.kernels.cpu.second import second_ascent
from pyg_schnet.kernels.cpu.small import Grid, Head, energy_and_slopes
from pyg_schnet.kernels.cpu.softplus import shifted_softplus
from pyg_schnet.kernels.cpu.sort import pairs_of, pointer_of_sorted, sort_edges
from pyg_schnet.kernels.cpu.transpose import transpose

__all__ = [
    "SERIAL_WORK",
    "Grid",
    "Head",
    "Networks",
    "Stacks",
    "Weights",
    "ascend",
    "close_pairs",
    "close_pairs_once",
    "coefficient_gradient",
    "convolve",
    "descend",
    "energy_and_slopes",
    "is_large",
    "matrix_product",
    "measure",
    "norm",
    "pairs_of",
    "pointer_of_sorted",
    "pool",
    "product_of_rows",
    "push",
    "rows_of",
    "second_ascent",
    "shifted_softplus",
    "sort_edges",
    "sum_kinds",
    "table_gradient",
    "tabulate",
    "transpose",
    "two_layers",
    "two_layers_gradient",
    "unpool",
    "weigh",
    "weight_gradient",
]
