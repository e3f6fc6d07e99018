"""Kernels in numba for float32 and float64 on CPUs, compiled on first use and cached on disk."""

from pyg_schnet.backends.numba.edge_lengths import (
    edge_lengths,
    edge_lengths_backward,
    edge_lengths_double_backward,
    spline_basis,
)
from pyg_schnet.backends.numba.filter_table import Networks, filter_table, filter_table_backward
from pyg_schnet.backends.numba.interactions import interactions_backward, interactions_forward
from pyg_schnet.backends.numba.interactions_double_backward import interactions_double_backward
from pyg_schnet.backends.numba.lib.compiler import cache_folder
from pyg_schnet.backends.numba.lib.gemm import gemm, gemm_tn
from pyg_schnet.backends.numba.lib.parallel import is_large, num_threads, recomputes
from pyg_schnet.backends.numba.lib.ragged import rows_of
from pyg_schnet.backends.numba.lib.softplus import shifted_softplus
from pyg_schnet.backends.numba.mlp import mlp, mlp_backward
from pyg_schnet.backends.numba.norm import norm
from pyg_schnet.backends.numba.pooling import pool, sum_species, unpool
from pyg_schnet.backends.numba.potential import Grid, Head, grad_strain, potential
from pyg_schnet.backends.numba.radius import close_pairs, close_pairs_once, closest
from pyg_schnet.backends.numba.records import Weights
from pyg_schnet.backends.numba.sort_edges import half_list, pointer_of_sorted, sort_edges
from pyg_schnet.backends.numba.spline_conv import spline_conv, spline_conv_grad_basis, spline_conv_grad_table

__all__ = [
    "Grid",
    "Head",
    "Networks",
    "Weights",
    "cache_folder",
    "close_pairs",
    "close_pairs_once",
    "closest",
    "edge_lengths",
    "edge_lengths_backward",
    "edge_lengths_double_backward",
    "filter_table",
    "filter_table_backward",
    "gemm",
    "gemm_tn",
    "grad_strain",
    "half_list",
    "interactions_backward",
    "interactions_double_backward",
    "interactions_forward",
    "is_large",
    "mlp",
    "mlp_backward",
    "norm",
    "num_threads",
    "pointer_of_sorted",
    "pool",
    "potential",
    "recomputes",
    "rows_of",
    "shifted_softplus",
    "sort_edges",
    "spline_basis",
    "spline_conv",
    "spline_conv_grad_basis",
    "spline_conv_grad_table",
    "sum_species",
    "unpool",
]
