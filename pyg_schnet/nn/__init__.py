"""Layers of SchNet and DTNN, each an equation: a function of tensors, and a module that holds its state."""

from pyg_schnet.nn.activation import ShiftedSoftplus, shifted_softplus
from pyg_schnet.nn.aggregation import sum_to_targets
from pyg_schnet.nn.atomref import MAX_Z, element_counts, fit_atom_references, sum_references
from pyg_schnet.nn.basis import GaussianBasis, gaussian_basis, num_gaussians_for_spacing
from pyg_schnet.nn.charge_readout import DipoleReadout, ElectronicSpatialExtentReadout
from pyg_schnet.nn.conv import CFConv, exclude_self_loops, neighbor_counts
from pyg_schnet.nn.cutoff import CosineCutoff, HardCutoff, cosine_cutoff, hard_cutoff
from pyg_schnet.nn.dense import dense
from pyg_schnet.nn.dtnn_conv import DTNNConv
from pyg_schnet.nn.filters import FilterNetwork
from pyg_schnet.nn.heads import HeadsReadout
from pyg_schnet.nn.interaction import DTNNInteraction, SchNetInteraction
from pyg_schnet.nn.readout import AtomNetwork, MaxReadout, MeanReadout, Readout, SumReadout
from pyg_schnet.nn.repulsion import ZBLRepulsion, smooth_switch, zbl_energy
from pyg_schnet.nn.spline import SplineFilter, num_grid_points_for

__all__ = [
    "CFConv",
    "CosineCutoff",
    "DTNNConv",
    "DTNNInteraction",
    "DipoleReadout",
    "ElectronicSpatialExtentReadout",
    "FilterNetwork",
    "GaussianBasis",
    "HardCutoff",
    "HeadsReadout",
    "MaxReadout",
    "MeanReadout",
    "Readout",
    "SchNetInteraction",
    "ShiftedSoftplus",
    "SplineFilter",
    "SumReadout",
    "ZBLRepulsion",
    "cosine_cutoff",
    "fit_atom_references",
    "gaussian_basis",
    "shifted_softplus",
    "smooth_switch",
    "zbl_energy",
]
