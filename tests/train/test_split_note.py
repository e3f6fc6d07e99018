import json

import numpy as np
import pytest

from pyg_schnet.data import Split
from pyg_schnet.data.split import random_split_indices
from pyg_schnet.train.split_note import check_untrained, note_split, split_of, together


def card_of(split, seed=0):
    note = json.loads(json.dumps(note_split(split, seed)))
    return {"split": {"fingerprint": split.fingerprint, "structures": note}}


def test_a_drawn_split_is_remembered_by_its_seed():
    split = random_split_indices(1000, 700, 100, 150, seed=7)
    assert note_split(split, seed=7) == {"n_structures": 1000, "sizes": [700, 100, 150], "seed": 7}
    assert split_of(card_of(split, seed=7)) == split


@pytest.mark.parametrize("size", [5, 8, 1001])
def test_any_other_split_is_remembered_as_it_is(size):
    order = np.random.default_rng(size).permutation(size)
    split = Split(order[: size // 2], order[size // 2 : size // 2 + 1], order[size // 2 + 2 :], size, "abc")
    found = split_of(card_of(split))
    for name in ("train", "val", "test"):
        assert getattr(found, name).tolist() == sorted(getattr(split, name).tolist())
    assert (found.n_structures, found.fingerprint) == (size, "abc")


def test_a_note_is_two_bits_a_structure_at_most():
    order = np.random.default_rng(0).permutation(100_000)
    split = Split(order[:80_000], order[80_000:90_000], order[90_000:], 100_000)
    assert len(json.dumps(note_split(split, seed=0))) < 35_000


def test_models_without_a_note_know_nothing():
    assert split_of({}) is None
    assert split_of({"split": {"num_train": 5, "fingerprint": "abc"}}) is None


@pytest.mark.parametrize(
    ("options", "sizes", "number"),
    [
        ({"num_train": 5, "num_val": 2, "seed": 3}, [5, 2, 3], 10),
        ({"num_val": 2, "num_test": 3, "seed": 3}, [5, 2, 3], 10),
        ({"num_val": 2, "seed": 3, "test_dataset": {"class_path": "X"}}, [5, 2, 4], 7),  # 4 of another data set
    ],
)
def test_older_files_say_how_their_split_was_drawn(options, sizes, number):
    noted = dict(zip(("num_train", "num_val", "num_test"), sizes, strict=True))
    found = split_of({"split": {**noted, "fingerprint": "f"}, "run": {"data": options}})
    drawn = random_split_indices(number, 5, 2, number - 7, seed=3)
    assert found == Split(drawn.train, drawn.val, drawn.test, number, "f")


@pytest.mark.parametrize(
    "options", [{}, {"num_train": 5, "num_test": 3}, {"split": "s.json"}, {"num_train": 5, "test_dataset": {"a": 1}}]
)
def test_older_files_that_do_not_say_it_know_nothing(options):
    noted = {"num_train": 5, "num_val": 2, "num_test": 3, "fingerprint": "f"}
    assert split_of({"split": noted, "run": {"data": options}}) is None


def test_structures_that_were_learned_from_are_refused():
    card = card_of(Split([0, 1, 2], [3], [4, 5], 8, "abc"))
    check_untrained(card, Split([0], [1], [4, 5, 6], 8, "abc"))
    check_untrained(card, Split([0], [1], [4], 8, None))
    with pytest.raises(ValueError, match=r"2 of the 3 test structures were used for training or validation"):
        check_untrained(card, Split([], [], [2, 3, 4], 8, "abc"))
    with pytest.raises(ValueError, match="trained on other structures: they have fingerprint abc, these xyz"):
        check_untrained(card, Split([], [], [4], 8, "xyz"))


def test_runs_together_have_learned_from_what_one_of_them_has():
    both = together([Split([0, 1], [2], [3, 4, 5], 6), Split([0, 2], [1, 5], [3], 6)])
    assert (both.train.tolist(), both.val.tolist(), both.test.tolist()) == ([0, 1, 2], [5], [3, 4])
