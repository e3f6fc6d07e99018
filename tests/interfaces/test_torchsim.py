"""torch-sim with models of this package: its own validation, dynamics and relaxations of many structures."""

import numpy as np
import pytest
import torch
from ase import units
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.verlet import VelocityVerlet

from pyg_schnet.interfaces import SchNetCalculator, calibrate, torchsim
from pyg_schnet.interfaces.torchsim import TorchSimModel
from pyg_schnet.models import SchNetCommittee
from tests.interfaces.models import soft_model


@pytest.fixture
def torch_sim():
    return pytest.importorskip("torch_sim")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(torchsim, "_IS_THERE", False)
    with pytest.raises(ImportError, match=r'pip install "pyg_schnet\[torchsim\]"'):
        TorchSimModel(soft_model(), unit="eV")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_its_own_validation_passes(torch_sim, dtype):
    from torch_sim.models.interface import validate_model_outputs

    model = TorchSimModel(soft_model(), unit="eV", dtype=dtype, compute_stress=False, compute_forces=False)
    validate_model_outputs(model, model.device, dtype)  # switches forces and stress on
    assert model.compute_stress
    assert model.compute_forces


def test_replicas_move_as_alone(torch_sim):
    structures = [molecule("H2O"), molecule("CH3CH2OH"), molecule("CH4")]
    model, step = TorchSimModel(soft_model(), unit="eV", compute_stress=False), 0.5 * units.fs
    random = np.random.default_rng(0)
    for atoms in structures:
        atoms.rattle(0.05, seed=1)
        atoms.set_momenta(random.normal(size=(len(atoms), 3)))
    state = torch_sim.io.atoms_to_state(structures, model.device, model.dtype)
    momenta = torch.from_numpy(np.concatenate([atoms.get_momenta() for atoms in structures]))
    init, update = nve(torch_sim, model, torch.tensor(step, dtype=torch.float64))
    state = init(state)
    state.momenta = momenta
    for _ in range(10):
        state = update(state)
    final = state.to_atoms()
    for atoms, found in zip(structures, final, strict=True):
        atoms.calc = SchNetCalculator(soft_model(), unit="eV")
        VelocityVerlet(atoms, step).run(10)
        np.testing.assert_allclose(found.positions, atoms.positions, rtol=0, atol=1e-9)


def nve(torch_sim, model, step):
    """Functions of constant energy; they take the model in every call since version 0.4."""
    if not hasattr(torch_sim, "Integrator"):
        return torch_sim.nve(model, dt=step, kT=torch.tensor(0.01, dtype=step.dtype))
    init, update = torch_sim.nve_init, torch_sim.nve_step
    kT = torch.tensor(0.01, dtype=step.dtype)
    return lambda state: init(state, model, kT=kT), lambda state: update(state, model, dt=step)


def test_langevin_dynamics_of_different_structures(torch_sim):
    torch.manual_seed(0)
    structures = [molecule("H2O"), molecule("CH3CH2OH")] * 8
    integrator = getattr(torch_sim, "Integrator", torch_sim).nvt_langevin
    model = TorchSimModel(soft_model(), unit="eV", compute_stress=False, dtype=torch.float32)
    final = torch_sim.integrate(structures, model, integrator=integrator, n_steps=60, temperature=300.0, timestep=1e-3)
    energies = (final.momenta**2).sum(1) / final.masses
    temperature = float(energies.mean()) / 3 / torch_sim.units.MetalUnits.temperature
    assert 200 < temperature < 400  # 288 degrees of freedom: 8 % of fluctuation
    assert final.energy.unique().numel() > len(structures) - 2  # each has its own noise


@pytest.mark.parametrize("scaling", ["n_atoms", "n_atoms_x_density"])
def test_crystals_relax_in_batches(torch_sim, scaling):
    structures = [bulk("Si", cubic=True), bulk("Cu", cubic=True), bulk("Si")]
    for k, atoms in enumerate(structures):
        atoms.rattle(0.1, seed=k)
    model = TorchSimModel(soft_model(), unit="eV", compute_stress=False, memory_scales_with=scaling)
    state = torch_sim.io.atoms_to_state(structures, model.device, model.dtype)
    before = model(state)
    sizes = []
    model.register_forward_hook(lambda module, inputs, output: sizes.append(len(output["energy"])))
    final = torch_sim.optimize(
        state,
        model,
        optimizer=getattr(torch_sim, "Optimizer", torch_sim.optimizers).gradient_descent,
        convergence_fn=lambda state, last_energy: torch.ones(state.n_systems, dtype=torch.bool),  # five steps for each
        autobatcher=torch_sim.InFlightAutoBatcher(
            model,
            memory_scales_with=model.memory_scales_with,
            max_memory_scaler=10.0 if scaling == "n_atoms" else 450.0,
        ),
        max_steps=40,
        steps_between_swaps=5,
    )
    assert max(sizes) < 3  # not all of them fit
    assert model.memory_scales_with == scaling
    assert final.n_systems == 3
    assert list(final.atomic_numbers) == list(state.atomic_numbers)
    assert (final.energy < before["energy"]).all()


def test_committees_give_means_and_deviations(torch_sim):
    models = [soft_model(0), soft_model(1), soft_model(2)]
    model = TorchSimModel(models, unit="eV")
    state = torch_sim.io.atoms_to_state([bulk("Si", cubic=True), bulk("Cu")], model.device, model.dtype)
    found = model(state)
    each = [TorchSimModel(one, unit="eV")(state) for one in models]
    for name in ("energy", "forces", "stress"):
        values = torch.stack([one[name] for one in each])
        torch.testing.assert_close(found[name], values.mean(0), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found[f"{name}_std"], values.std(0, correction=0), rtol=1e-10, atol=1e-12)


def test_deviations_of_calibrated_committees_have_the_size_of_errors(torch_sim):
    atoms, committee = bulk("Si", cubic=True), SchNetCommittee([soft_model(0), soft_model(1)])
    committee.card["unit"] = "eV"
    before = TorchSimModel(committee)
    state = torch_sim.io.atoms_to_state([atoms], before.device, before.dtype)
    raw = before(state)
    atoms.calc = SinglePointCalculator(atoms, energy=-3.0)
    factors = calibrate(committee, [atoms])
    found = TorchSimModel(committee)(state)
    assert factors["energy"] != pytest.approx(1.0)
    torch.testing.assert_close(found["energy"], raw["energy"])
    torch.testing.assert_close(found["energy_std"], factors["energy"] * raw["energy_std"])
    torch.testing.assert_close(found["forces_std"], raw["forces_std"])  # which was not calibrated


def test_dictionaries_are_states_too(torch_sim):
    model = TorchSimModel(soft_model(), unit="eV")
    state = torch_sim.io.atoms_to_state([bulk("Si", cubic=True)], model.device, model.dtype)
    names = ("positions", "cell", "pbc", "atomic_numbers", "system_idx")
    found = model({name: getattr(state, name) for name in names})
    torch.testing.assert_close(found["stress"], model(state)["stress"], rtol=0, atol=0)


def test_wrong_precision_and_options_are_refused(torch_sim):
    model = TorchSimModel(soft_model(), unit="eV")
    state = torch_sim.io.atoms_to_state([bulk("Si")], model.device, torch.float32)
    with pytest.raises(ValueError, match=r"the state is of torch\.float32, the model of torch\.float64"):
        model(state)
    with pytest.raises(ValueError, match="memory_scales_with must be one of n_atoms"):
        TorchSimModel(soft_model(), unit="eV", memory_scales_with="edges")


def test_charges_are_warned_about(torch_sim):
    model = TorchSimModel(soft_model(), unit="eV")
    state = torch_sim.io.atoms_to_state([molecule("OH"), molecule("H2O")], model.device, model.dtype)
    vars(state)["charge"] = torch.tensor([-1.0, 0.0])
    with pytest.warns(UserWarning, match=r"the state has charge=-1\.0, but models know neither charge nor spin"):
        model(state)
