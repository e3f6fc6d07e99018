"""From the state dict of a SchNetPack 2 model to ours: same weights, same outputs."""

from __future__ import annotations

import re
from typing import Any, Literal

import torch
from torch import Tensor

from pyg_schnet.models.schnet import SchNet
from pyg_schnet.nn import DipoleReadout, MeanReadout, Readout, SumReadout
from pyg_schnet.nn.readout import Activation
from pyg_schnet.ops.checks import check_finite

_LAYERS = {  # SchNetPack's -> ours
    r"representation\.embedding\.(weight)": r"embedding.\1",
    r"representation\.interactions\.(\d+)\.in2f\.(weight)": r"interactions.\1.lin_in.\2",
    r"representation\.interactions\.(\d+)\.f2out\.0\.(weight|bias)": r"interactions.\1.lin1.\2",
    r"representation\.interactions\.(\d+)\.f2out\.1\.(weight|bias)": r"interactions.\1.lin2.\2",
    r"representation\.interactions\.(\d+)\.filter_network\.0\.(weight|bias)": (
        r"interactions.\1.conv.filter_network.lin1.\2"
    ),
    r"representation\.interactions\.(\d+)\.filter_network\.1\.(weight|bias)": (
        r"interactions.\1.conv.filter_network.lin2.\2"
    ),
    r"output_modules\.0\.outnet\.0\.(weight|bias)": r"readout.network.lin1.\1",
    r"output_modules\.0\.outnet\.1\.(weight|bias)": r"readout.network.lin2.\1",
}
_BASIS = {"representation.radial_basis.offsets", "representation.radial_basis.widths"}
_CUTOFF = "representation.cutoff_fn.cutoff"
_OFFSETS = re.compile(r"postprocessors\.\d+\.(mean|atomref)")


def from_schnetpack(
    state_dict: dict[str, Tensor],
    *,
    readout: Literal["sum", "mean", "dipole"] = "sum",
    activation: Activation = "silu",
    magnitude: bool = False,
    neutralize: bool = True,
) -> SchNet:
    """SchNet with the weights of a ``NeuralNetworkPotential`` of SchNetPack 2.

    A state dict does not say how outputs are pooled or activated; the arguments do, with SchNetPack's defaults.
    Offsets that SchNetPack adds after the network (``AddOffsets``: the mean for each atom and atom references) become
    shift and references of the readout.

    Args:
        state_dict: ``model.state_dict()`` of a SchNetPack model with representation ``SchNet``, ``GaussianRBF``,
            ``CosineCutoff`` and one output module with two layers.
        readout: SchNetPack's ``aggregation_mode`` ``"sum"`` or ``"avg"`` (here ``"mean"``), or ``"dipole"``.
        activation: Nonlinearity of the output module; ``"silu"`` is SchNetPack's default.
        magnitude: For dipoles, SchNetPack's ``predict_magnitude``.
        neutralize: For dipoles, SchNetPack's ``correct_charges``.

    Returns:
        The model, in the precision of the state dict, in evaluation mode; energies in SchNetPack's output unit.

    Raises:
        ValueError: If the state dict holds something that this SchNet has no place for, or lacks something.
    """
    weights, offsets = _translate(state_dict)
    centers, widths = (state_dict[key] for key in sorted(_BASIS))
    if not torch.allclose(widths, widths[0]):
        raise ValueError("SchNetPack's Gaussians have different widths (trained); only equal ones can be converted")
    out_channels = weights["readout.network.lin2.weight"].size(0)
    hidden_channels = weights["embedding.weight"].size(1)
    model = SchNet(
        hidden_channels=hidden_channels,
        num_filters=weights["interactions.0.lin_in.weight"].size(0),
        num_interactions=1 + max(int(key.split(".")[1]) for key in weights if key.startswith("interactions.")),
        num_gaussians=centers.numel(),
        cutoff=float(state_dict[_CUTOFF]),
        gamma=0.5 / float(widths[0]) ** 2,
        readout=_make_readout(readout, hidden_channels, out_channels, activation, magnitude, neutralize),
        activate_filters=False,
    ).to(centers)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    absent = [key for key in missing if key.rsplit(".", 1)[-1] in ("weight", "bias")]
    if absent or unexpected:
        raise ValueError(f"SchNetPack's state dict does not fit: missing {absent}, without a place {unexpected}")
    block: Any
    for block in model.interactions:
        block.conv.filter_network.basis.centers.copy_(centers)
    offset: Any = model.readout
    if "mean" in offsets:
        offset.shift.copy_(offsets["mean"])
    if "atomref" in offsets:
        offset.set_references(offsets["atomref"])
    check_finite(model.state_dict().items(), "SchNetPack's model")
    return model.eval()


def _make_readout(
    readout: str, hidden_channels: int, out_channels: int, activation: Activation, magnitude: bool, neutralize: bool
) -> Readout:
    if readout == "dipole":
        # SchNetPack multiplies charges with the positions as they are given
        return DipoleReadout(
            hidden_channels, magnitude=magnitude, neutralize=neutralize, origin="zero", activation=activation
        )
    if readout not in ("sum", "mean"):
        raise ValueError(f"readout must be 'sum', 'mean' or 'dipole', got {readout!r}")
    cls = SumReadout if readout == "sum" else MeanReadout
    return cls(hidden_channels, out_channels, activation=activation)


def _translate(state_dict: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights under our names, and offsets added after the network."""
    lacking = [key for key in (*sorted(_BASIS), _CUTOFF) if key not in state_dict]
    if lacking:
        raise ValueError(
            f"this is no state dict of a SchNetPack 2 SchNet with GaussianRBF and CosineCutoff: {lacking} missing"
        )
    weights, offsets, foreign = {}, {}, []
    for key, value in state_dict.items():
        if key in _BASIS or key == _CUTOFF:
            continue
        for pattern, name in _LAYERS.items():
            if re.fullmatch(pattern, key):
                weights[re.sub(pattern, name, key)] = value
                break
        else:
            match = _OFFSETS.fullmatch(key)
            if match:
                offsets[match[1]] = value
            else:
                foreign.append(key)
    if foreign:
        raise ValueError(f"SchNetPack's state dict holds what this SchNet has no place for: {', '.join(foreign)}")
    return weights, offsets
