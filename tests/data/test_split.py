import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Subset
from torch_geometric.data import Data

from pyg_schnet.data import QM9, Split, random_split
from pyg_schnet.data.split import fingerprint, group_split_indices, grown_split, random_split_indices


def test_the_order_is_the_same_everywhere():
    # fixed numbers: a saved seed must mean the same molecules on every machine and in ten years
    split = random_split_indices(130_831, 110_000, 10_000, seed=0)
    assert split.train[:5].tolist() == [78538, 53924, 103636, 99167, 25556]
    assert split.val[:3].tolist() == [19206, 64888, 68966]
    assert split.test[-3:].tolist() == [45676, 114617, 6138]
    assert random_split_indices(10, 4, 3, seed=1).train.tolist() == [9, 2, 4, 7]


def test_sizes_and_nesting():
    split = random_split_indices(100, 50, 20)
    assert [len(part) for part in (split.train, split.val, split.test)] == [50, 20, 30]
    assert sorted(np.concatenate([split.train, split.val, split.test])) == list(range(100))
    assert len(random_split_indices(100, 50, 20, 10).test) == 10
    larger = random_split_indices(100, 60, 20)
    assert np.array_equal(larger.train[:50], split.train)
    assert not np.array_equal(random_split_indices(100, 50, 20, seed=1).train, split.train)


@pytest.mark.parametrize("sizes", [(8, 3, None), (-1, 2, None), (5, 5, 1)])
def test_impossible_sizes(sizes):
    with pytest.raises(ValueError, match="structures from 10"):
        random_split_indices(10, *sizes)


def test_indices_are_checked_and_kept_apart():
    with pytest.raises(ValueError, match="structure 2 appears more than once"):
        Split([0, 2], [2], [], 4)
    with pytest.raises(ValueError, match="run from 0 to 4; the data set has 4"):
        Split([0, 4], [], [], 4)
    with pytest.raises(ValueError, match="run from -1"):
        Split([0, -1], [], [], 4)
    with pytest.raises(ValueError, match="whole numbers"):
        Split([0.5], [], [], 4)
    given = np.array([0, 1])
    split = Split(given, [2], [], 4)
    given[0] = 3
    assert split.train.tolist() == [0, 1]


@pytest.mark.parametrize(
    "parts",
    [
        ([0, 2], [2], []),
        ([0, 2], [], [2]),
        ([0], [2, 3], [3, 2]),
        ([0, 2, 2], [], []),
        ([], [2, 2], []),
        ([], [], [2, 2]),
    ],
)
def test_no_structure_is_in_two_parts(parts, tmp_path):
    with pytest.raises(ValueError, match="structure 2 appears more than once in train, val and test"):
        Split(*parts, 4)
    names = ("train", "val", "test")
    content = {"n_structures": 4, "fingerprint": None, **dict(zip(names, parts, strict=True))}
    (tmp_path / "split.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="structure 2 appears more than once"):
        Split.load(tmp_path / "split.json")


@settings(max_examples=50)
@given(st.integers(0, 40), st.data())
def test_random_parts_are_disjoint(n_structures, data):
    num_train = data.draw(st.integers(0, n_structures))
    num_val = data.draw(st.integers(0, n_structures - num_train))
    num_test = data.draw(st.none() | st.integers(0, n_structures - num_train - num_val))
    split = random_split_indices(n_structures, num_train, num_val, num_test, seed=data.draw(st.integers(0, 9)))
    parts = [set(split.train.tolist()), set(split.val.tolist()), set(split.test.tolist())]
    rest = n_structures - num_train - num_val if num_test is None else num_test
    assert [len(part) for part in parts] == [num_train, num_val, rest]
    assert len(set.union(*parts)) == num_train + num_val + rest


PAIRS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 15)), min_size=1, max_size=60)


@given(PAIRS, st.integers(0, 10), st.integers(0, 10) | st.none(), st.integers(0, 20), st.integers(0, 100))
@settings(max_examples=200)
def test_no_group_of_a_part_is_in_one_that_it_is_kept_from(pairs, num_val, num_test, num_train, seed):
    groups, partners = np.array(pairs).T
    wanted = {"num_train": num_train if num_test is None else None, "num_val": num_val, "num_test": num_test}
    try:
        split = group_split_indices(groups, **wanted, seed=seed, partners=partners)
    except ValueError as error:
        assert "cannot take" in str(error)  # noqa: PT017  # as where there are few structures
        return
    assert len(split.val) == num_val
    assert len(split.train if num_test is None else split.test) == (num_train if num_test is None else num_test)
    of = {name: set(groups[getattr(split, name)].tolist()) for name in ("train", "val", "test")}
    with_partners = {
        name: of[name] | set(partners[getattr(split, name)].tolist()) & set(groups.tolist()) for name in of
    }
    assert not of["train"] & (of["val"] | of["test"])
    assert not of["val"] & of["test"]
    assert not with_partners["train"] & (of["val"] | of["test"])
    assert not with_partners["val"] & of["test"]
    lost = set(range(len(pairs))) - {*split.train.tolist(), *split.val.tolist(), *split.test.tolist()}
    cut = [split.val[-1:], split.test[-1:] if num_test is not None else split.train[-1:]]
    ends = {int(groups[one[0]]) for one in cut if len(one)} | {int(partners[one[0]]) for one in cut if len(one)}
    for one in lost:  # of the last group of a part, or a pair
        assert groups[one] != partners[one] or groups[one] in ends


def test_pairs_of_a_group_that_is_held_out_are_not_learned():
    groups, partners = np.repeat(np.arange(50), 4), np.repeat(np.arange(50), 4)
    partners[3::4] = (np.arange(50) + 7) % 50  # of each group, one structure is a pair
    split = group_split_indices(groups, None, 20, 20, partners=partners)
    held_out = set(groups[split.val]) | set(groups[split.test])
    assert len(held_out) >= 10
    expected = [k for k in range(200) if groups[k] not in held_out and partners[k] not in held_out]
    assert sorted(split.train.tolist()) == expected
    assert 140 < len(expected) < len(group_split_indices(groups, None, 20, 20).train) == 160


@pytest.mark.parametrize("name", ["split.json", "split.npz"])
def test_save_and_load(qm9, tmp_path, name):
    for split in (random_split(qm9, 10, 5), random_split_indices(100, 50, 20, 0)):
        split.save(tmp_path / name)
        assert Split.load(tmp_path / name) == split


def test_files_that_are_no_split(tmp_path):
    (tmp_path / "a.json").write_text("[1, 2]")
    (tmp_path / "b.json").write_text("{")
    np.savez(tmp_path / "c.npz", train=[0])
    for name in ("a.json", "b.json", "c.npz"):
        with pytest.raises(ValueError, match=f"{name} is not a saved split"):
            Split.load(tmp_path / name)
    with pytest.raises(ValueError, match=r"ends in \.json or \.npz"):
        Split.load(tmp_path / "split.txt")


def of_groups(groups, partners=None):
    """Hydrogen atoms at places of their own, of some molecules and with some partners."""
    pairs = zip(groups, groups if partners is None else partners, strict=True)
    return [
        Data(
            z=torch.tensor([1]), pos=torch.tensor([[float(k), 0.0, 0.0]]), molecule=torch.tensor([one]),
            molecule_partner=torch.tensor([other]),
        )
        for k, (one, other) in enumerate(pairs)
    ]  # fmt: skip


def test_what_a_grown_data_set_holds_back():
    """What is new is trained on, unless one of its two molecules is in validation or test."""
    before = of_groups([1, 1, 2, 3, 4], [1, 4, 2, 3, 4])
    split = replace(Split([0, 4], [2], [3], 5), fingerprint=fingerprint(before))  # 1, a pair of 1 and 4, is in no part
    data = of_groups([1, 1, 2, 3, 4, 1, 2, 3, 5, 5, 5, 6], [1, 4, 2, 3, 4, 1, 2, 3, 5, 2, 3, 1])
    grown = grown_split(split, data, "molecule")
    assert grown == Split([0, 4, 5, 8, 11], [2], [3], 12)
    assert grown_split(split, before, "molecule") is split
    with pytest.raises(ValueError, match="split is of 5 structures; this data set has 12; give split_by"):
        split.apply(data)
    with pytest.raises(ValueError, match=r"the split is of other structures.* the first 5 of this data set"):
        grown_split(split, data[::-1], "molecule")
    with pytest.raises(ValueError, match="'shell' is none"):
        grown_split(split, data, "shell")
    assert grown_split(split, data[:3], "molecule") is split
    with pytest.raises(ValueError, match=r"split is of 5 structures; this data set has 3$"):
        split.apply(data[:3])


def test_apply(qm9):
    split = random_split(qm9, 10, 5)
    parts = split.apply(qm9)
    for part, index in zip(parts, (split.train, split.val, split.test), strict=True):
        assert part.idx.flatten().tolist() == qm9.idx[index].tolist()
    as_list = random_split_indices(3, 1, 1).apply([qm9[i] for i in range(3)])
    assert isinstance(as_list[0], Subset)


def test_another_data_set_is_refused(qm9):
    split = random_split(qm9, 10, 5)
    with pytest.raises(ValueError, match=f"is of {len(qm9)} structures; this data set has 3"):
        split.apply(qm9[:3])
    with pytest.raises(ValueError, match="of another data set"):
        split.apply(qm9[list(range(len(qm9)))[::-1]])


def test_fingerprint(qm9, qm9_source, tmp_path, monkeypatch):
    double = QM9(tmp_path, source=qm9_source, dtype=torch.float64, progress=False)
    assert fingerprint(double) == fingerprint(qm9)
    assert fingerprint(qm9[:5]) != fingerprint(qm9[:6])
    assert fingerprint([qm9[i] for i in range(5)]) == fingerprint(qm9[:5])
    moved = [qm9[i].clone() for i in range(5)]
    moved[4].pos[0, 2] += 1e-4
    assert fingerprint(moved) != fingerprint(qm9[:5])
    moved[4].pos[0, 2] -= 1e-4
    moved[2].z = moved[2].z.flip(0)
    assert fingerprint(moved) != fingerprint(qm9[:5])
    whole = fingerprint(qm9)
    monkeypatch.setattr("pyg_schnet.data.split._CHUNK", 7)
    assert fingerprint(qm9) == whole


def test_json_is_readable(tmp_path):
    random_split_indices(6, 3, 1).save(tmp_path / "split.json")
    content = json.loads((tmp_path / "split.json").read_text())
    assert list(content) == ["n_structures", "fingerprint", "train", "val", "test"]
