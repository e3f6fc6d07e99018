"""Import PyTorch Geometric without its warnings; every subpackage that needs it imports this file first.

It scripts some of its modules, which torch has deprecated: a ``DeprecationWarning`` in torch 2.13, and in torch 2.14 a
``FutureWarning``, which Python shows.
"""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", FutureWarning)
    import torch_geometric.nn  # noqa: F401
