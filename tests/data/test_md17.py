import numpy as np
import pytest
import torch

from pyg_schnet.data import MD17, StructureLoader, fingerprint

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
        ({"z": Z, "R": R, "E": E, "F": F, "e_unit": "eV"}, "pass energy_unit='eV'"),
    ):
        np.savez(tmp_path / "bad.npz", **content)
        with pytest.raises(ValueError, match=f"bad.npz.*{message}"):
            MD17(tmp_path / "bad.npz")
