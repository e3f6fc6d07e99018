"""Activations and their derivatives against formulas in numpy."""

import numpy as np
import pytest

from pyg_schnet.analysis import activation_curves


def test_formulas():
    x = np.linspace(-6.0, 6.0, 101)[1::2]  # zero, where ELU's second derivative jumps, is between two
    assert not (x == 0).any()
    curves = activation_curves(x, ["shifted softplus", "softplus", "ELU", "ReLU"])
    logistic = 1 / (1 + np.exp(-x))
    exponential = np.exp(np.minimum(x, 0.0))
    softplus = np.log(1 + np.exp(x))
    expected = [
        (np.log(0.5 * np.exp(x) + 0.5), softplus, np.where(x > 0, x, exponential - 1), np.maximum(x, 0.0)),
        (logistic, logistic, exponential, x > 0),
        (*[logistic * (1 - logistic)] * 2, np.where(x > 0, 0.0, exponential), 0 * x),
    ]
    for found, order in zip((curves.values, curves.first, curves.second), expected, strict=True):
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, np.array(order, dtype=float), atol=1e-8)


def test_defaults_compare_what_the_chapter_compares():
    curves = activation_curves()
    assert curves.names == ("shifted softplus", "softplus", "ELU")
    assert curves.values.shape == curves.first.shape == curves.second.shape == (3, 601)
    middle = np.flatnonzero(curves.x == 0)
    assert curves.values[0, middle] == 0.0


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"some of shifted softplus.*; got tanh"):
        activation_curves(names=["tanh"])
    with pytest.raises(ValueError, match="got none"):
        activation_curves(names=[])
