"""Operators, one in each file, with formula, composition of plain torch operations, and derivatives.

The public functions take ``backend``, see :func:`kernels_for`. The kernels of a backend are in
``pyg_schnet.backends``, which is imported when it is first used.
"""

import pyg_schnet.ops._pyg  # PyTorch Geometric comes first, without its warnings
from pyg_schnet.ops.bspline import SPAN, bspline_basis, locate, spline_table
from pyg_schnet.ops.checked import close_pairs, filter_table, interactions, potential
from pyg_schnet.ops.dispatch import Backend, kernels_for
from pyg_schnet.ops.edge_lengths import edge_lengths
from pyg_schnet.ops.graph import SplineGraph, check_sources, spline_graph
from pyg_schnet.ops.half_list import HalfList, half_list
from pyg_schnet.ops.mlp import mlp
from pyg_schnet.ops.pool_atoms import atom_values, pool_atoms
from pyg_schnet.ops.radius import close_pairs_once
from pyg_schnet.ops.rows_of import rows_of
from pyg_schnet.ops.segment_sum import segment_sum
from pyg_schnet.ops.softplus import shifted_softplus
from pyg_schnet.ops.sort_edges import pointer_of_sorted, sort_edges
from pyg_schnet.ops.spline_basis import spline_basis
from pyg_schnet.ops.spline_conv import spline_conv, spline_conv_grad_basis, spline_conv_grad_table
from pyg_schnet.ops.sum_species import sum_species
from pyg_schnet.ops.total_norm import total_norm

__all__ = [
    "Backend",
    "edge_lengths",
    "kernels_for",
    "segment_sum",
    "spline_basis",
    "spline_conv",
]
