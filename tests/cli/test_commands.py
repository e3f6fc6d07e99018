import json
import re
import shutil

import ase.io
import pytest
import torch
from ase.build import molecule

from pyg_schnet import SchNet, load
from pyg_schnet.cli import main
from pyg_schnet.data import Split
from pyg_schnet.models import SchNetCommittee, rounded
from pyg_schnet.models.checkpoint import read_header
from pyg_schnet.models.domain import Domain

from ..train.conftest import SAMPLE


def train_briefly(folder, *more, epochs, first=()):
    """Train on a few molecules; returns the folder of the run."""
    options = [
        *first,
        f"--run_dir={folder / 'run'}",
        f"--data.dataset.source={SAMPLE}",
        f"--data.dataset.root={folder / 'qm9'}",
        "--data.dataset.progress=false",
        "--data.num_train=20",
        "--data.num_val=5",
        "--data.batch_size=8",
        "--model.network.hidden_channels=16",
        "--model.network.num_filters=16",
        f"--trainer.max_epochs={epochs}",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        *more,
    ]
    main(["train", *options])
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run; tests only read it."""
    return train_briefly(tmp_path_factory.mktemp("run"), epochs=20)


def test_training_leaves_all_that_is_needed_to_repeat_it(run):
    assert {path.name for path in run.iterdir()} >= {
        "checkpoints", "config.yaml", "logs", "model.safetensors", "result.json", "split.json",
    }  # fmt: skip
    split = Split.load(run / "split.json")
    assert (len(split.train), len(split.val)) == (20, 5)
    assert (run / "logs" / "version_0" / "metrics.csv").read_text().startswith("epoch,step")
    assert list((run / "logs" / "version_0").glob("events.out.tfevents*"))


def test_result_is_in_both_units(run):
    result = json.loads((run / "result.json").read_text())
    assert result["split"]["num_train"] == 20
    error = result["errors"]["U0"]["mae"]
    assert error["meV"] == pytest.approx(43.3641153 * error["kcal/mol"])
    assert read_header(run / "model.safetensors")["card"]["test"] == result["errors"]


def test_training_learns(run):
    rows = (run / "logs" / "version_0" / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("val/U0_mae")
    errors = [float(row.split(",")[column]) for row in rows[1:] if row.split(",")[column]]
    assert len(errors) == 20
    assert errors[-1] < 0.9 * errors[0]


def test_saved_model_has_the_best_weights(tmp_path):
    # with the highest loss taken for the best, the best epoch is the first one, the last one is another
    run = train_briefly(tmp_path, "--checkpoint.mode=max", "--model.optimizer=adam", epochs=4)
    best, last = (torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True) for name in ("best", "last"))
    assert (best["epoch"], last["epoch"]) == (0, 3)
    assert json.loads((run / "result.json").read_text())["training"]["best_epoch"] == 0
    weights = SchNet.load(run / "model.safetensors").state_dict()
    for name in ("embedding.weight", "interactions.1.lin1.weight", "readout.network.lin2.bias"):
        assert torch.equal(weights[name], best["state_dict"][f"network.{name}"])
        assert not torch.equal(weights[name], last["state_dict"][f"network.{name}"])


def test_test_command_repeats_the_error(run, capsys):
    main(["test", str(run / "model.safetensors")])
    printed = float(re.search(r"MAE +([\d.]+) meV", capsys.readouterr().out)[1])
    assert printed == pytest.approx(
        json.loads((run / "result.json").read_text())["errors"]["U0"]["mae"]["meV"], rel=2e-3
    )


def test_model_file_alone_says_how_to_test_it(run, tmp_path, capsys):
    alone = tmp_path / "alone.safetensors"
    card = SchNet.load(run / "model.safetensors").card
    data = card["run"]["data"]
    assert data["dataset"]["init_args"]["source"] == SAMPLE.name  # not where it was
    assert "root" not in data["dataset"]["init_args"]
    shutil.copy(run / "model.safetensors", alone)
    main(["test", str(alone), f"--data_dir={SAMPLE.parent}"])
    printed = float(re.search(r"MAE +([\d.]+) meV", capsys.readouterr().out)[1])
    assert printed == pytest.approx(card["test"]["U0"]["mae"]["meV"], rel=2e-3)


def test_configuration_and_split_can_be_named(run, tmp_path, capsys):
    for name in ("model.safetensors", "config.yaml", "split.json"):
        shutil.copy(run / name, tmp_path / f"kept-{name}")
    model, config = (f"{tmp_path / name}" for name in ("kept-model.safetensors", "kept-config.yaml"))
    split = Split.load(run / "split.json")
    Split(split.train, split.val, split.test[:1], split.n_structures, split.fingerprint).save(tmp_path / "one.json")
    main(["test", model, f"--config={config}", f"--split={tmp_path / 'one.json'}"])
    printed = capsys.readouterr().out
    assert "on 1 test structures" in printed
    errors = dict(re.findall(r"(MAE|RMSE) +([\d.]+) meV", printed))
    assert errors["MAE"] == errors["RMSE"]  # of one structure
    main(["test", model, f"--config={config}", f"--split={tmp_path / 'kept-split.json'}"])
    printed = float(re.search(r"MAE +([\d.]+) meV", capsys.readouterr().out)[1])
    expected = json.loads((run / "result.json").read_text())["errors"]["U0"]["mae"]["meV"]
    assert printed == pytest.approx(expected, rel=2e-3)
    with pytest.raises(SystemExit, match=r"there is no file .*missing\.yaml"):
        main(["test", model, f"--config={tmp_path / 'missing.yaml'}"])


def test_model_is_not_tested_on_other_structures(run, tmp_path):
    model = SchNet.load(run / "model.safetensors")
    model.card["split"]["fingerprint"] = "0" * 16
    model.save(tmp_path / "other.safetensors")
    with pytest.raises(SystemExit, match="trained on other structures"):
        main(["test", str(tmp_path / "other.safetensors"), f"--data_dir={SAMPLE.parent}"])


def test_card_notes_what_is_given_and_what_was_done(run, tmp_path):
    main(["train", f"--config={run / 'config.yaml'}", f"--run_dir={tmp_path}", "--card.licence=CC0",
          "--trainer.max_epochs=2"])  # fmt: skip
    card = read_header(tmp_path / "model.safetensors")["card"]
    result = json.loads((tmp_path / "result.json").read_text())
    assert card["licence"] == result["licence"] == "CC0"
    assert card["training"] == result["training"]
    assert card["elements"] == ["H", "C", "N", "O", "F"]
    assert Domain.of(card).gradients == "none"
    assert Domain.of(card).systems["molecule"].structures == card["split"]["num_train"]
    training = card["training"]
    assert (training["epochs"], training["steps"]) == (2, 4)
    assert training["best_epoch"] in (0, 1)
    assert training["structures_per_second"] * training["seconds"] == pytest.approx(2 * 16, rel=0.2)
    assert training["parameters"] == sum(p.numel() for p in SchNet.load(tmp_path / "model.safetensors").parameters())
    assert result["run"]["model"]["init_args"]["network"]["init_args"]["hidden_channels"] == 16
    assert result["run"]["trainer"]["max_epochs"] == 2
    assert (result["recipe"], result["seed"]) == ("config", 0)


def test_training_starts_from_a_trained_model(run, tmp_path):
    main(["train", f"--config={run / 'config.yaml'}", f"--run_dir={tmp_path}", "--trainer.max_epochs=1",
          f"--start_from={run / 'model.safetensors'}", "--model.init_args.lr=1e-30"])  # fmt: skip
    before, after = SchNet.load(run / "model.safetensors"), SchNet.load(tmp_path / "model.safetensors")
    assert torch.equal(after.embedding.weight, before.embedding.weight)
    assert not torch.equal(after.readout.network.lin1.weight, before.readout.network.lin1.weight)
    assert after.card["started_from"] == run.name


def test_resumed_run_goes_on_where_it_was(tmp_path):
    run = train_briefly(tmp_path, epochs=3)
    last = run / "checkpoints" / "last.ckpt"
    before = torch.load(last, weights_only=True)
    main(["train", f"--config={run / 'config.yaml'}", f"--resume={last}", "--trainer.max_epochs=5"])
    after = torch.load(last, weights_only=True)
    assert [state["global_step"] for state in (before, after)] == [6, 10]
    assert torch.equal(before["state_dict"]["atomref"], after["state_dict"]["atomref"])
    first, second = ((run / "logs" / f"version_{k}" / "metrics.csv").read_text().splitlines() for k in (0, 1))
    column = second[0].split(",").index("epoch")
    assert {row.split(",")[column] for row in second[1:]} == {"3", "4"}
    assert len(first) > 1
    training = json.loads((run / "result.json").read_text())["training"]
    assert [start["epoch"] for start in training["starts"]] == [0, 3]
    assert training["epochs"] == 5


def test_a_run_that_stopped_early_can_be_given_more(tmp_path, capsys):
    never = "--early_stopping.min_delta=1e9"
    run = train_briefly(tmp_path, never, "--early_stopping.patience=2", epochs=9)
    assert "Stopped early: val/loss did not improve in 2 validations" in capsys.readouterr().out
    result = run / "result.json"
    assert json.loads(result.read_text())["training"]["epochs"] == 3
    last = f"--resume={run / 'checkpoints' / 'last.ckpt'}"
    main(["train", f"--config={run / 'config.yaml'}", last, "--early_stopping.patience=4"])
    assert json.loads(result.read_text())["training"]["epochs"] == 5


@pytest.fixture(scope="module")
def other_run(tmp_path_factory):
    """A run that started from other weights."""
    return train_briefly(tmp_path_factory.mktemp("other"), "--seed_everything=1", epochs=20)


def test_merged_model_is_the_mean_and_is_tested(run, other_run, tmp_path, capsys):
    merged = tmp_path / "merged"
    main(["merge", f'["{run}", "{other_run}"]', f"--run_dir={merged}"])
    models = [SchNet.load(folder / "model.safetensors").double() for folder in (run, other_run, merged)]
    z, pos = torch.tensor([8, 1, 1]), torch.tensor([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], dtype=torch.float64)
    values = [model(z, pos).item() for model in models]
    assert values[2] == pytest.approx((values[0] + values[1]) / 2, rel=1e-6)
    result = json.loads((merged / "result.json").read_text())
    assert result["merged"] == [0, 1]
    assert result["training"]["epochs"] == 40
    assert len(result["training"]["starts"]) == 2
    assert models[2].card["test"] == result["errors"]
    assert models[2].card["training"] == result["training"]
    printed = [float(found) for found in re.findall(r"MAE +([\d.]+) meV", capsys.readouterr().out)]
    main(["test", str(merged / "model.safetensors")])
    printed += [float(found) for found in re.findall(r"MAE +([\d.]+) meV", capsys.readouterr().out)]
    assert printed == [pytest.approx(result["errors"]["U0"]["mae"]["meV"], rel=2e-3)] * 2
    with pytest.raises(SystemExit, match="is there already"):
        main(["merge", f'["{run}", "{other_run}"]', f"--run_dir={merged}"])


def test_merged_committee_is_calibrated_tested_and_small(run, other_run, tmp_path, capsys):
    merged = tmp_path / "two"
    main(["merge", f'["{run}", "{other_run}"]', f"--run_dir={merged}", "--committee", "--storage=float16"])
    said = capsys.readouterr().out
    path = merged / "model.safetensors"
    committee, header = load(path), read_header(path)
    assert (type(committee), len(committee), header["storage"]) == (SchNetCommittee, 2, "float16")
    members = [rounded(SchNet.load(folder / "model.safetensors")) for folder in (run, other_run)]
    for name, value in members[1].state_dict().items():
        assert torch.equal(committee.members[1].state_dict()[name], value)
    noted = committee.card["calibration"]
    n_test = Split.load(merged / "split.json").test
    assert (noted["structures"], noted["within"]["structures"]) == (5, len(n_test))
    one, two = noted["within"]["energy"]
    line = f"energy: times {noted['energy']:.2f}; {100 * one:.0f} % of errors within one deviation, {100 * two:.0f} %"
    assert line in said
    assert 0.0 < committee.card["rounding"]["energy"]["meV"] < 100.0
    assert "Weights stored as float16 change energy by" in said
    assert main(["test", str(path)]) is None
    again = capsys.readouterr().out
    assert line in again
    assert re.search(r"MAE +([\d.]+) meV", again).group(1) in said
    ase.io.write(tmp_path / "water.xyz", molecule("H2O"))
    main(["predict", str(tmp_path / "water.xyz"), f"--model={path}"])
    z, pos = (torch.tensor(value) for value in (molecule("H2O").numbers, molecule("H2O").positions))
    mean = torch.stack([member.double()(z, pos) for member in members]).mean()
    assert float(capsys.readouterr().out.split()[-1]) == pytest.approx(mean.item(), abs=1e-3)


def test_a_run_may_learn_from_the_model_of_another(run, tmp_path, capsys):
    config = tmp_path / "distilled.yaml"
    options = {"teacher": str(run / "model.safetensors"), "teacher_gradients_weight": 0.1}
    config.write_text(json.dumps({"model": {"class_path": "pyg_schnet.train.DistilledTask", "init_args": options}}))
    taught = train_briefly(tmp_path, epochs=2, first=[f"--config={config}"])
    path = taught / "model.safetensors"
    assert SchNet.load(path).card["teacher"]["model"] == run.name
    capsys.readouterr()
    config.unlink()
    (run / "model.safetensors").rename(run / "elsewhere.safetensors")
    try:
        main(["test", str(path)])  # which needs no teacher
    finally:
        (run / "elsewhere.safetensors").rename(run / "model.safetensors")
    result = json.loads((taught / "result.json").read_text())["errors"]["U0"]["mae"]["meV"]
    assert float(re.search(r"MAE +([\d.]+) meV", capsys.readouterr().out).group(1)) == pytest.approx(result, rel=2e-3)


def test_runs_that_saw_the_test_structures_are_not_merged(run, tmp_path):
    other = train_briefly(tmp_path, "--data.seed=1", epochs=1)
    with pytest.raises(SystemExit, match="has learned from test structures of"):
        main(["merge", f'["{run}", "{other}"]', f"--run_dir={tmp_path / 'merged'}"])
    with pytest.raises(SystemExit, match="no finished run in"):
        main(["merge", f'["{run}", "{tmp_path}"]', f"--run_dir={tmp_path / 'merged'}"])
    assert not (tmp_path / "merged").exists()


def test_predict_prints_and_writes(run, tmp_path, capsys):
    import ase.io
    from ase.build import molecule

    ase.io.write(tmp_path / "in.xyz", [molecule("H2O"), molecule("CH4")], format="extxyz")
    model = f"--model={run / 'model.safetensors'}"
    main(["predict", str(tmp_path / "in.xyz"), model])
    assert "U0 [eV]" in capsys.readouterr().out
    main(["predict", str(tmp_path / "in.xyz"), model, f"--output={tmp_path / 'out.csv'}"])
    main(["predict", str(tmp_path / "in.xyz"), model, f"--output={tmp_path / 'out.xyz'}"])
    rows = (tmp_path / "out.csv").read_text().splitlines()
    assert rows[0] == "structure,formula,U0 [eV]"
    network = SchNet.load(run / "model.safetensors").double()
    for k, atoms in enumerate(ase.io.read(tmp_path / "out.xyz", ":")):
        z, pos = torch.tensor(atoms.numbers), torch.tensor(atoms.positions)
        assert atoms.info["predicted_U0"] == pytest.approx(network(z, pos).item(), abs=1e-4)
        assert float(rows[k + 1].split(",")[2]) == pytest.approx(atoms.info["predicted_U0"], abs=1e-6)


def test_unknown_elements_are_not_predicted(run, tmp_path):
    import ase.io
    from ase.build import molecule

    ase.io.write(tmp_path / "in.xyz", [molecule("H2O"), molecule("SiH4")], format="extxyz")
    with pytest.raises(SystemExit, match="not trained on Si; it knows H, C, N"):
        main(["predict", str(tmp_path / "in.xyz"), f"--model={run / 'model.safetensors'}"])


def test_other_networks_are_trained_by_class_path(run, tmp_path, capsys):
    main(
        [
            "train", f"--config={run / 'config.yaml'}", f"--run_dir={tmp_path}", "--trainer.max_epochs=1",
            "--model.network=torch_geometric.nn.models.SchNet", "--model.network.hidden_channels=16",
            "--model.network.interaction_graph=pyg_schnet.InteractionGraph",
            "--model.network.interaction_graph.cutoff=5.0",
        ]
    )  # fmt: skip
    assert "not exported" in capsys.readouterr().out
    assert (tmp_path / "checkpoints" / "best.ckpt").is_file()
    assert not (tmp_path / "model.safetensors").exists()


def test_a_finished_run_is_not_overwritten(run):
    with pytest.raises(SystemExit, match="holds a run already"):
        main(["train", f"--config={run / 'config.yaml'}"])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["train", "--help_all"], "--model.help CLASS explains"),
        (["train", "--model.help=PropertyTask"], "Largest learning rate"),
        (["train", "--model.help=PotentialTask"], "of forces in eV/Å"),
        (["train", "--model.help=RelaxedTask"], "atoms were relaxed in cells that were not"),
        (["train", "--model.help=DistilledTask"], "Model file, or name of a pretrained model, of the same property"),
        (["train", "--model.init_args.network.help=pyg_schnet.SchNet"], "Cutoff in Å"),
        (["train", "--data.dataset.help=pyg_schnet.data.QM9"], "Folder"),
        (["test", "--help"], "Saved split"),
        (["predict", "--help"], "positions in Å"),
        (["merge", "--help"], "mean of those of several runs"),
    ],
)
def test_help_explains_options(arguments, text, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    assert text in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit"], "unknown command"),
        (["test", "missing.safetensors"], "no model file"),
        (["train", "--data_dir=missing"], "no folder of data at missing"),
        (["predict", "missing.xyz", "--model=missing.safetensors"], "no model file"),
        (["train", "--resume=missing.ckpt"], "no checkpoint to resume from"),
    ],
)
def test_errors_are_one_sentence(arguments, message):
    with pytest.raises(SystemExit, match=message):
        main(arguments)


def test_usage_and_version(capsys):
    main([])
    main(["--version"])
    printed = capsys.readouterr().out
    assert "five minutes" in printed
    assert "pyg_schnet 0" in printed
