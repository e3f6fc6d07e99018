"""Kernels of the operators, one package for each kind of device; imported by :mod:`pyg_schnet.ops.dispatch`."""
