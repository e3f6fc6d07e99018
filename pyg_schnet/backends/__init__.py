"""How the operators are computed: a package for each kind of device, imported by :mod:`pyg_schnet.ops.dispatch`."""
