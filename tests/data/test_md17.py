import numpy as np
import pytest
import torch

from pyg_schnet.data import MD17, StructureLoader
from pyg_schnet.data.split import fingerprint

KCAL = 4184.0 / (6.02214076e23 * 1.602176634e-19)  # eV, by the SI
Z = np.array([8, 1, 1], dtype=np.uint8)
RNG = np.random.default_rng(0)
R, F = RNG.normal(size=(5, 3, 3)), RNG.normal(size=(5, 3, 3))
E = -406_274.0 + RNG.normal(size=5)


@pytest.fixture
def original(tmp_path):
    theory = np.array({"any": "object"}, dtype=object)  # such things are in the published files, and are not needed
    np.savez(tmp_path / "md17.npz", z=Z, R=R, E=E[:, None], F=F, theory=theory, name="water")
    return tmp_path / "md17.npz"


@pytest.fixture
def revised(tmp_path):
    np.savez(tmp_path / "rmd17.npz", nuclear_charges=Z, coords=R, energies=E, forces=F, old_energies=E)
    return tmp_path / "rmd17.npz"


def test_both_formats_in_ev(original, revised):
    datasets = [MD17(path, dtype=torch.float64) for path in (original, revised)]
    for dataset in datasets:
        assert len(dataset) == 5
        assert dataset[1].z.tolist() == [8, 1, 1]
        np.testing.assert_allclose(dataset[1].pos, R[1])
        np.testing.assert_allclose(dataset[1].forces, F[1] * KCAL)
        np.testing.assert_allclose(dataset.energy, E * KCAL, rtol=1e-15)
    assert fingerprint(datasets[0]) == fingerprint(datasets[1])
    assert {name: target.unit for name, target in datasets[0].properties.items()} == {"energy": "eV", "forces": "eV/Å"}


def test_energies_stay_float64(revised):
    dataset = MD17(revised)
    assert dataset.pos.dtype == dataset.forces.dtype == torch.float32
    assert dataset.energy.dtype == torch.float64
    batch = next(iter(StructureLoader(dataset, batch_size=5)))
    np.testing.assert_allclose(batch.energy, E[:5] * KCAL, rtol=1e-15)


def test_units_and_steps(revised):
    np.testing.assert_allclose(MD17(revised, energy_unit="eV").energy, E)
    np.testing.assert_allclose(MD17(revised, step=2).energy, E[::2] * KCAL)


def test_several_files(original, revised):
    assert len(MD17([original, revised])) == 10


def test_bad_files(tmp_path, revised):
    with pytest.raises(FileNotFoundError):
        MD17(tmp_path / "missing.npz")
    with pytest.raises(ValueError, match="unit of energy, got 'Å'"):
        MD17(revised, energy_unit="Å")
    with pytest.raises(ValueError, match="step must be at least 1"):
        MD17(revised, step=0)
    with pytest.raises(ValueError, match="at least one file"):
        MD17([])
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(ValueError, match=r"text\.npz is not a file of MD17 or rMD17"):
        MD17(tmp_path / "text.npz")
    for content, message in (
        ({"z": Z, "R": R}, r"it has z, R, expected z, R, E, F \(MD17\) or nuclear_charges"),
        ({"z": Z, "R": R, "E": E[:2], "F": F}, "shapes do not fit together"),
        ({"z": Z, "R": R, "E": E * np.nan, "F": F}, "not all finite"),
        (
            {"z": Z, "R": R, "E": E, "F": F, "e_unit": "Rydberg"},
            "e_unit='Rydberg', expected one of kcal/mol, kJ/mol, Har",
        ),
        ({"z": Z, "R": R, "E": E, "F": F, "r_unit": "furlong"}, "r_unit='furlong', expected one of Å, Bohr, nm"),
        ({"z": Z, "R": R, "E": E, "F": F, "lattice": np.eye(3)}, "it has a lattice, expected molecules"),
        ({"z": Z * 0, "R": R, "E": E, "F": F}, r"atomic numbers must be 1 to 118, got \[0, 0, 0\]"),
    ):
        np.savez(tmp_path / "bad.npz", **content)
        with pytest.raises(ValueError, match=f"bad.npz.*{message}"):
            MD17(tmp_path / "bad.npz")
    np.savez(tmp_path / "other.npz", z=Z, R=R, E=E, F=F, e_unit="Ha")
    with pytest.raises(ValueError, match="in Hartree; pass energy_unit='Hartree', or leave it out"):
        MD17(tmp_path / "other.npz", energy_unit="kcal/mol")


@pytest.mark.parametrize("as_stored", [str, np.bytes_, lambda unit: np.array([unit]), lambda unit: unit.encode()])
@pytest.mark.parametrize(
    ("e_unit", "r_unit", "to_ev", "to_angstrom"),
    [
        ("kcal/mol", "Ang", 0.04336410, 1.0),
        ("Ha", "bohr", 27.21138625, 0.529177211),
        ("hartree", "Angstrom", 27.21138625, 1.0),
        ("eV", "nm", 1.0, 10.0),
        ("kJ/mol", "Å", 0.01036427, 1.0),
    ],
)
def test_units_that_a_file_states(tmp_path, as_stored, e_unit, r_unit, to_ev, to_angstrom):
    if as_stored("x") == b"x" and r_unit == "Å":
        pytest.skip("bytes of NumPy are ASCII")
    np.savez(tmp_path / "a.npz", z=Z, R=R, E=E, F=F, e_unit=as_stored(e_unit), r_unit=as_stored(r_unit))
    for given in (None, e_unit):
        dataset = MD17(tmp_path / "a.npz", given, dtype=torch.float64)
        np.testing.assert_allclose(dataset.energy, E * to_ev, rtol=1e-6)
        np.testing.assert_allclose(dataset.pos, R.reshape(-1, 3) * to_angstrom, rtol=1e-6)
        np.testing.assert_allclose(dataset.forces, F.reshape(-1, 3) * to_ev / to_angstrom, rtol=1e-6)


def test_molecules_far_out_keep_their_distances(tmp_path):
    far = R + np.array([0.0, 1e6, 1e5, 10.0, -1e6])[:, None, None]
    np.savez(tmp_path / "far.npz", z=Z, R=far, E=E, F=F)
    for k, data in enumerate(MD17(tmp_path / "far.npz")):
        exact = torch.pdist(torch.tensor(R[k]))
        torch.testing.assert_close(torch.pdist(data.pos.double()), exact, rtol=0, atol=2e-6)
        np.testing.assert_allclose(data.pos + data.origin, far[k], rtol=0, atol=1e-6)


def test_two_atoms_in_the_same_place(original):
    same = R.copy()
    same[3, 2] = same[3, 0] + 1e-8
    np.savez(original, z=Z, R=same, E=E, F=F)
    with pytest.raises(ValueError, match=r"md17\.npz: frame 3: atoms 0 and 2 are in the same place"):
        MD17(original)
    side_by_side = R.copy()
    side_by_side[:, 2, :2] = side_by_side[:, 0, :2]  # one above the other
    np.savez(original, z=Z, R=side_by_side, E=E, F=F)
    assert len(MD17(original)) == 5


@pytest.mark.parametrize("change", [{"z": np.array(["O", "H", "H"])}, {"E": E + 1j}, {"F": F.astype("S8")}])
def test_what_is_no_real_number_is_refused(original, change):
    np.savez(original, **{"z": Z, "R": R, "E": E, "F": F, **change})
    with pytest.raises(ValueError, match=r"must be real numbers, got (str|complex|bytes)"):
        MD17(original)


def test_a_single_array_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", R)
    with pytest.raises(ValueError, match=r"a\.npy is not a file of MD17 or rMD17: it is a single array"):
        MD17(tmp_path / "a.npy")
