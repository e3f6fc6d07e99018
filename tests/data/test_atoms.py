"""What every structure has to have."""

import pytest
import torch
from torch_geometric.data import Data

from pyg_schnet.data.atoms import atoms_of


class Keyed:
    """Has names, but nothing can be got by them."""

    def keys(self):
        return ["z", "pos"]


@pytest.mark.parametrize("structure", [Keyed(), [1, 2], 3.0])
def test_other_things_are_refused(structure):
    with pytest.raises(ValueError, match=f"with z and pos, got a {type(structure).__name__}"):
        atoms_of(structure)


def test_what_is_missing_is_named():
    with pytest.raises(
        ValueError, match=r"a structure has no `pos` \(positions in Å, \[N, 3\]\); it has z. Set data.pos"
    ):
        atoms_of(Data(z=torch.tensor([1])))
