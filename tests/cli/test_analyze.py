"""The commands of ``pyg-schnet analyze`` write what the functions of pyg_schnet.analysis return."""

from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.constraints import FixAtoms

from pyg_schnet import DTNN, SchNet, analysis
from pyg_schnet.cli import main
from pyg_schnet.cli.analyze import COMMANDS
from pyg_schnet.models.domain import Coverage, Domain, renew


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A small model file in the folder in which the commands run."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network = SchNet(8, 8, 2, 12, 4.0)
    network.card["elements"] = ["H", "Li", "C", "O", "Na", "F", "Cl"]
    return str(network.save("model.safetensors", target="energy", unit="eV"))


def table(path):
    with open(path, encoding="utf-8") as file:
        return file.readline().strip().split(","), np.loadtxt(file, delimiter=",")


def test_modes(model, capsys):
    ase.io.write("water.xyz", molecule("H2O"))
    main(["analyze", "modes", "water.xyz", f"--model={model}", "--relax=false", "--output=out/modes.csv"])
    names, values = table("out/modes.csv")
    expected = analysis.normal_modes(model, ase.io.read("water.xyz"))
    assert names == ["wave number [cm-1]", "imaginary", "reduced mass [u]"]
    np.testing.assert_allclose(values[:, 0], expected.frequencies, rtol=1e-9)
    printed = capsys.readouterr().out
    assert f"3 modes, {expected.imaginary.sum()} imaginary" in printed
    assert "displacements in out/modes-displacements.xyz" in printed
    frames = ase.io.read("out/modes-displacements.xyz", ":")
    np.testing.assert_allclose([atoms.arrays["displacements"] for atoms in frames], expected.modes, atol=1e-8)
    np.testing.assert_allclose([atoms.info["wavenumber"] for atoms in frames], expected.frequencies)
    np.testing.assert_allclose(frames[0].positions, molecule("H2O").positions, atol=1e-8)
    first = Path("out/modes-displacements.xyz").read_text(encoding="utf-8").splitlines()[2].split()
    assert first[0] == "O"
    assert len(first) == 7  # symbol, position and displacement, as Jmol reads them


def of_energies_alone(model):
    """The same model, trained on energies of water."""
    network = SchNet.load(model)
    coverage = Coverage(9, (3, 3), ("H2O",), {"H": (2, 2), "O": (1, 1)})
    renew(network.card, Domain("none", False, {"molecule": coverage}, {}, 0.1))
    return str(network.save("energies.safetensors"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["modes", "water.xyz", "--relax=false"],
        ["modes", "water.xyz"],
        ["spectrum", "water.xyz", "--picoseconds=0.02"],
        ["dimer", "H", "O"],
    ],
)
@pytest.mark.filterwarnings("ignore:the structure has")
def test_vibrations_need_a_model_of_forces(model, arguments):
    ase.io.write("water.xyz", molecule("H2O"))
    arguments = ["analyze", *arguments, f"--model={of_energies_alone(model)}"]
    with pytest.raises(SystemExit, match=r"not trained on forces but on energies alone.*--untrained_forces true"):
        main(arguments)
    main([*arguments, "--untrained_forces=true"])


def test_fixed_atoms_do_not_move(model):
    atoms = Atoms("CH4", molecule("CH4").positions)
    atoms.set_constraint(FixAtoms([0]))
    ase.io.write("methane.traj", atoms)
    main(["analyze", "modes", "methane.traj", f"--model={model}"])
    frames = ase.io.read("modes-displacements.xyz", ":")
    assert len(frames) == 3 * 4 - 3  # turns about the carbon atom are no vibrations
    assert all((frame.arrays["displacements"][0] == 0).all() for frame in frames)


def test_relaxed_modes_have_no_forces(model, capsys):
    ase.io.write("dimer.xyz", Atoms("H2", [[0, 0, 0], [0, 0, 1.0]]))
    main(["analyze", "modes", "dimer.xyz", f"--model={model}"])
    printed = capsys.readouterr().out
    assert "not relaxed" not in printed
    assert float(printed.split("largest force ")[1].split()[0]) < 1e-3


@pytest.mark.parametrize("output", ["dimer.csv", "dimer.npz"])
def test_dimer(model, output):
    main(["analyze", "dimer", "C", "O", f"--model=[{model},{model}]", "--stop=3", f"--output={output}"])
    expected = analysis.dimer_scan([model, model], "C", "O", np.linspace(0.6, 3.0, 221))
    if output.endswith("npz"):
        np.testing.assert_allclose(np.load(output)["energies"], expected.energies)
    else:
        names, values = table(output)
        assert names[1:3] == ["energy [eV]", "energy spread [eV]"]
        np.testing.assert_allclose(values[:, 1], expected.energies.mean(0), atol=1e-12)


def test_embedding_and_filters(model, capsys):
    main(["analyze", "embedding", model])
    assert np.load("embedding.npz")["symbols"].tolist() == ["H", "Li", "C", "O", "Na", "F", "Cl"]
    assert "p = " in capsys.readouterr().out
    main(["analyze", "filters", model, "--interaction=1"])
    found = np.load("filters.npz")
    np.testing.assert_array_equal(found["distances"], np.linspace(0.0, 4.0, 501))
    for block, values in zip(SchNet.load(model).double().interactions, found["values"], strict=True):
        expected = block.conv.filter_network(torch.from_numpy(found["distances"])).detach()
        np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-14)


def test_probe_writes_a_page_too(model):
    ase.io.write("water.xyz", molecule("H2O"))
    main(["analyze", "probe", "water.xyz", f"--model={model}", "--probe=C", "--output=probe.npz"])
    found = np.load("probe.npz")
    assert found["energies"].shape == found["surface_vertices"].shape[:1]
    assert "<html" in Path("probe.html").read_text(encoding="utf-8")[:1000].lower()


def test_spectrum_of_a_trajectory_has_its_frequency(model, capsys):
    wave, step = 1000.0, 1.0  # cm-1, fs
    omega = 2.0 * np.pi * wave * 2.99792458e-5  # 1/fs
    frames = []
    for k in range(2000):
        atoms = Atoms("C", [[np.sin(omega * k * step), 0.0, 0.0]])
        atoms.set_velocities([[omega * np.cos(omega * k * step) / units.fs, 0.0, 0.0]])
        frames.append(atoms)
    ase.io.write("walk.xyz", frames, format="extxyz")
    main(["analyze", "spectrum", "walk.xyz", f"--timestep={step}"])
    line, resolution = (float(word) for word in np.array(capsys.readouterr().out.split())[[-5, -2]])
    assert line == pytest.approx(wave, abs=resolution)
    names, values = table("spectrum.csv")
    assert names == ["wave number [cm-1]", "kinetic energy [eV cm]"]
    assert abs(values[values[:, 1].argmax(), 0] - wave) < resolution


def test_spectrum_runs_dynamics(model, capsys):
    ase.io.write("dimer.xyz", Atoms("H2", [[0, 0, 0], [0, 0, 1.0]]))
    main(["analyze", "spectrum", "dimer.xyz", f"--model={model}", "--picoseconds=0.05", "--output=s.npz"])
    assert "100 frames" in capsys.readouterr().out
    assert np.isfinite(np.load("s.npz")["intensity"]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["spectrum", "water.xyz"], "no trajectory with momenta"),
        (["filters", "model.safetensors", "--output=filters.csv"], r"output must end in \.npz, got filters\.csv"),
        (["embedding", "other.safetensors"], "no model file"),
    ],
)
def test_errors_are_one_sentence(model, arguments, message):
    ase.io.write("water.xyz", molecule("H2O"))
    with pytest.raises(SystemExit, match=message):
        main(["analyze", *arguments])


def test_every_command_explains_itself(capsys):
    for name in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            main(["analyze", name, "--help"])
        assert stop.value.code == 0
        assert "Model file" in capsys.readouterr().out


def test_structures_are_read_as_data_sets_are(model):
    """An @ is a part of the name, and D is hydrogen with its mass."""
    Path("a@1.xyz").write_text("3\nheavy water\nO 0 0 0\nD 0 0.76 0.59\nD 0 -0.76 0.59\n")
    main(["analyze", "modes", "a@1.xyz", f"--model={model}", "--relax=false"])
    heavy = Atoms("OH2", [[0, 0, 0], [0, 0.76, 0.59], [0, -0.76, 0.59]], masses=[15.999, 2.014101778, 2.014101778])
    expected = analysis.normal_modes(model, heavy).frequencies
    np.testing.assert_allclose(table("modes.csv")[1][:, 0], expected, rtol=1e-9)


def test_models_without_filters_are_refused_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    DTNN(8, 1).save("dtnn.safetensors", target="energy", unit="eV")
    with pytest.raises(SystemExit, match="pyg-schnet analyze: expected a model with filter networks"):
        main(["analyze", "filters", "dtnn.safetensors"])
