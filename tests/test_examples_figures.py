"""Every figure script runs from shipped weights, draws its picture and says whether its claim holds."""

import importlib.util
import json
import re
import runpy
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from pyg_schnet.cli import main
from pyg_schnet.models.checkpoint import read_header

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "examples" / "figures"
SHARED = ROOT.parent / "shared" / "data"
VERDICTS = {  # what the shipped weights say
    "figure2_activations.py": "holds",
    "figure3_features.py": "holds",
    "figure4_dimer.py": "holds",
    "figure5_spectrum.py": "holds",
    "figure6_probe.py": "does not hold",
    "figure7_embedding.py": "holds",
    "ethanol_mode.py": "holds",
}
SHORTER = {"figure3_features.py", "figure5_spectrum.py"}  # tests take as few steps as the claims need, to save time
WITH_DATA = {  # script -> folder of published data it also takes
    "figure3_features.py": "diatomics_dft",
    "figure4_dimer.py": "diatomics_dft",
    "ethanol_mode.py": "ethanol",
}
MODELS = {  # file -> folder of its data; None for those that bring their own
    "ethanol": "ethanol",
    **{f"qm9-u0-small-{seed}": None for seed in range(4)},
}


@pytest.fixture
def run(monkeypatch, capsys):
    """Function that runs a figure script as a command, and returns what it prints."""

    def call(script, picture, *arguments):
        monkeypatch.syspath_prepend(FIGURES)
        monkeypatch.setattr(sys, "argv", [script, *map(str, ("--output", picture, *arguments))])
        with matplotlib.rc_context():
            runpy.run_path(str(FIGURES / script), run_name="__main__")
        assert picture.read_bytes().startswith(b"\x89PNG")
        return capsys.readouterr().out

    return call


def verdict_of(output):
    claim = [line for line in output.splitlines() if line.startswith("claim: ")]
    assert len(claim) == 1
    return claim[0].split(": ")[-1]


def load_script(name, monkeypatch):
    monkeypatch.syspath_prepend(FIGURES)
    spec = importlib.util.spec_from_file_location(name, FIGURES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_figure_is_tested():
    assert {path.name for path in FIGURES.glob("*.py")} - {"common.py"} == set(VERDICTS)


@pytest.mark.filterwarnings("ignore:the structure has")  # far along a mode atoms are closer than in training
@pytest.mark.parametrize(("script", "verdict"), VERDICTS.items())
def test_figure(script, verdict, run, tmp_path):
    shorter = ["--steps", "1000"] if script in SHORTER else []
    assert verdict_of(run(script, tmp_path / "picture.png", *shorter)) == verdict


@pytest.mark.filterwarnings("ignore:the structure has")
@pytest.mark.skipif(not SHARED.exists(), reason="needs published data files in ../shared/data")
@pytest.mark.parametrize(("script", "folder"), WITH_DATA.items())
def test_figure_beside_published_data(script, folder, run, tmp_path):
    output = run(script, tmp_path / "picture.png", "--data", SHARED / folder)
    assert verdict_of(output) == "holds"
    if script == "ethanol_mode.py":
        assert re.search(r"curvature of the reference energies along the scan: 874\.7 cm⁻¹", output)
        assert float(re.search(r"overlap of the learned with the scanned motion: ([\d.]+)", output)[1]) > 0.99


def test_all_models_of_figures_are_there():
    files = sorted((FIGURES / "models").iterdir())
    assert [path.name for path in files] == [f"{name}.safetensors" for name in sorted(MODELS)]
    assert all(path.stat().st_size < 3e6 for path in files)


@pytest.mark.parametrize("name", MODELS)
def test_card_says_what_the_model_is(name):
    card = read_header(FIGURES / "models" / f"{name}.safetensors")["card"]
    assert {"target", "unit", "data", "source", "licence", "run", "split", "training", "test"} <= set(card)
    assert '"/' not in json.dumps(card)  # no absolute path of the machine it was trained on
    assert {start["commit"][-1] for start in card["training"]["starts"]} != {"+"}


@pytest.mark.parametrize("name", MODELS)
def test_errors_are_those_of_the_card(name, capsys):
    """The whole test set again, in one command."""
    folder = MODELS[name]
    if folder is not None and not SHARED.exists():
        pytest.skip("needs published data files in ../shared/data")
    model = FIGURES / "models" / f"{name}.safetensors"
    main(["test", str(model), *([f"--data_dir={SHARED / folder}"] if folder else [])])
    printed = re.findall(r"^ +(\w+) +MAE +([\d.]+) (\S+)", capsys.readouterr().out, re.MULTILINE)
    errors = read_header(model)["card"]["test"]
    assert {row[0] for row in printed} == set(errors)
    for quantity, value, unit in printed:
        assert float(value) == pytest.approx(errors[quantity]["mae"][unit], rel=5e-3)


def test_pairs_of_carbon_atoms_are_those_of_qm9(monkeypatch):
    script = load_script("figure4_dimer", monkeypatch)
    assert script.count_pairs() == script.PAIRS


def test_steps_of_dynamics_do_not_shift_frequencies(monkeypatch):
    """A spring of 3000 cm⁻¹ by velocity Verlet in steps of 1 fs, which alone shifts it by 42 cm⁻¹."""
    script = load_script("figure5_spectrum", monkeypatch)
    rate = 2 * np.pi * 2.99792458e-5 * 3000.0  # 1/fs
    x, v, frames = 0.0, 0.01, []
    for _ in range(4000):
        v -= 0.5 * rate**2 * x
        x += v
        v -= 0.5 * rate**2 * x
        frames.append(v)
    velocities = np.zeros((4000, 1, 1, 3))
    velocities[:, 0, 0, 0] = frames
    result = script.spectrum(velocities, np.ones(1))
    assert result.wavenumbers[result.intensity.argmax()] == pytest.approx(3000.0, abs=2.0)
