import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from torch_geometric.nn.models import SchNet as PyGSchNet

from pyg_schnet import InteractionGraph, SchNet
from pyg_schnet.data import AtomsDataset, Property, Split
from pyg_schnet.nn import DipoleReadout, ElectronicSpatialExtentReadout
from pyg_schnet.train import PotentialTask, PropertyTask, StructureDataModule
from pyg_schnet.train.checks import channels_of, check_level, check_unit, check_width

ENERGY = Property("energy", "eV")


def structure(name="H2O", labels=("energy", "forces"), **more):
    atoms = molecule(name)
    known = {"energy": -1.0 * len(atoms), "forces": np.zeros((len(atoms), 3)), "stress": np.zeros(6)}
    atoms.calc = SinglePointCalculator(atoms, **{label: known[label] for label in labels})
    atoms.info.update(more)
    return atoms


def data_of(structures, parts, target="energy", **options):
    split = Split(*parts, n_structures=len(structures))
    return StructureDataModule(AtomsDataset(structures, **options), target, split=split)


def check(task, data):
    task.find_targets(data)
    return task.check(data)


def network(**options):
    return SchNet(8, 8, 1, 5, 5.0, **options)


def test_numbers_of_a_network_are_those_of_its_readout():
    assert channels_of(network(out_channels=4)) == 4
    assert channels_of(network(readout=DipoleReadout(8, magnitude=False))) == 3
    assert channels_of(PyGSchNet(8, 8, 1, 5, 5.0, interaction_graph=InteractionGraph(5.0))) == 1


@pytest.mark.parametrize(
    ("readout", "width", "message"),
    [
        (None, 5, r"'energy' has 5 numbers for each structure, but the network gives 1; set out_channels=5"),
        (DipoleReadout(8), 3, r"has 3 numbers .* gives 1; set magnitude=False"),
        (DipoleReadout(8, magnitude=False), 1, r"has 1 number .* gives 3; set magnitude=True"),
    ],
)
def test_numbers_of_target_and_network_have_to_be_the_same(readout, width, message):
    model = network() if readout is None else network(readout=readout)
    with pytest.raises(ValueError, match=message):
        check_width(ENERGY, width, getattr(model, "readout", None), channels_of(model))


@pytest.mark.parametrize(
    ("target", "width", "readout", "message"),
    [
        (Property("e", "eV/atom"), 1, "sum", "a mean over atoms, but the network sums its atoms; choose .* 'mean'"),
        (Property("e", "meV/atom"), 1, "sum", "a mean over atoms"),
        (ENERGY, 1, "mean", "total energy that grows .* takes the mean over its atoms; choose the readout 'sum'"),
        (Property("U0", "Hartree"), 1, "max", "total energy .* takes the max"),
        (Property("dipole", "D"), 3, "sum", "a sum over atoms has no direction; choose the readout DipoleReadout"),
        (ENERGY, 1, "dipole", r"in eV \(energy\), but a DipoleReadout has the dimension dipole"),
        (ENERGY, 1, ElectronicSpatialExtentReadout(8), "ElectronicSpatialExtentReadout has the dimension area"),
    ],
)
def test_units_that_do_not_fit_the_readout(target, width, readout, message):
    task = PropertyTask(network(readout=readout))
    with pytest.raises(ValueError, match=message):
        check_unit(target, width, getattr(task.network, "readout", None), task.pooling)


@pytest.mark.parametrize(
    ("target", "readout"),
    [
        (ENERGY, "sum"), (Property("e", "eV/atom"), "mean"), (Property("gap", "eV"), "mean"),
        (Property("mu", "D"), "dipole"), (Property("mu", "D"), "sum"), (Property("peak", "cm-1"), "max"),
    ],
)  # fmt: skip
def test_units_that_fit(target, readout):
    task = PropertyTask(network(readout=readout))
    check_unit(target, 1, getattr(task.network, "readout", None), task.pooling)


def test_pooling_that_is_stated_is_meant():
    data = data_of([structure()] * 4, ([0, 1], [2], [3]))
    with pytest.raises(ValueError, match="total energy"):
        check(PropertyTask(network(readout="mean")), data)
    assert check(PropertyTask(network(readout="mean"), pooling="mean"), data) == []


def test_properties_of_atoms_are_refused():
    with pytest.raises(ValueError, match=r"'forces' is a property of each atom, .*PotentialTask"):
        check_level(Property("forces", "eV/Å", "atom"))


@pytest.mark.parametrize("part", ["training", "validation", "test"])
def test_a_part_without_labels_is_refused(part):
    order = ["training", "validation", "test"]
    structures = [structure(labels=("forces",) if order[k // 2] == part else ("energy",)) for k in range(6)]
    data = data_of(structures, ([0, 1], [2, 3], [4, 5]))
    with pytest.raises(ValueError, match=f"none of the 2 {part} structures has a label 'energy'"):
        check(PropertyTask(network()), data)


def test_labels_that_only_the_test_lacks_are_said():
    structures = [structure(labels=("energy", "forces") if k < 4 else ("energy",)) for k in range(6)]
    said = check(PotentialTask(network()), data_of(structures, ([0, 1], [2, 3], [4, 5])))
    assert said == ["No test structure has a label 'forces'; it is not tested."]
    said = check(PotentialTask(network()), data_of(structures, ([0, 1], [4, 5], [2, 3])))
    assert said == ["No validation structure has a label 'forces'; it does not count in val/loss."]
    with pytest.raises(ValueError, match="none of the 2 training structures has a label 'forces'"):
        check(PotentialTask(network()), data_of(structures, ([4, 5], [0, 1], [2, 3])))
    assert check(PotentialTask(network(), forces_weight=0.0), data_of(structures, ([4, 5], [0, 1], [2, 3]))) == []


def test_labels_that_are_no_numbers_are_refused():
    dataset = AtomsDataset([structure() for _ in range(6)])
    dataset._data.energy[3] = float("nan")
    data = StructureDataModule(dataset, "energy", split=Split([0, 1], [2, 3], [4, 5], 6))
    with pytest.raises(ValueError, match="'energy' of validation structure 1 is NaN or infinite"):
        check(PropertyTask(network()), data)


def test_a_stress_without_volume_is_refused():
    structures = [structure(labels=("energy", "forces", "stress")) for _ in range(3)]
    with pytest.raises(ValueError, match="training structure 0 has a stress but no cell with a volume"):
        check(PotentialTask(network(), stress_weight=1.0), data_of(structures, ([0], [1], [2])))


def test_elements_that_no_training_structure_has_are_said():
    names = ["H2O", "CH4", "H2O", "NH3", "NH3", "CH4"]
    data = data_of([structure(name) for name in names], ([0, 1], [2], [3, 4, 5]))
    assert check(PropertyTask(network()), data) == [
        "No training structure has N (in 2 of 3 test structures); errors for this element are those of random numbers."
    ]
    assert data.training_elements() == ["H", "C", "O"]
    assert data.absent_elements(["H", "C"]).startswith("No training structure has N (in 2 of 3 test structures)")
    assert data.absent_elements(["H", "C", "N"]) is None


def test_elements_of_structures_without_label_are_not_learned():
    structures = [structure("H2O"), structure("CH4", labels=("forces",)), structure("H2O"), structure("CH4")]
    data = data_of(structures, ([0, 1], [2], [3]))
    left_out, absent = check(PropertyTask(network()), data)
    assert left_out == "1 of 2 training structures have no label 'energy' and are left out."
    assert "C (in 1 of 1 test structures)" in absent
    assert data.training_elements() == ["H", "O"]


@pytest.mark.parametrize("part", ["training", "validation", "test"])
def test_dipoles_of_periodic_structures_are_not_learned(part):
    structures = [structure(labels=["energy"], dipole=np.zeros(3)) for _ in range(6)]
    periodic = {"training": 1, "validation": 3, "test": 5}[part]
    structures[periodic].set_cell([9.0, 9.0, 9.0])
    structures[periodic].pbc = (True, False, False)
    data = data_of(structures, ([0, 1], [2, 3], [4, 5]), "dipole", properties={"dipole": "e·Å"})
    task = PropertyTask(network(readout=DipoleReadout(8, magnitude=False)))
    with pytest.raises(
        ValueError, match=rf"^{part} structures: the dipole .*structure 1 has pbc=\[True, False, False\]"
    ):
        check(task, data)
    if part != "test":
        data.check_places(task.network, test_only=True)
    task = PropertyTask(network(out_channels=3), pooling="sum")  # three numbers that are no dipole
    assert check(task, data) == []


def test_a_dipole_about_the_origin_is_not_learned_far_from_it():
    structures = [structure(labels=["energy"], dipole=np.zeros(3)) for _ in range(6)]
    structures[4].positions += 1e6
    data = data_of(structures, ([0, 1], [2, 3], [4, 5]), "dipole", properties={"dipole": "e·Å"})
    task = PropertyTask(network(readout=DipoleReadout(8, magnitude=False, origin="zero", neutralize=False)))
    with pytest.raises(
        ValueError, match=r"^test structures: the dipole .*about the origin.*structure 0 is 1\.73e\+06 Å"
    ):
        check(task, data)
    assert check(PropertyTask(network(readout=DipoleReadout(8, magnitude=False))), data) == []


def test_a_split_gets_the_fingerprint_of_its_structures():
    data = data_of([structure() for _ in range(3)], ([0], [1], [2]))
    assert len(data.split.fingerprint) == 16
    assert torch.equal(data.test_set[0].z, torch.tensor([8, 1, 1]))
