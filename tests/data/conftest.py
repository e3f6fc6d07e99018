from pathlib import Path

import pytest
import torch
from torch_geometric.data import Data, InMemoryDataset

from pyg_schnet.data import QM9

SAMPLES = Path(__file__).parent / "samples"


class ListDataset(InMemoryDataset):
    """A data set as PyG makes it from a list, without anything of ours."""

    def __init__(self, structures, transform=None):
        super().__init__(None, transform)
        self._data, self.slices = self.collate(structures)


def random_graph(seed: int) -> Data:
    """A structure with every kind of attribute that PyG treats by its name or type."""
    generator = torch.Generator().manual_seed(seed)
    n, edges = int(torch.randint(1, 6, (), generator=generator)), int(torch.randint(0, 9, (), generator=generator))
    return Data(
        z=torch.randint(1, 10, (n,), generator=generator),
        pos=torch.randn(n, 3, generator=generator),
        edge_index=torch.randint(0, n, (2, edges), generator=generator),
        edge_shift=torch.randint(-1, 2, (edges, 3), generator=generator),
        pair_index=torch.randint(0, n, (edges + 1,), generator=generator),
        y=torch.randn(1, 3, generator=generator),
        energy=torch.randn((), generator=generator),
        cell=torch.randn(1, 3, 3, generator=generator),
        pbc=torch.tensor([[True, False, True]]),
        idx=seed,
        weight=0.5 * seed,
        name=f"graph {seed}",
    )


@pytest.fixture(scope="session")
def graphs():
    return ListDataset([random_graph(seed) for seed in range(12)])


@pytest.fixture(scope="session")
def qm9_source():
    return SAMPLES / "qm9"


@pytest.fixture(scope="session")
def qm9(qm9_source, tmp_path_factory):
    return QM9(tmp_path_factory.mktemp("qm9"), source=qm9_source, progress=False)


@pytest.fixture(scope="session")
def list_dataset():
    return ListDataset
