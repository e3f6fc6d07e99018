"""Rows of a batch that have a label."""

from __future__ import annotations

import torch
from torch import Tensor

from pyg_schnet.ops.dispatch import is_at_hand

Pair = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]
"""Predicted and true values, and weights of rows where there are."""


def labelled(predicted: Tensor, true: Tensor, mask: Tensor | None, *, training: bool) -> Pair:
    """Predicted and true rows that have a label.

    To choose rows is to read their number, which waits for a device. In training on devices all rows stay, those
    without a label as zeros with weight zero; in evaluation, whose errors are of labels alone, and on CPUs, rows are
    chosen, with one read for each mask.

    Args:
        predicted: Predictions, shape ``[n, ...]``.
        true: Labels of the same shape, anything where there is none.
        mask: Which rows have a label, shape ``[n]``; ``None`` for all.
        training: Whether a loss is learned from.

    Returns:
        Predicted and true values; on devices in training with weights 0 and 1, shape ``[n, 1, ...]``.

    Example:
        >>> predicted, true, mask = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.0]), torch.tensor([True, False])
        >>> labelled(predicted, true, mask, training=True)
        (tensor([1.]), tensor([0.5000]))
    """
    if mask is None:
        return predicted, true
    if not training or is_at_hand(mask):
        return predicted[mask], true[mask]
    rows = mask.view(-1, *(1 for _ in predicted.shape[1:]))
    return torch.where(rows, predicted, 0.0), torch.where(rows, true, 0.0), rows.to(predicted.dtype)
