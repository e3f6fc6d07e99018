"""``pyg-schnet report`` draws what a run has left, and says what is missing."""

import json
import re
import shutil
import subprocess
import sys

import ase.io
import numpy as np
import pytest
import yaml
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from matplotlib import pyplot

from pyg_schnet import load
from pyg_schnet.cli import main
from pyg_schnet.data import Split, to_data
from pyg_schnet.derivatives import energy_forces_stress
from pyg_schnet.plotting.report import Run, draw_run
from pyg_schnet.train.history import Curve, read_history
from pyg_schnet.train.predictions import Predicted, Predictions, predict_test

from .test_commands import train_briefly

TINY = ["--model.network.hidden_channels=8", "--model.network.num_filters=8", "--model.network.num_interactions=1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of a property of molecules; tests only read it."""
    return train_briefly(tmp_path_factory.mktemp("run"), "--trainer.log_every_n_steps=1", epochs=4)


@pytest.fixture(scope="module")
def potential(tmp_path_factory):
    """A finished run of energies and forces of clusters of two sizes, beside the file of its structures."""
    folder, rng = tmp_path_factory.mktemp("potential"), np.random.default_rng(0)
    structures = []
    for k in range(30):
        atoms = bulk("Cu", cubic=True).repeat((1 + k % 2, 1, 1))
        atoms.pbc = False
        atoms.numbers[rng.random(len(atoms)) < 0.3] = 79
        atoms.rattle(0.1, seed=k)
        atoms.calc = EMT()
        found = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **found)
        structures.append(atoms)
    ase.io.write(folder / "a.xyz", structures, format="extxyz")
    main(
        [
            "train", "--data.dataset=pyg_schnet.data.AtomsDataset", f"--data.dataset.source={folder / 'a.xyz'}",
            "--data.target=energy", "--data.num_train=12", "--data.num_val=4", "--data.batch_size=4", *TINY,
            "--model=pyg_schnet.train.PotentialTask", "--trainer.max_epochs=2", "--trainer.accelerator=cpu",
            "--trainer.enable_progress_bar=false", f"--run_dir={folder / 'run'}",
        ]
    )  # fmt: skip
    return folder / "run"


def text_of(picture):
    """The words of an SVG."""
    return " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", picture.read_text(encoding="utf-8")))


def predicted(run, most=5000):
    model = load(run / "model.safetensors")
    given = yaml.safe_load((run / "config.yaml").read_text())
    split = Split.load(run / "split.json")
    return predict_test(model, given, split, None, 7, most)


@pytest.mark.contract
def test_a_finished_run_is_drawn(run, tmp_path, capsys):
    main(["report", str(run), f"--output={tmp_path / 'new' / 'a.svg'}"])
    assert capsys.readouterr().out == f"Picture in {tmp_path / 'new' / 'a.svg'}\n"
    words = text_of(tmp_path / "new" / "a.svg")
    result = json.loads((run / "result.json").read_text())
    for word in (
        "U0: run",
        "20 training, 5 validation, 5 test structures; 4 epochs in",
        f"best weights of epoch {result['training']['best_epoch'] + 1}; ended by max_epochs",
        "label: U0 − Σ references [eV]",
        "MAE of U0 [meV]",
        "learning rate",
        "U0, by number of atoms",
    ):
        assert word in words
    assert "no predictions" not in words
    main(["report", str(run)])
    assert (run / "report.png").read_bytes().startswith(b"\x89PNG")
    main(["report", str(run), f"--output={tmp_path / 'a.pdf'}", "--structures=2"])
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    assert pyplot.get_fignums() == []


def test_predictions_are_those_of_the_test(run):
    found = predicted(run)
    [energies] = found.quantities
    result = json.loads((run / "result.json").read_text())["errors"]["U0"]
    assert (energies.name, energies.unit, energies.relative) == ("U0", "eV", True)
    assert 1000 * energies.error.mean() == pytest.approx(result["mae"]["meV"], rel=1e-4)
    assert 1000 * np.sqrt(np.square(energies.error).mean()) == pytest.approx(result["rmse"]["meV"], rel=1e-4)
    assert len(found.n_atoms) == found.num_test == 5
    fewer = predicted(run, 3)
    assert len(fewer.n_atoms) == 3
    assert fewer.num_test == 5
    assert set(fewer.quantities[0].true) < set(energies.true)
    np.testing.assert_array_equal(predicted(run, 3).quantities[0].true, fewer.quantities[0].true)


def test_forces_and_errors_by_element_and_size(potential, tmp_path, capsys):
    found = predicted(potential)
    energies, forces = found.quantities
    errors = json.loads((potential / "result.json").read_text())["errors"]
    assert 1000 * energies.error.mean() == pytest.approx(errors["energy"]["mae"]["meV"], rel=1e-4)
    assert 1000 * forces.error.mean() == pytest.approx(errors["forces"]["mae"]["meV/Å"], rel=1e-4)
    model, structures = load(potential / "model.safetensors"), ase.io.read(potential.parent / "a.xyz", ":")
    by_element, in_structure = {"Cu": [], "Au": []}, {"Cu": [], "Au": []}
    for k in Split.load(potential / "split.json").test.tolist():
        atoms = structures[k]
        data = to_data(atoms)
        result = energy_forces_stress(model, data.z, data.pos.float())
        error = np.abs(result.forces.numpy() - atoms.get_forces())
        for symbol in by_element:
            rows = np.array(atoms.get_chemical_symbols()) == symbol
            by_element[symbol].extend(error[rows].ravel())
            if rows.any():
                in_structure[symbol].append(abs(float(result.energy) - atoms.get_potential_energy()))
    for symbol in by_element:
        assert found.error_by_element(forces)[symbol] == pytest.approx(np.mean(by_element[symbol]), rel=1e-4)
        assert found.error_by_element(energies)[symbol] == pytest.approx(np.mean(in_structure[symbol]), rel=1e-3)
    assert found.elements == ("Cu", "Au")
    assert set(found.n_atoms) == {4, 8}
    figure = draw_run(Run("a", "b", {}, predictions=found))
    panels = {ax.get_title(): ax for ax in figure.axes}
    assert len(panels) == 8
    [_, mean] = panels["energy, by number of atoms"].lines
    expected = [1000 * energies.error[found.n_atoms == size].mean() for size in (4, 8)]
    np.testing.assert_allclose(mean.get_xydata(), np.stack([[4, 8], expected], axis=1))
    bars = panels["forces, by element"].patches
    np.testing.assert_allclose(
        [bar.get_height() for bar in bars], [1000 * value for value in found.error_by_element(forces).values()]
    )
    main(["report", str(potential), f"--output={tmp_path / 'a.svg'}"])
    assert "MAE of forces [meV/Å]" in text_of(tmp_path / "a.svg")


def test_a_run_without_its_data_says_so(potential, tmp_path, capsys):
    folder = tmp_path / "moved"
    shutil.copytree(potential, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["data"]["dataset"]["init_args"]["source"] = "elsewhere/a.xyz"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    main(["report", str(folder), f"--output={tmp_path / 'a.svg'}"])
    reason = "predictions: there is no file elsewhere/a.xyz"
    assert f"No {reason}" in capsys.readouterr().out
    assert f"no {reason}" in text_of(tmp_path / "a.svg")
    noted = json.loads((folder / "result.json").read_text())["errors"]["forces"]["mae"]["meV/Å"]
    assert f"forces {noted:.3g} meV/Å" in text_of(tmp_path / "a.svg")
    main(["report", str(folder), f"--output={tmp_path / 'b.svg'}", f"--data_dir={potential.parent}"])
    assert "No predictions" not in capsys.readouterr().out


def test_a_running_run_has_curves_alone(run, tmp_path, capsys):
    folder = tmp_path / "running"
    shutil.copytree(run, folder)
    for name in ("model.safetensors", "result.json"):
        (folder / name).unlink()
    table = folder / "logs" / "version_0" / "metrics.csv"
    rows = table.read_text().splitlines()
    table.write_text("\n".join(rows[:-3]) + "\n" + rows[-3][:5])  # cut while it is written
    main(["report", str(folder), f"--output={tmp_path / 'a.svg'}"])
    assert "no model.safetensors in the run (yet)" in capsys.readouterr().out
    words = text_of(tmp_path / "a.svg")
    assert "running or interrupted, 3" in words
    assert "by element" not in words
    shutil.rmtree(folder / "logs")
    main(["report", str(folder), f"--output={tmp_path / 'b.svg'}"])
    assert "no loss was logged" in text_of(tmp_path / "b.svg")


def test_learning_rates_are_logged(run):
    curves = read_history(run)
    rate = curves["train/lr"]
    assert rate.values.max() == pytest.approx(5e-3, rel=0.05)
    assert rate.values[-1] < 0.5 * rate.values.max()
    assert len(rate.values) == len(curves["train/loss"].values) == 8
    np.testing.assert_allclose(rate.epochs, np.arange(1, 9) / 2)
    np.testing.assert_allclose(curves["val/loss"].epochs, [1, 2, 3, 4])


def table(folder, version, rows):
    path = folder / "logs" / f"version_{version}" / "metrics.csv"
    path.parent.mkdir(parents=True)
    path.write_text("epoch,step,train/loss,val/loss\n" + "".join(f"{row}\n" for row in rows))


def test_tables_of_several_starts_are_joined(tmp_path):
    table(tmp_path, 2, ["1,3,5.0,", "1,3,,6.0"])
    table(tmp_path, 10, ["2,5,7.0,", "2,5,,8.0", "not,a,number,"])
    table(tmp_path, 0, ["0,0,1.0,", "0,1,2.0,", "0,1,,3.0", "1,3,9.0,", "1,3,,9.0"])  # goes on after epoch 0
    curves = read_history(tmp_path)
    np.testing.assert_allclose(curves["train/loss"].epochs, [0.5, 1.0, 2.0, 3.0])
    np.testing.assert_allclose(curves["train/loss"].values, [1.0, 2.0, 5.0, 7.0])
    np.testing.assert_allclose(curves["val/loss"].epochs, [1.0, 2.0, 3.0])
    np.testing.assert_allclose(curves["val/loss"].values, [3.0, 6.0, 8.0])
    means = curves["train/loss"].by_epoch()
    np.testing.assert_allclose(means.epochs, [0.75, 2.0, 3.0])
    np.testing.assert_allclose(means.values, [1.5, 5.0, 7.0])
    assert read_history(tmp_path / "none") == {}


def test_the_best_epoch_is_marked_where_it_ended():
    curves = {"val/loss": Curve(np.array([1.0, 2.0, 2.2]), np.array([3.0, 2.0, 1.0]))}
    marks = [draw_run(Run("a", "b", curves, best)).axes[0].lines[-1].get_xdata()[0] for best in (1, 2)]
    assert marks == [2.0, 2.2]


def test_many_points_and_many_sizes():
    rng = np.random.default_rng(0)
    n_atoms, true = rng.integers(2, 40, 4000), rng.normal(size=4000)
    contains = rng.random((4000, 90)) < 0.5
    energies = Predicted("E", "eV", true + 0.1 * n_atoms, true, np.arange(4000), None, False)
    symbols = tuple(f"X{k}" for k in range(90))
    figure = draw_run(Run("a", "b", {}, predictions=Predictions(9000, n_atoms, symbols, contains, (energies,))))
    parity, elements, sizes = figure.axes[3:]
    assert parity.get_title() == "E, 4,000 of 9,000 test structures"
    assert sum(parity.collections[0].get_array()) == 4000
    assert len(elements.patches) == 20
    assert "20 of 90" in elements.get_title()
    means = sizes.lines[1].get_xydata()
    assert len(means) == 12
    np.testing.assert_allclose(means[:, 1], 100 * means[:, 0], rtol=1e-9)


def test_numbers_of_atoms_alone_and_no_labels():
    none = Predicted("E", "eV", np.zeros(0), np.zeros(0), np.zeros(0, int), None, False)
    predictions = Predictions(1, np.array([3]), ("H",), np.ones((1, 1), bool), (none,))
    axes = draw_run(Run("a", "b", {"val/loss": Curve(np.ones(1), np.zeros(1))}, 0, predictions)).axes
    assert [text.get_text() for ax in axes[3:] for text in ax.texts] == 3 * ["no test structure has a label"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no run in nowhere: a folder with config.yaml or model.safetensors was expected"),
        (["RUN", "--output=a.doc"], r"output must end in \.png or \.svg or \.pdf, got a\.doc"),
        (["RUN", "--structures=-1"], "structures must not be negative, got -1"),
        (["RUN", "--batch_size=0"], "batch_size must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_drawn(run, arguments, message):
    with pytest.raises(SystemExit, match=f"^pyg-schnet report: {message}$"):
        main(["report", *(str(run) if one == "RUN" else one for one in arguments)])


def test_a_damaged_result(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "result.json").write_text("{")
    with pytest.raises(SystemExit, match=r"result\.json is not JSON"):
        main(["report", str(tmp_path / "run")])


def test_without_matplotlib_it_says_what_to_install(run):
    code = (
        f"import sys; sys.modules['matplotlib'] = None\nfrom pyg_schnet.cli import main\nmain(['report', {str(run)!r}])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "pip install 'pyg_schnet[train,plot]'" in result.stderr
