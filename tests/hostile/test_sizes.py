"""Sizes and numbers of layers and models: whole numbers of at least 1, bounded, before memory is taken for them."""

import json
import math

import numpy as np
import pytest
import torch

from pyg_schnet import DTNN, SchNet
from pyg_schnet.models.convert import like_pyg
from pyg_schnet.neighbors import InteractionGraph, VerletList, radius_graph
from pyg_schnet.nn import (
    AtomNetwork,
    CFConv,
    CosineCutoff,
    DipoleReadout,
    DTNNConv,
    DTNNInteraction,
    ElectronicSpatialExtentReadout,
    FilterNetwork,
    GaussianBasis,
    HardCutoff,
    SchNetInteraction,
    SplineFilter,
    SumReadout,
)
from pyg_schnet.nn.basis import num_gaussians_for_spacing
from pyg_schnet.nn.dense import dense
from pyg_schnet.nn.spline import num_grid_points_for

NO_SIZES = {
    "0": 0,
    "-1": -1,
    "half": 2.5,
    "float": 64.0,
    "NaN": math.nan,
    "text": "64",
    "None": None,
    "True": True,
    "billion": 10**9,
    "1e30": 10**30,
    "list": [64],
}
SIZES = {
    "SchNet": (SchNet, ["hidden_channels", "num_filters", "num_interactions", "num_gaussians", "out_channels"]),
    "DTNN": (DTNN, ["hidden_channels", "num_factors", "num_interactions", "num_gaussians", "out_channels"]),
    "like_pyg": (like_pyg.SchNet, ["hidden_channels", "num_filters", "num_interactions", "num_gaussians"]),
    "FilterNetwork": (FilterNetwork, ["num_filters"]),
    "GaussianBasis": (GaussianBasis, ["num_gaussians"]),
    "SchNetInteraction": (SchNetInteraction, ["hidden_channels"]),
    "DTNNConv": (DTNNConv, ["hidden_channels", "num_factors"]),
    "SumReadout": (SumReadout, ["hidden_channels", "out_channels"]),
    "DipoleReadout": (DipoleReadout, ["hidden_channels"]),
    "spatial extent": (ElectronicSpatialExtentReadout, ["hidden_channels"]),
    "AtomNetwork": (
        lambda **sizes: AtomNetwork(**{"hidden_channels": 8, **sizes}),
        ["hidden_channels", "out_channels"],
    ),
    "dense": (lambda **sizes: dense(**{"in_channels": 4, "out_channels": 4, **sizes}), ["in_channels", "out_channels"]),
}
CASES = [(name, argument) for name, (_, arguments) in SIZES.items() for argument in arguments]


@pytest.mark.parametrize(("name", "argument"), CASES)
def test_sizes(name, argument):
    for value in NO_SIZES.values():
        with pytest.raises(ValueError, match=rf"{argument} must be a whole number, at least 1 and at most \d+, got"):
            SIZES[name][0](**{argument: value})


@pytest.mark.parametrize("value", [value for value in NO_SIZES.values() if value is not None] + [7])
def test_grid_points(value):
    for build in (SchNet, lambda **k: CFConv(FilterNetwork(8), **k), lambda **k: SplineFilter(FilterNetwork(8), **k)):
        with pytest.raises(ValueError, match="num_grid_points must be a whole number, at least 8"):
            build(num_grid_points=value)


@pytest.mark.parametrize(
    "build",
    [
        lambda: SchNet(10**6, 8, 1, 8, 4.0),
        lambda: SchNet(8, 10**5, 1, 8, 4.0),
        lambda: SchNet(10**4, 10**4, 1000, 8, 4.0),
        lambda: DTNN(10**6, 10**4),
        lambda: like_pyg.SchNet(10**5),
        lambda: dense(10**5, 10**5),
    ],
)
def test_parameters_are_counted_before_memory_is_taken(build):
    with pytest.raises(ValueError, match=r"of these sizes would have .* parameters, at most 1e\+09 are possible"):
        build()


def test_sizes_of_numpy_are_sizes():
    model = SchNet(np.int64(8), np.int32(8), np.int64(1), np.int64(8), np.float32(4.0), out_channels=np.int64(2))
    assert type(model.hidden_channels) is int
    assert json.loads(json.dumps(model.config))["cutoff"] == 4.0


LENGTHS = {
    "SchNet": lambda cutoff: SchNet(8, 8, 1, 8, cutoff),
    "DTNN": lambda cutoff: DTNN(8, 8, 1, 8, cutoff),
    "like_pyg": lambda cutoff: like_pyg.SchNet(8, 8, 1, 8, cutoff),
    "GaussianBasis": lambda cutoff: GaussianBasis(8, cutoff),
    "from_paper": SchNet.from_paper,
    "cosine": CosineCutoff,
    "hard": HardCutoff,
    "spacing": lambda spacing: num_gaussians_for_spacing(spacing, 5.0),
    "resolution": lambda resolution: num_grid_points_for(resolution, 5.0),
    "InteractionGraph": InteractionGraph,
    "VerletList": lambda cutoff: VerletList(cutoff, 0.3),
    "skin": lambda skin: VerletList(4.0, skin),
    "radius_graph": lambda cutoff: radius_graph(torch.rand(4, 3), cutoff),
}


@pytest.mark.parametrize("length", LENGTHS)
def test_lengths(length):
    for value in (0, -1.0, math.nan, math.inf, "5", None, True, [5.0], 1j, torch.tensor([1.0, 2.0])):
        with pytest.raises(ValueError, match=r"(cutoff|spacing|skin|resolution) must be a positive length in Å, got"):
            LENGTHS[length](value)
    for value in (1e300, 1e-300):
        with pytest.raises(ValueError, match=r"must be a length of 1e-06 to 1e\+09 Å, got"):
            LENGTHS[length](value)


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, "5", True, [5.0], 1e300, 1e-300])
def test_widths(value):
    for build in (SchNet, DTNN, GaussianBasis):
        with pytest.raises(ValueError, match="gamma must be"):
            build(gamma=value)


NUMBERS = {
    "scale": lambda value: SumReadout(8, scale=value),
    "shift": lambda value: SumReadout(8, shift=value),
    "total_charge": lambda value: DipoleReadout(8, total_charge=value),
    "mean": lambda value: like_pyg.SchNet(8, 8, 1, 8, mean=value, std=1.0),
    "dropout": lambda value: SumReadout(8, dropout=value),
    "tolerance": lambda value: num_grid_points_for(0.1, 5.0, value),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers(name):
    for value in (math.nan, math.inf, "1", True, [1.0], 1j):
        with pytest.raises(ValueError, match=f"{name} must be"):
            NUMBERS[name](value)


@pytest.mark.parametrize("value", [[math.nan], [math.inf], ["H"], "abc", [None], [True], [1e300], [1j]])
def test_references(value):
    with pytest.raises(ValueError, match="atomref must hold"):
        SumReadout(8, atomref=value)


@pytest.mark.parametrize("option", ["normalize", "shared_weights", "activate_filters", "trainable_gaussians"])
def test_switches_of_text_are_no_switches(option):
    with pytest.raises(ValueError, match=f"{option} must be True or False, got 'no'"):
        SchNet(8, 8, 1, 8, **{option: "no"})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FilterNetwork(8, basis=5), "basis must be a module with the attribute num_gaussians"),
        (lambda: FilterNetwork(8, window=5), "window must be a module with the attribute cutoff"),
        (lambda: CFConv(5), "filter_network must be a module with the attribute"),
        (lambda: SchNetInteraction(8, 5), "filter_network must be a module with the attribute num_filters"),
        (lambda: DTNNInteraction(5), "conv must be a DTNNConv or another module"),
        (lambda: SplineFilter(5), "network must be a FilterNetwork"),
        (lambda: SchNet(8, window=["cosine"]), "window must be one of"),
        (
            lambda: SchNet(8, 8, 1, 8, readout={"class": "SumReadout", "hidden_channels": 8, "bad": 1}),
            "no argument bad",
        ),
    ],
)
def test_parts(build, message):
    with pytest.raises((TypeError, ValueError), match=message):
        build()
