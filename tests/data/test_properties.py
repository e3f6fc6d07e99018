import pytest
import torch
from torch.utils.data import ConcatDataset, Subset
from torch_geometric.data import Batch, Data
from torch_geometric.datasets import MD17, QM9

from pyg_schnet.data import Property, StructureDataset, StructureLoader, find_property, target_mask, target_values
from pyg_schnet.data.loader import collate_indices
from pyg_schnet.data.properties import properties_of
from pyg_schnet.data.split import fingerprint
from pyg_schnet.units import dimension


def test_properties_of_ours_and_of_views(qm9):
    assert list(properties_of(qm9))[:3] == ["mu", "alpha", "homo"]
    for view in (qm9[:3], Subset(qm9, [0]), StructureLoader(qm9)):
        assert properties_of(view) == properties_of(qm9)


def test_properties_of_pyg_without_files():
    qm9 = properties_of(QM9.__new__(QM9))
    assert [target.column for target in qm9.values()] == list(range(19))
    md17 = properties_of(MD17.__new__(MD17))
    assert (md17["forces"].attribute, md17["forces"].unit, md17["forces"].level) == ("force", "kcal/mol/Å", "atom")
    assert all(dimension(target.unit) for target in qm9.values())


def test_unknown_data_sets_and_names(qm9, graphs):
    with pytest.raises(ValueError, match="targets of a list are not known"):
        properties_of([1])
    with pytest.raises(ValueError, match="ListDataset are not known; give it an attribute `properties`"):
        properties_of(graphs)
    with pytest.raises(ValueError, match="QM9 has no target 'energy'; it has mu"):
        find_property(qm9, "energy")


def test_a_property_is_checked():
    with pytest.raises(ValueError, match="unknown unit 'Ry'"):
        Property("energy", "Ry")
    with pytest.raises(ValueError, match='"structure" or "atom"'):
        Property("energy", "eV", level="edge")
    assert Property("energy", "eV").attribute == "energy"


def test_target_values(qm9):
    batch = collate_indices(qm9, [0, 3])
    torch.testing.assert_close(target_values(batch, qm9.targets["U0"]), batch.y[:, 7])
    assert target_values(qm9[0], qm9.targets["cv"]).tolist() == [6.469]
    with pytest.raises(
        ValueError, match="read from the attribute 'energy', which this batch does not have; it has batch, idx"
    ):
        target_values(batch, Property("energy", "eV"))
    with pytest.raises(ValueError, match=r"column 7 of 'y', which has shape \[1, 3\]"):
        target_values(Data(y=torch.zeros(1, 3)), qm9.targets["U0"])


def test_values_leave_out_structures_without_a_label():
    dataset = StructureDataset()
    dataset.properties = {"energy": Property("energy", "eV"), "forces": Property("forces", "eV/Å", "atom")}
    dataset.set_store(
        torch.tensor([1, 2, 1]),
        {"pos": torch.zeros(4, 3), "forces": torch.arange(12.0).view(4, 3)},
        {
            "energy": torch.tensor([1.0, 0.0, 3.0]),
            "has_energy": torch.tensor([True, False, True]),
            "has_forces": torch.tensor([False, True, False]),
        },
    )
    assert dataset.values("energy").tolist() == [1.0, 3.0]
    assert dataset.mean("energy") == 2.0
    assert dataset.values("forces").tolist() == [[3.0, 4.0, 5.0], [6.0, 7.0, 8.0]]
    batch = collate_indices(dataset, [1, 2])
    assert target_mask(batch, dataset.properties["energy"]).tolist() == [False, True]


def test_statistics_and_fingerprints_are_of_what_is_stored(qm9):
    with_transform = qm9[:3]
    with_transform.transform = lambda data: pytest.fail("the transform was applied")
    assert with_transform.mean("U0") == qm9[:3].mean("U0")
    assert fingerprint(with_transform) == fingerprint(qm9[:3])


def test_store_is_checked():
    dataset = StructureDataset()
    with pytest.raises(ValueError, match="no structures"):
        dataset.set_store(torch.tensor([], dtype=torch.int64), {}, {})
    with pytest.raises(ValueError, match="column 'pos' has 2 rows, expected 3"):
        dataset.set_store(torch.tensor([1, 2]), {"pos": torch.zeros(2, 3)}, {})
    with pytest.raises(ValueError, match="column 'name' has 1 rows, expected 2"):
        dataset.set_store(torch.tensor([1, 2]), {"pos": torch.zeros(3, 3)}, {"name": ["a"]})


@pytest.mark.parametrize("y", [torch.arange(19.0), torch.arange(19.0).view(1, 19)])
def test_columns_of_rows_and_of_flat_numbers(y):
    structures = [Data(z=torch.tensor([1]), pos=torch.zeros(1, 3), y=y + 100 * k) for k in range(3)]
    batch = Batch.from_data_list(structures)
    assert target_values(batch, Property("y", "eV", column=7)).tolist() == [7.0, 107.0, 207.0]
    assert target_values(structures[1], Property("y", "eV", column=7)).tolist() == [107.0]
    assert target_values(batch, Property("y", "eV")).shape == (3, 19)
    with pytest.raises(ValueError, match=r"is column 19 of 'y', which has shape \[3, 19\]"):
        target_values(batch, Property("y", "eV", column=19))


@pytest.mark.parametrize("y", [torch.tensor([2.5]), torch.tensor(2.5), 2.5])
def test_one_number_may_be_a_column(y):
    batch = Batch.from_data_list([Data(z=torch.tensor([1]), pos=torch.zeros(1, 3), y=y)] * 3)
    assert target_values(batch, Property("y", "eV", column=0)).tolist() == [2.5] * 3
    assert target_values(batch, Property("y", "eV")).tolist() == [2.5] * 3


def test_properties_say_themselves_where_they_are():
    named = Property("gap", "eV", column=4, attribute="y")
    assert find_property([1, 2], named) is named


def test_joined_data_sets_have_the_same_targets(qm9):
    assert properties_of(ConcatDataset([qm9, qm9[:3]])) == properties_of(qm9)
    other = StructureDataset()
    other.properties = {"mu": Property("mu", "e·Å")}
    with pytest.raises(ValueError, match="data sets that are joined must have the same targets; 'mu' is"):
        properties_of(ConcatDataset([qm9, other]))


def test_targets_are_tensors():
    with pytest.raises(ValueError, match="read from 'name', which must be a tensor, got a str"):
        target_values(Data(name="water"), Property("name", "eV"))
