"""What a model has learned of the elements: a map of their embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from pyg_schnet.analysis._model import Source, own_atomistic_copy, to_numpy
from pyg_schnet.models.card import check_elements

_MAIN_GROUPS = {
    1: "Li Na K Rb Cs",
    2: "Be Mg Ca Sr Ba",
    13: "B Al Ga In Tl",
    14: "C Si Ge Sn Pb",
    15: "N P As Sb Bi",
    16: "O S Se Te",
    17: "F Cl Br I",
    18: "He Ne Ar Kr Xe",
}
_ROUNDING = 1e-9  # scores are ties up to this
_GROUP_OF = {symbol: group for group, symbols in _MAIN_GROUPS.items() for symbol in symbols.split()}


@dataclass(frozen=True, eq=False)
class EmbeddingMap:
    """Principal components of the embeddings of elements, and how well groups of the periodic table cluster.

    Attributes:
        symbols: Chemical symbols, n of them.
        components: Coordinates along the principal components, the largest first, shape ``[n, C]``; dimensionless.
        explained: Part of the variance along each component, shape ``[C]``.
        groups: Group of each element in the periodic table, shape ``[n]``; 0 for those of no main group and hydrogen.
        score: Mean silhouette of the elements of main groups, -1 to 1; see :func:`embedding_map`.
        null: Scores with the groups shuffled among these elements, shape ``[shuffles]``.
        p_value: Probability of a score as high with shuffled groups.
    """

    symbols: tuple[str, ...]
    components: np.ndarray
    explained: np.ndarray
    groups: np.ndarray
    score: float
    null: np.ndarray
    p_value: float


def embedding_map(
    model: Source,
    elements: Sequence[str] | None = None,
    *,
    dimensions: int | None = 2,
    shuffles: int = 1000,
    seed: int = 0,
) -> EmbeddingMap:
    r"""Map of the element embeddings, as in Fig. 7 of `Schütt et al. (2020) <https://arxiv.org/abs/1812.04690>`_.

    The map is a principal component analysis. The score is the mean silhouette (`Rousseeuw 1987
    <https://doi.org/10.1016/0377-0427(87)90125-7>`_) over all elements of main groups,

    .. math:: s = \Bigl\langle \frac{b_i - a_i}{\max(a_i, b_i)} \Bigr\rangle_i

    with :math:`a_i` the mean distance to the others of its group and :math:`b_i` that to the nearest other group, in
    the leading components. Embeddings begin as random vectors, and training moves them along few directions; in all of
    them the random numbers outweigh what was learned. Hydrogen, which resembles no group, is left out, as are
    transition metals, lanthanides and actinides. The null hypothesis is that groups mean nothing: the same score with
    groups shuffled. The p-value counts the score itself among the shuffled ones, so that it is never zero.

    Args:
        model: Model of this package, its file, or the name of a pretrained one.
        elements: Chemical symbols; ``None`` takes those that the model was trained on.
        dimensions: Number of leading components that the score sees, by default those that a map shows; ``None`` for
            all.
        shuffles: Number of shuffled scores.
        seed: Of the shuffles.

    Raises:
        ValueError: If the elements are not known or not stated, appear twice, or are too few to be compared; or
            ``dimensions`` is not positive.

    Example:
        >>> from pyg_schnet import SchNet
        >>> result = embedding_map(SchNet(16, 16, 1), ["Li", "Na", "K", "F", "Cl", "Br", "Fe"])
        >>> result.components.shape, result.groups.tolist()
        ((7, 7), [1, 1, 1, 17, 17, 17, 0])
    """
    network = own_atomistic_copy(model, "embedding_map")
    symbols = _elements(elements, network.card.get("elements"))
    vectors = to_numpy(network.embedding.weight)[[atomic_numbers[symbol] for symbol in symbols]]
    groups = np.array([_GROUP_OF.get(symbol, 0) for symbol in symbols])
    _, counts = np.unique(groups[groups > 0], return_counts=True)
    if len(counts) < 2 or counts.max() < 2:
        raise ValueError(
            f"two main groups are needed, one of them with two elements, to see whether they cluster; got "
            f"{', '.join(symbols)}"
        )
    if dimensions is not None and dimensions < 1:
        raise ValueError(f"dimensions must be at least 1, got {dimensions}")
    components, explained = _principal_components(vectors)
    main = components[groups > 0, :dimensions]
    dist = np.linalg.norm(main[:, None] - main[None], axis=-1)
    labels = groups[groups > 0]
    score = _silhouette(dist, labels)
    random = np.random.default_rng(seed)
    null = np.array([_silhouette(dist, random.permutation(labels)) for _ in range(shuffles)])
    p_value = (1 + int((null >= score - _ROUNDING).sum())) / (1 + shuffles)
    return EmbeddingMap(symbols, components, explained, groups, score, null, p_value)


def _elements(stated: Sequence[str] | None, trained: Sequence[str] | None) -> tuple[str, ...]:
    if stated is None and trained is None:
        raise ValueError(
            'the model does not say which elements it was trained on; state them: elements=["H", "C", ...]'
        )
    symbols = tuple(stated if stated is not None else trained or ())
    if unknown := [symbol for symbol in symbols if symbol not in chemical_symbols[1:100]]:
        raise ValueError(f"not symbols of elements up to Z = 99: {', '.join(map(repr, unknown))}")
    if len(set(symbols)) < len(symbols):
        raise ValueError("an element appears twice in elements")
    check_elements({"elements": trained}, [atomic_numbers[symbol] for symbol in symbols])
    return symbols


def _principal_components(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates and parts of the variance; the sign is such that the largest coordinate is positive."""
    left, sizes, _ = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    components = left * sizes
    largest = np.take_along_axis(components, np.abs(components).argmax(0)[None], axis=0)
    return components * np.where(largest < 0, -1.0, 1.0), sizes**2 / (sizes**2).sum()


def _silhouette(dist: np.ndarray, labels: np.ndarray) -> float:
    """Mean silhouette; zero for an element that is the only one of its group, as Rousseeuw has it."""
    kinds, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    totals = dist @ np.eye(len(kinds))[inverse]  # [n, groups]: sums of distances to each group
    rows = np.arange(len(labels))
    alone = counts[inverse] == 1
    within = totals[rows, inverse] / np.maximum(counts[inverse] - 1, 1)
    means = totals / counts
    means[rows, inverse] = np.inf
    nearest = means.min(1)
    return float(np.where(alone, 0.0, (nearest - within) / np.maximum(np.maximum(nearest, within), 1e-300)).mean())
