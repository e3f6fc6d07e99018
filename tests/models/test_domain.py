"""What models were trained on: formulas by ASE, files, means of models, and what is outside."""

import json
import re

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.data import chemical_symbols

from pyg_schnet import SchNet
from pyg_schnet.models import join_ensemble
from pyg_schnet.models.domain import Coverage, Domain, formula, renew

QM9 = Coverage(100, (3, 29), None, {"H": (0, 20), "C": (0, 9), "O": (0, 5)})
SALTS = Coverage(9, (2, 8), ("ClNa", "MgO"), {"Na": (0, 0.5), "Cl": (0, 0.5), "Mg": (0, 0.5), "O": (0, 0.5)})
SYMBOLS = chemical_symbols[1:96]
PAIRS = {(1, 1): 1.5, (1, 6): 1.06, (6, 8): 1.17}


def domain(gradients="forces", systems=None, shortest=None, stress=False):
    return Domain(gradients, stress, {"molecule": QM9} if systems is None else systems, shortest or PAIRS)


@pytest.mark.parametrize("name", ["H2O", "CH3CH2OH", "C6H6", "NaCl", "SiH4", "O2", "CO", "CH3Cl"])
def test_formulas_are_those_of_ase(name):
    atoms = molecule(name)
    symbols = atoms.get_chemical_symbols()
    assert formula({symbol: symbols.count(symbol) for symbol in symbols}) == atoms.get_chemical_formula("hill")


@pytest.mark.parametrize("n_elements", [3, 30, 95])
def test_any_number_of_elements_is_kept_in_a_file(n_elements, tmp_path):
    random = np.random.default_rng(0)
    pairs = [(a, b) for a in range(1, n_elements + 1) for b in range(a, n_elements + 1)]
    shortest = {pair: round(random.uniform(0.7, 4.0), 3) for pair in pairs if n_elements == 3 or random.random() < 0.8}
    symbols = dict.fromkeys(SYMBOLS[:n_elements], (0.0, 1.0))
    given = domain(systems={"crystal": Coverage(7, (1, 9), None, symbols)}, shortest=shortest)
    model = SchNet(8, 8, 1)
    renew(model.card, given)
    found = SchNet.load(model.save(tmp_path / "model.safetensors", unit="eV")).card
    assert len(json.dumps(found["trained_on"])) < 10_000
    read = Domain.of(found)
    assert read.systems == given.systems
    assert read.elements == found["elements"] == SYMBOLS[:n_elements]
    assert set(read.shortest) == set(shortest)
    errors = np.array([shortest[pair] - read.shortest[pair] for pair in shortest])
    assert (errors > -1e-9).all()  # never longer than in the data
    assert errors.max() < (2e-3 if n_elements == 3 else 0.0201)


def test_cards_of_older_files_say_nothing():
    assert Domain.of({"unit": "eV", "elements": ["H"]}) is None


@pytest.mark.parametrize(
    ("numbers", "pbc", "expected"),
    [
        ([8, 1, 1], [False] * 3, {}),
        ([6] * 10 + [1] * 12, [False] * 3, {"composition": "C10H12, .* 0 to 9 atoms of C"}),
        ([6] * 9 + [1] * 21, [False] * 3, {"size": "30 atoms, .* 3 to 29", "composition": "0 to 20 atoms of H"}),
        ([8, 1, 1], [True, True, False], {"boundary": "periodic boundaries.*trained on molecules and crystals"}),
        ([11, 17] * 32, [True] * 3, {}),
        ([11, 11, 17], [True] * 3, {"composition": "ClNa2, but the model was trained on ClNa, MgO"}),
        ([11], [True] * 3, {"composition": "Na, but"}),
        ([7, 1, 1, 1], [False] * 3, {"composition": "H3N, but .* 0 to 0 atoms of N"}),
    ],
)
def test_what_is_outside(numbers, pbc, expected):
    found = dict(domain(systems={"molecule": QM9, "crystal": SALTS}).outside(numbers, pbc))
    assert set(found) == set(expected)
    for kind, words in expected.items():
        assert re.search(words, found[kind]), found[kind]


def test_limits_are_a_twentieth_below_the_shortest_distances():
    limits = domain().limits([6, 1, 8])
    expected = 0.95 * np.array([[4.0, 1.06, 1.17], [1.06, 1.5, 4.0], [1.17, 4.0, 4.0]])
    np.testing.assert_allclose(limits, expected)


def small(card_domain, seed=0):
    torch.manual_seed(seed)
    model = SchNet(8, 8, 1)
    model.card = {"unit": "eV"}
    if card_domain is not None:
        renew(model.card, card_domain)
    return model


def test_a_mean_knows_what_all_its_models_know():
    water = Coverage(5, (3, 12), ("H2O", "CH4"), {"H": (2, 4), "C": (0, 1), "O": (0, 1)})
    other = Coverage(8, (2, 5), ("H2O", "HO"), {"H": (1, 2), "O": (1, 1)})
    first = domain("forces", {"molecule": water, "crystal": SALTS}, {(1, 1): 1.5, (1, 8): 0.9}, stress=True)
    second = domain("none", {"molecule": other}, {(1, 1): 1.4})
    merged = join_ensemble([small(first), small(second)])
    found = Domain.of(merged.card)
    assert (found.gradients, found.stress) == ("none", False)
    assert found.systems == {"molecule": Coverage(5, (3, 5), ("H2O",), {"H": (2, 2), "O": (1, 1)})}
    assert found.shortest == {(1, 1): 1.5, (1, 8): 4.0}
    assert Domain.of(join_ensemble([small(first), small(first)]).card) == first
    assert Domain.of(join_ensemble([small(first), small(None)]).card) is None


def test_a_new_training_replaces_what_the_card_said():
    card = {"unit": "eV", "data": "mine", "test": {"energy": 1.0}, "split": {}, "training": {}, "elements": ["U"]}
    renew(card, domain("forces"))
    renew(card, domain("none"))
    assert set(card) == {"unit", "data", "elements", "trained_on"}
    assert card["elements"] == ["H", "C", "O"]
    assert card["trained_on"]["gradients"] == "none"


@pytest.mark.parametrize("entry", [{"gradients": "none"}, {"gradients": "none", "stress": False, "systems": ["H2O"]}])
def test_entries_written_by_hand_are_refused(entry):
    with pytest.raises(ValueError, match="entry 'trained_on' is not as training writes it"):
        Domain.of({"trained_on": entry})
