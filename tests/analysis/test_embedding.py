import numpy as np
import pytest
import torch
from ase.data import atomic_numbers

from pyg_schnet import SchNet
from pyg_schnet.analysis.embedding import _MAIN_GROUPS, embedding_map

ELEMENTS = " ".join(_MAIN_GROUPS.values()).split()


def model_with(vectors):
    model = SchNet(vectors.shape[1], 8, 1)
    with torch.no_grad():
        for symbol, vector in zip(ELEMENTS, vectors, strict=True):
            model.embedding.weight[atomic_numbers[symbol]] = torch.as_tensor(vector, dtype=torch.float32)
    return model


def groups():
    return np.repeat(list(_MAIN_GROUPS), [len(symbols.split()) for symbols in _MAIN_GROUPS.values()])


def reference(vectors, labels):
    """Silhouettes in the words of the paper."""
    values = []
    for i, own in enumerate(labels):
        mean = {
            kind: np.mean([np.linalg.norm(vectors[i] - vectors[j]) for j in range(len(labels))
                           if labels[j] == kind and j != i] or [0.0])
            for kind in set(labels)
        }  # fmt: skip
        a, b = mean.pop(own), min(mean[kind] for kind in mean if kind != own)
        values.append((b - a) / max(a, b) if sum(labels == own) > 1 else 0.0)
    return np.mean(values)


def test_score_is_the_mean_silhouette():
    vectors = np.random.default_rng(0).normal(size=(len(ELEMENTS), 4)).astype(np.float32)
    result = embedding_map(model_with(vectors), ELEMENTS, dimensions=None, shuffles=5)
    assert result.score == pytest.approx(reference(vectors, groups()), abs=1e-6)
    flat = embedding_map(model_with(vectors), ELEMENTS, shuffles=5)
    assert flat.score == pytest.approx(reference(result.components[:, :2], groups()), abs=1e-6)
    single = embedding_map(model_with(vectors), [*ELEMENTS[:5], "Be", "Mg", "B"], dimensions=None, shuffles=5)
    rows = [0, 1, 2, 3, 4, 5, 6, 10]
    assert single.score == pytest.approx(reference(vectors[rows], groups()[rows]), abs=1e-6)


def test_clusters_are_told_from_noise():
    random = np.random.default_rng(1)
    noise = random.normal(size=(len(ELEMENTS), 16))
    centres = {group: random.normal(size=16) * 3.0 for group in _MAIN_GROUPS}
    clustered = noise + np.stack([centres[group] for group in groups()])
    found, chance = (embedding_map(model_with(vectors), ELEMENTS) for vectors in (clustered, noise))
    assert found.p_value == pytest.approx(1 / 1001)
    assert found.score > found.null.max()
    assert chance.p_value > 0.05
    assert abs(chance.null.mean() - chance.score) < 3 * chance.null.std()


def test_ties_count_for_chance():
    # two groups of two: of the six ways to give out the groups, two have the score itself, by exchange of their names
    model = SchNet(2, 8, 1)
    rows = {"Li": (0.0, 0.0), "Na": (0.0, 1.0), "F": (3.0, 0.0), "Cl": (3.0, 1.0)}
    with torch.no_grad():
        for symbol, vector in rows.items():
            model.embedding.weight[atomic_numbers[symbol]] = torch.tensor(vector)
    result = embedding_map(model, list(rows), shuffles=3000)
    ties = np.isclose(result.null, result.score, rtol=1e-12).sum()
    assert (result.null <= result.score * (1 + 1e-12)).all()
    assert result.p_value == pytest.approx((1 + ties) / 3001, rel=1e-12)
    assert result.p_value == pytest.approx(1 / 3, abs=0.04)


def test_all_ties_are_no_evidence():
    # at the corners of a tetrahedron every choice of groups scores zero
    model = SchNet(4, 8, 1)
    with torch.no_grad():
        for symbol, row in zip(("Li", "Na", "F", "Cl"), torch.eye(4), strict=True):
            model.embedding.weight[atomic_numbers[symbol]] = row
    result = embedding_map(model, ["Li", "Na", "F", "Cl"], dimensions=None, shuffles=20)
    assert abs(result.score) < 1e-6
    assert result.p_value == 1.0


def test_components_are_those_of_the_covariance():
    vectors = np.random.default_rng(2).normal(size=(len(ELEMENTS), 6)) * np.arange(1, 7)
    result = embedding_map(model_with(vectors), ELEMENTS, shuffles=1)
    values = np.linalg.eigvalsh(np.cov(vectors.T, bias=True))[::-1]
    np.testing.assert_allclose(result.components.var(0), values, rtol=1e-5)
    np.testing.assert_allclose(result.explained, values / values.sum(), rtol=1e-5)
    between = np.linalg.norm(vectors[3] - vectors[7])
    assert np.linalg.norm(result.components[3] - result.components[7]) == pytest.approx(between, rel=1e-5)


def test_trained_elements_are_the_default():
    model = SchNet(8, 8, 1)
    model.card["elements"] = ["H", "Li", "Na", "F", "Cl", "Fe"]
    result = embedding_map(model, shuffles=1)
    assert result.symbols == ("H", "Li", "Na", "F", "Cl", "Fe")
    assert result.groups.tolist() == [0, 1, 1, 17, 17, 0]
    with pytest.raises(ValueError, match="the model was not trained on K; it knows H, Li, Na, F, Cl, Fe"):
        embedding_map(model, ["Li", "Na", "K", "F", "Cl"])


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        (None, "does not say which elements"),
        (["Li", "Na", "Xx"], "not symbols of elements up to Z = 99: 'Xx'"),
        (["Li", "Na", "F", "F"], "appears twice"),
        (["Li", "Na", "Fe"], "two main groups are needed"),
    ],
)
def test_bad_elements_are_refused(elements, message):
    with pytest.raises(ValueError, match=message):
        embedding_map(SchNet(8, 8, 1), elements)


def test_a_score_needs_a_dimension():
    with pytest.raises(ValueError, match="dimensions must be at least 1, got 0"):
        embedding_map(SchNet(8, 8, 1), ["Li", "Na", "F"], dimensions=0)
