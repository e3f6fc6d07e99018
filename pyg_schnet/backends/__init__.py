"""How the operators are computed: one package for each kind of device, imported by the registry of :mod:`pyg_schnet.ops`."""
