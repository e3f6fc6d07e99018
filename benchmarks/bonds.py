"""The lengths that bonds take in dynamics."""

import math

import numpy as np


def lengths_of(bonds, positions):
    """Lengths of bonds in Å."""
    return np.linalg.norm(positions[bonds[:, 0]] - positions[bonds[:, 1]], axis=1)


class Bonds:
    """The lengths that the bonds of some molecules take, in stretches of some frames each.

    Args:
        parts: First atom of each molecule, and its bonds, shape ``[.., 2]``.
        frames: In a stretch.
    """

    def __init__(self, parts, frames):
        self.bonds = np.concatenate([first + bonds for first, bonds in parts])
        self.frames, self.looks, self.stretches = frames, 0, []  # [2, bonds] each: the shortest and the longest

    def look(self, positions):
        """Take in a frame."""
        lengths = lengths_of(self.bonds, positions)
        if self.looks % self.frames == 0:
            self.stretches.append(np.stack([lengths, lengths]))
        low, high = self.stretches[-1]
        np.minimum(low, lengths, out=low)
        np.maximum(high, lengths, out=high)
        self.looks += 1

    @property
    def whole(self):
        """Stretches that are as long as they should be."""
        return self.stretches[: self.looks // self.frames]

    @property
    def range(self):
        """Of each bond at any time, shape ``[2, bonds]``."""
        every = np.stack(self.stretches)
        return np.stack([every[:, 0].min(0), every[:, 1].max(0)])


def outside(stretch, other):
    """How far the bonds of a stretch leave their range in another one, in Å, the one that does so most."""
    return max((other[0] - stretch[0]).max(), (stretch[1] - other[1]).max())


def median(values):
    """Of values, or not a number if there are none."""
    values = list(values)
    return float(np.median(values)) if values else math.nan
