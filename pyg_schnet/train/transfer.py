"""Starting from a trained model: what it has learned of atoms and their surroundings, for another property."""

from __future__ import annotations

from torch import nn

from pyg_schnet.models import AtomisticModel, SchNetCommittee
from pyg_schnet.nn import HeadsReadout

_OWN = ("readout", "filters", "num_grid_points")  # what may differ: the readout is new, the rest is how, not what


def start_from(network: nn.Module, trained: AtomisticModel | SchNetCommittee) -> str:
    """Take embeddings and interactions from a trained model; the readout of ``network`` stays as it is.

    Args:
        network: Model to be trained; changed in place.
        trained: Model of the same class and configuration, readout apart.

    Returns:
        A sentence on what was taken.

    Raises:
        ValueError: If class or configuration differ, or it is a committee.

    Example:
        >>> from pyg_schnet import SchNet
        >>> trained, network = SchNet(8, 8, 2), SchNet(8, 8, 2, readout="mean")
        >>> start_from(network, trained)
        'The embedding and the 2 interaction blocks start as trained; the readout, a MeanReadout, is new'
        >>> bool((network.embedding.weight == trained.embedding.weight).all())
        True
    """
    if isinstance(trained, SchNetCommittee):
        raise ValueError(
            f"a {type(network).__name__} cannot start from a committee; save one of its models, as by "
            "load(NAME).models()[0].save('one.safetensors'), and start from that"
        )
    if type(network) is not type(trained):
        raise ValueError(f"a {type(network).__name__} cannot start from a {type(trained).__name__}")
    given, found = network.config, trained.config
    names = [name for name in given if name not in _OWN and given[name] != found[name]]
    if names:
        both = ", ".join(f"{name}={given[name]} instead of {found[name]}" for name in names)
        raise ValueError(f"the network must have the settings of the model to start from, but has {both}")
    for part in ("embedding", "interactions"):
        getattr(network, part).load_state_dict(getattr(trained, part).state_dict())
    number = len(trained.interactions)
    blocks = "the interaction block" if number == 1 else f"the {number} interaction blocks"
    readout = network.readout
    new = (
        f"heads for {', '.join(readout.columns)}"
        if isinstance(readout, HeadsReadout)
        else f"a {type(readout).__name__}"
    )
    return f"The embedding and {blocks} start as trained; the readout, {new}, is new"
