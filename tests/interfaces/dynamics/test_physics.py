"""Ensembles have the energies, temperatures and pressures that they should have."""

import csv

import ase
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT

from pyg_schnet.interfaces.dynamics import Settings, run_dynamics
from pyg_schnet.interfaces.dynamics.velocities import degrees_of_freedom, draw_velocities, temperature_of

VERSION = tuple(map(int, ase.__version__.split(".")[:2]))
CHAINS = pytest.mark.skipif(VERSION < (3, 26), reason="chains of thermostats need ASE 3.26")


class Springs(Calculator):
    """Atoms bound to their places, or to each other: the energy is quadratic, and known in each ensemble."""

    implemented_properties = ("energy", "free_energy", "forces")
    constant = 5.0  # eV/Å²

    def __init__(self, places=None):
        super().__init__()
        self.places = places

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if self.places is None:  # every pair at rest at 1.5 Å
            vec = self.atoms.positions[:, None] - self.atoms.positions[None]
            dist = np.linalg.norm(vec, axis=2) + np.eye(len(vec))
            stretch = (dist - 1.5) * (1 - np.eye(len(vec)))
            self.results["energy"] = self.results["free_energy"] = 0.25 * self.constant * (stretch**2).sum()
            self.results["forces"] = -self.constant * (stretch[..., None] * vec / dist[..., None]).sum(1)
            return
        moved = self.atoms.positions - self.places
        self.results["energy"] = self.results["free_energy"] = 0.5 * self.constant * (moved**2).sum()
        self.results["forces"] = -self.constant * moved


class Morse(Calculator):
    """Pairs of copper atoms, Girifalco and Weizer (1959), with all images up to two cells away: smooth, and quick."""

    implemented_properties = ("energy", "free_energy", "forces", "stress")
    depth, decay, rest = 0.3429, 1.3588, 2.866  # eV, 1/Å, Å
    images = np.indices((5, 5, 5)).reshape(3, -1).T - 2

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        pos, shift = self.atoms.positions, self.images @ self.atoms.cell.array
        vec = pos[None, :, None] - pos[:, None, None] + shift  # [N, N, images, 3], from the first atom to the second
        dist = np.linalg.norm(vec, axis=-1)
        own = dist == 0.0
        fall = np.exp(-self.decay * (np.where(own, np.inf, dist) - self.rest))
        slope = 2.0 * self.depth * self.decay * (fall - fall**2) / np.where(own, 1.0, dist)
        self.results["energy"] = self.results["free_energy"] = 0.5 * self.depth * (fall**2 - 2.0 * fall).sum()
        self.results["forces"] = np.einsum("ijs,ijsd->id", slope, vec)
        stress = 0.5 * np.einsum("ijs,ijsd,ijse->de", slope, vec, vec) / self.atoms.get_volume()
        self.results["stress"] = stress.ravel()[[0, 4, 8, 5, 2, 1]]


def log_of(output):
    with output.with_suffix(".csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0]}


def triangle(seed=0):
    """A molecule of three atoms, which has three degrees of freedom and not nine."""
    atoms = Atoms("Ar3", [[0, 0, 0], [1.5, 0, 0], [0.75, 1.3, 0]])
    atoms.calc = Springs()
    return atoms


def test_constant_energy_is_conserved_to_the_second_order(tmp_path):
    """The error of Verlet's method is a quarter at half the step."""
    swings = []
    for name, timestep in (("a", 4.0), ("b", 2.0)):
        copper = bulk("Cu", cubic=True)
        copper.calc = EMT()
        run_dynamics(copper, round(400 / timestep), tmp_path / f"{name}.xyz",
                     Settings("nve", timestep=timestep, temperature=600.0, log_interval=1))  # fmt: skip
        found = log_of(tmp_path / f"{name}.xyz")
        total, kinetic = found["total energy [eV/atom]"], found["kinetic energy [eV/atom]"]
        np.testing.assert_array_equal(found["conserved energy [eV/atom]"], total)
        assert total.std() < 0.01 * kinetic.std()
        swings.append(total.std())
    assert swings[0] / swings[1] == pytest.approx(4.0, rel=0.25)


def test_langevin_has_the_temperature_of_its_bath(tmp_path):
    """Kinetic and potential energy of N oscillators are 3 N kT / 2 each; errors by blocks of the run."""
    places = 3.0 * np.indices((3, 3, 3)).reshape(3, -1).T
    atoms = Atoms("Ar27", places)
    atoms.calc = Springs(places)
    settings = Settings("langevin", timestep=4.0, temperature=200.0, friction=0.02, log_interval=4, seed=1)
    run_dynamics(atoms, 2500, tmp_path / "md.xyz", settings)
    found = {name: values[100:] for name, values in log_of(tmp_path / "md.xyz").items()}
    expected = 1.5 * units.kB * 200.0
    for values in (found["kinetic energy [eV/atom]"], found["potential energy [eV/atom]"]):
        blocks = values[: len(values) // 15 * 15].reshape(15, -1).mean(1)
        error = blocks.std(ddof=1) / np.sqrt(15)
        assert error < 0.05 * expected
        assert abs(values.mean() - expected) < 4 * error
    np.testing.assert_allclose(found["temperature [K]"], found["kinetic energy [eV/atom]"] / (1.5 * units.kB))
    assert np.isnan(found["conserved energy [eV/atom]"]).all()


@CHAINS
def test_chains_heat_a_small_molecule_to_its_temperature(tmp_path):
    """Three degrees of freedom of nine: counted as nine, the molecule would have 900 K instead of 300."""
    atoms = triangle()
    settings = Settings("nose-hoover", timestep=2.0, temperature=300.0, thermostat_time=40.0, log_interval=2, seed=3)
    run_dynamics(atoms, 3000, tmp_path / "md.xyz", settings)
    found = log_of(tmp_path / "md.xyz")
    kinetic = 3 * found["kinetic energy [eV/atom]"]  # of the molecule
    blocks = kinetic.reshape(-1)[1:].reshape(15, -1).mean(1)
    error = blocks.std(ddof=1) / np.sqrt(15)
    assert error < 0.25 * 1.5 * units.kB * 300.0  # 900 K would be further away than four of them
    assert abs(kinetic.mean() - 1.5 * units.kB * 300.0) < 4 * error
    conserved = found["conserved energy [eV/atom]"]
    assert np.ptp(conserved) < 0.02 * np.ptp(found["total energy [eV/atom]"])
    assert np.linalg.norm(atoms.get_momenta().sum(0)) < 1e-6


def test_pairs_have_the_forces_and_the_stress_of_their_energy():
    numerical = pytest.importorskip("ase.calculators.fd", reason="needs ASE 3.24 or newer")
    copper = bulk("Cu", cubic=True)
    copper.rattle(0.1, seed=0)
    copper.set_cell(copper.cell.array @ (np.eye(3) + 0.03 * np.arange(9).reshape(3, 3) / 9), scale_atoms=True)
    copper.calc = Morse()
    np.testing.assert_allclose(copper.get_forces(), numerical.calculate_numerical_forces(copper, 1e-4), atol=1e-6)
    np.testing.assert_allclose(copper.get_stress(), numerical.calculate_numerical_stress(copper, 1e-5), atol=1e-7)


def crystal(length):
    """Four atoms of copper in a cube."""
    copper = bulk("Cu", a=length, cubic=True)
    copper.calc = Morse()
    return copper


@CHAINS
@pytest.mark.parametrize("ensemble", ["npt", "npt-anisotropic"])
def test_pressure_is_that_of_the_barostat(ensemble, tmp_path):
    """A small crystal of copper under 5 GPa: mean pressure, and the volume that the potential has there."""
    lengths = np.linspace(3.4, 3.7, 31)
    pressures = [-crystal(length).get_stress()[:3].mean() + 4 * units.kB * 300.0 / length**3 for length in lengths]
    expected = np.interp(5.0, np.array(pressures[::-1]) / units.GPa, lengths[::-1] ** 3)
    copper = crystal(expected ** (1 / 3))  # from there it does not ring
    settings = Settings(ensemble, timestep=4.0, temperature=300.0, pressure=5.0, thermostat_time=100.0,
                        barostat_time=200.0, log_interval=2, seed=2)  # fmt: skip
    run_dynamics(copper, 800, tmp_path / "md.xyz", settings)
    found = {name: values[50:] for name, values in log_of(tmp_path / "md.xyz").items()}
    blocks = found["pressure [GPa]"][: len(found["step"]) // 8 * 8].reshape(8, -1).mean(1)
    error = blocks.std(ddof=1) / np.sqrt(8)
    assert error < 1.0
    assert abs(found["pressure [GPa]"].mean() - 5.0) < 4 * error + 0.25  # blocks are not quite independent
    conserved = found["conserved energy [eV/atom]"]
    assert np.ptp(conserved) < 0.1 * np.ptp(found["total energy [eV/atom]"])
    edges = copper.cell.cellpar()[:3]
    if ensemble == "npt":
        np.testing.assert_allclose(copper.cell.array, np.eye(3) * edges[0], atol=1e-9)
    else:
        assert np.ptp(edges) > 1e-4
    assert found["volume [Å³]"].mean() == pytest.approx(expected, rel=0.025)  # but for thermal expansion


@pytest.mark.parametrize(("name", "degrees"), [("H2O", 3), ("CO2", 4), ("CH4", 9), ("H2", 1)])
def test_velocities_are_still_and_of_the_temperature(name, degrees):
    atoms = molecule(name)
    atoms.rotate(37.0, (1, 2, 3))
    draw_velocities(atoms, 450.0, np.random.default_rng(1))
    assert degrees_of_freedom(atoms) == degrees
    assert temperature_of(atoms, degrees) == pytest.approx(450.0)
    assert np.linalg.norm(atoms.get_momenta().sum(0)) < 1e-12
    assert np.linalg.norm(atoms.get_angular_momentum()) < 1e-9


def test_velocities_are_those_of_maxwell_and_boltzmann():
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True) * (6, 6, 6)
    draw_velocities(atoms, 300.0, np.random.default_rng(0))
    momenta, masses = atoms.get_momenta(), atoms.get_masses()
    for mass in np.unique(masses):
        scaled = momenta[masses == mass] / np.sqrt(mass * units.kB * 300.0)
        assert scaled.std() == pytest.approx(1.0, abs=0.04)
        assert (scaled**4).mean() == pytest.approx(3.0, abs=0.4)


def test_velocities_of_the_file_are_kept_unless_new_ones_are_wanted(tmp_path):
    atoms = triangle()
    atoms.set_velocities([[0.0, 0.0, 0.02]] * 3)
    run_dynamics(_again(atoms), 5, tmp_path / "a.xyz",
                 Settings("nve", timestep=1.0, log_interval=1))  # fmt: skip
    found = log_of(tmp_path / "a.xyz")
    assert found["kinetic energy [eV/atom]"][0] == pytest.approx(0.5 * atoms.get_masses()[0] * 0.02**2)
    run_dynamics(_again(atoms), 5, tmp_path / "b.xyz", Settings("nve", log_interval=1, new_velocities=True))
    assert log_of(tmp_path / "b.xyz")["temperature [K]"][0] == pytest.approx(300.0)


def _again(atoms):
    copy = atoms.copy()
    copy.calc = Springs()
    return copy
