"""The comparison of graph neural networks: its models are right, and a model more is a line more."""

import importlib
import itertools
import json
import logging
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch_geometric.nn.models
from torch import nn

from pyg_schnet import radius_graph
from pyg_schnet import testing as contract
from pyg_schnet.data import Property

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SAMPLE = Path(__file__).parents[1] / "data" / "samples" / "qm9"


def load(*names):
    """Modules of the folder of benchmarks, which is no package: afterwards neither path nor modules are known."""
    known = set(sys.modules)
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return [importlib.import_module(name) for name in names]
    finally:
        sys.path.remove(str(BENCHMARKS))
        for name in set(sys.modules) - known:
            if str(getattr(sys.modules[name], "__file__", None)).startswith(str(BENCHMARKS)):
                del sys.modules[name]


gnns, compare_gnns = load("gnns", "compare_gnns")

# what the loss cannot reach: weights whose input or output is always zero, or that nothing uses
UNREACHED = {
    "ViSNet": (
        r"vis_mp_layers\.0\.(vec_proj|w_src_proj|w_trg_proj|f_proj)",  # vectors are zero before the first layer
        r"output_network\.1\.vec2_proj",  # vectors that the last block makes are not used
    )
}


class Pairs(nn.Module):
    """A sum over pairs of neighbours, the smallest network that depends on distances."""

    def __init__(self):
        super().__init__()
        self.elements = nn.Embedding(10, 8)
        self.out = nn.Linear(8, 1)

    def forward(self, z, pos, batch):
        j, i = radius_graph(pos, 5.0, batch)
        dist = (pos[j] - pos[i]).norm(dim=-1, keepdim=True)
        pairs = self.out(self.elements(z[j]) * self.elements(z[i]) * torch.exp(-dist))
        return pairs.new_zeros(int(batch.max()) + 1).index_add(0, batch[i], pairs.squeeze(-1))


def brute_graph(pos, r, batch=None, loop=False, max_num_neighbors=None):
    """All pairs of atoms of one structure within the cutoff, one after the other, instead of PyG's search."""
    edges = [
        (j, i)
        for i, j in itertools.product(range(len(pos)), repeat=2)
        if batch[i] == batch[j] and (loop if i == j else (pos[i] - pos[j]).norm() < r)
    ]
    return torch.tensor(edges).T


def brute_triplets(edge_index):
    """Pairs of edges k -> j -> i with different k and i, one after the other: (kj, ji) of each."""
    edges = edge_index.T.tolist()
    return [
        (kj, ji)
        for (ji, (j, i)), (kj, (k, end)) in itertools.product(enumerate(edges), repeat=2)
        if end == j and k != i
    ]


@pytest.fixture(scope="module")
def networks():
    """The registered models in float64; the formulas of DimeNet++'s basis take long, so it has fewer."""
    fewer = {"DimeNet++": {"num_spherical": 3, "num_radial": 2}}
    made = {}
    for name, candidate in gnns.MODELS.items():
        torch.manual_seed(0)
        made[name] = candidate.build(**fewer.get(name, {})).double()
    return made


@pytest.fixture(params=gnns.MODELS)
def network(request, networks):
    return networks[request.param]


def test_batch_equals_single(network, molecules):
    contract.check_batching(network, **molecules)


def test_rotation_reflection_and_translation(network, molecules):
    contract.check_rotation(network, **molecules)
    contract.check_reflection(network, **molecules)
    contract.check_translation(network, **molecules)


def test_permutation(network, molecules):
    contract.check_permutation(network, **molecules)


def test_more_neighbours_than_any_quota(network, dense_cluster, tensors):
    structure = tensors(dense_cluster)
    assert radius_graph(structure["pos"], gnns.CUTOFF)[1].bincount().max() > 32
    contract.check_permutation(network, **structure)  # a quota would choose neighbours by their order


@pytest.mark.parametrize("name", gnns.MODELS)
def test_gradients_reach_every_weight(name, networks, molecules):
    network = networks[name].requires_grad_()
    network.zero_grad()
    network(**molecules).square().sum().backward()
    unreached = {key for key, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()}
    patterns = UNREACHED.get(name, ())
    assert all(weight.grad.isfinite().all() for weight in network.parameters() if weight.grad is not None)
    assert {key for key in unreached if not any(re.search(pattern, key) for pattern in patterns)} == set()


def test_forces_are_those_of_finite_differences(network, ethanol, tensors):
    contract.check_derivatives(network, **tensors(ethanol[[0, 1, 2, 3]]), second=False)


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_triplets_equal_brute_force(molecules, order):
    edge_index = radius_graph(molecules["pos"], 2.5, molecules["batch"])
    if order == "shuffled":
        edge_index = edge_index[:, torch.randperm(edge_index.size(1), generator=torch.Generator().manual_seed(0))]
    kj, ji = gnns.triplets(edge_index, len(molecules["z"]))
    assert kj.numel() > 50
    assert sorted(zip(kj.tolist(), ji.tolist(), strict=True)) == sorted(brute_triplets(edge_index))


def test_no_edges_have_no_triplets():
    kj, ji = gnns.triplets(torch.empty(2, 0, dtype=torch.int64), 3)
    assert kj.shape == ji.shape == (0,)


def test_dimenet_is_that_of_pyg(networks, molecules, monkeypatch):
    module = sys.modules["torch_geometric.nn.models.dimenet"]

    def triplets(edge_index, num_nodes):
        (j, i), (kj, ji) = edge_index, torch.tensor(brute_triplets(edge_index)).T
        return i, j, i[ji], j[ji], j[kj], kj, ji

    monkeypatch.setattr(module, "radius_graph", brute_graph)
    monkeypatch.setattr(module, "triplets", triplets)
    network = networks["DimeNet++"]
    expected = super(gnns.DimeNetPlusPlus, network).forward(**molecules)
    torch.testing.assert_close(network(**molecules), expected, rtol=1e-10, atol=1e-12)


def test_visnet_is_that_of_pyg(molecules, monkeypatch):
    monkeypatch.setattr(sys.modules["torch_geometric.nn.models.visnet"], "radius_graph", brute_graph)
    network = gnns.MODELS["ViSNet"].build()
    theirs = torch_geometric.nn.models.ViSNet(**gnns.MODELS["ViSNet"].build.keywords)
    theirs.load_state_dict(network.state_dict())
    given = {**molecules, "pos": molecules["pos"].float()}  # theirs has distances in float32 alone
    torch.testing.assert_close(network(**given), theirs(**given)[0], rtol=1e-5, atol=1e-5)


@pytest.fixture
def run(monkeypatch, tmp_path_factory):
    """Function that runs the command for a few steps on a few molecules."""
    folder = tmp_path_factory.mktemp("run")
    sample = ["--source", SAMPLE, "--root", folder, "--num-train", 16, "--num-val", 4, "--batch-size", 8, "--steps", 6]
    logger = logging.getLogger("lightning.pytorch")
    monkeypatch.setattr(compare_gnns, "_POINTS", 3)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["compare_gnns.py", *map(str, [*sample, *arguments])])
        compare_gnns.main()

    level = logger.level
    yield call
    logger.setLevel(level)


def test_a_model_more_is_a_line_more(run, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(gnns.MODELS, "pairs", gnns.Candidate(Pairs, lr=1e-2))
    files = tmp_path / "result.json", tmp_path / "result.pdf"
    outside = f"again={__name__}:Pairs"
    run("--models", "pairs", "--model", outside, "--lr", "again=1e-2", "--json", files[0], "--plot", files[1])

    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in lines] == ["model", "-----", "pairs", "again"]
    assert "test MAE [meV] | test MAE [kcal/mol]" in lines[0]

    content = json.loads(files[0].read_text())
    assert {"commit", "threads", "torch", "lightning"} <= set(content["about"])
    first, second = content["results"]["models"]
    assert (first["parameters"], first["steps"], first["epochs"], first["lr"]) == (89, 6, 3.0, 1e-2)
    assert first["test"] == second["test"]  # same weights, batches and rates
    assert first["test"]["meV"] == pytest.approx(43.3641153 * first["test"]["kcal/mol"])
    assert [point["steps"] for point in first["curve"]] == [1, 6]
    assert first["curve"][-1]["val"] == first["val"] != first["curve"][0]["val"]
    assert files[1].stat().st_size > 0


def test_seeds_have_their_own_split_and_weights_and_a_spread(run, monkeypatch, tmp_path, capsys):
    import matplotlib.pyplot as plt

    files = tmp_path / "result.json", tmp_path / "result.png"
    models = ["--models", "--model", f"pairs={__name__}:Pairs", "--model", f"again={__name__}:Pairs"]
    run(*models, "--lr", "1e-2", "--seeds", 2, "--minutes", 0.005, "--json", files[0], "--plot", files[1])
    said = capsys.readouterr().out
    rows = json.loads(files[0].read_text())["results"]["models"]
    assert [(row["model"], row["budget"]) for row in rows] == [
        ("pairs", "0.005 min"), ("again", "0.005 min"), ("pairs", "6 steps"), ("again", "6 steps"),
    ]  # fmt: skip
    for row in rows:
        errors = [one["test"]["meV"] for one in row["runs"]]
        assert row["seed"] == [0, 1]
        assert row["test"]["meV"] == pytest.approx(sum(errors) / 2)
        assert row["spread"]["test"]["meV"] == pytest.approx(abs(errors[0] - errors[1]) / 2**0.5)
        assert errors[0] != errors[1]
    of_steps = {row["model"]: row for row in rows if row["budget"] == "6 steps"}
    assert of_steps["pairs"]["steps"] == 6
    assert of_steps["pairs"]["test"] == of_steps["again"]["test"]  # the seed sets weights, order and split of both
    assert "Mean over 2 seeds ± sample standard deviation" in said
    test = of_steps["pairs"]
    assert f"{test['test']['meV']:.4g} ± {test['spread']['test']['meV']:.2g}" in said
    time_curves, time_sizes, step_curves, step_sizes = plt.gcf().axes[:4]
    assert [ax.get_xlabel() for ax in (time_curves, time_sizes, step_curves)] == [
        "time of training [s]", "number of parameters", "steps of training",
    ]  # fmt: skip
    assert len(step_curves.lines) == 2 * 2 + 1  # each training, and chemical accuracy
    assert len(step_sizes.containers) == 2
    monkeypatch.setattr(sys, "argv", ["compare_gnns.py", f"--draw={files[0]}", f"--plot={files[1]}"])
    compare_gnns.main()
    drawn = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert drawn == [line for line in said.splitlines() if line.startswith("|")][-len(drawn) :]


@pytest.mark.parametrize(
    ("options", "budgets"),
    [
        ([], {"5 min": {"minutes": 5.0}}),
        (["--steps", "2000"], {"2,000 steps": {"steps": 2000}}),
        (["--minutes", "0.5"], {"0.5 min": {"minutes": 0.5}}),
        (["--minutes", "1", "--steps", "9"], {"1 min": {"minutes": 1.0}, "9 steps": {"steps": 9}}),
    ],
)
def test_budgets_are_a_time_or_steps_or_both(options, budgets):
    given = dict(zip(options[::2], map(float, options[1::2]), strict=True))
    steps = given.get("--steps")
    asked = SimpleNamespace(minutes=given.get("--minutes"), steps=None if steps is None else int(steps))
    assert compare_gnns.make_budgets(asked) == budgets


def test_other_properties_keep_their_unit(run, monkeypatch, tmp_path, capsys):
    import matplotlib.pyplot as plt

    run("--models", "--model", f"pairs={__name__}:Pairs", "--target", "alpha", "--plot", tmp_path / "result.png")
    against_time, against_size = plt.gcf().axes
    assert against_time.get_ylabel() == "validation MAE of alpha [a₀³]"
    assert len(against_time.lines) == len(against_size.lines) == 1  # no chemical accuracy
    assert "| test MAE [a₀³] |" in capsys.readouterr().out


def test_both_schnets_learn_the_same(run, tmp_path):
    run("--models", "SchNet", "PyG-SchNet", "--json", tmp_path / "result.json")
    ours, theirs = json.loads((tmp_path / "result.json").read_text())["results"]["models"]
    for kind in ("val", "test"):
        assert ours[kind]["meV"] == pytest.approx(theirs[kind]["meV"], rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "pairs"], "expected NAME=package.module:callable"),
        (["--model", "pairs=no_such_package:Pairs"], "cannot import 'no_such_package:Pairs'"),
        (["--model", "pairs=torch.nn:Pairs"], "cannot import 'torch.nn:Pairs'"),
        (["--models", "GIN"], "invalid choice: 'GIN'"),
    ],
)
def test_unknown_models_are_refused(run, arguments, message, capsys):
    with pytest.raises(SystemExit):
        run(*arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"), [("GIN=1e-3", "'GIN', which is none of SchNet"), ("SchNet=fast", "got 'SchNet=fast'")]
)
def test_unknown_rates_are_refused(text, message):
    with pytest.raises(SystemExit, match=message):
        compare_gnns.learning_rates([text], gnns.MODELS)


def test_rates_are_given_for_all_or_for_one():
    rates = compare_gnns.learning_rates(["0.1", "DTNN=0.2"], gnns.MODELS)
    assert rates == dict.fromkeys(gnns.MODELS, 0.1) | {"DTNN": 0.2}
    assert compare_gnns.learning_rates([], gnns.MODELS)["SchNet"] == gnns.MODELS["SchNet"].lr


class Directed(Pairs):
    def forward(self, z, pos, batch):
        return super().forward(z, pos * pos.new_tensor([1.0, 1.0, 2.0]), batch)


class Mixed(Pairs):
    def forward(self, z, pos, batch):
        output = super().forward(z, pos, batch)
        return output - output.mean()


class Wide(Pairs):
    def forward(self, z, pos, batch):
        return super().forward(z, pos, batch).unsqueeze(-1).expand(-1, 2)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Directed, "Directed fails check_rotation"),
        (Mixed, "Mixed fails check_batching"),
        (Wide, r"Wide must return shape \[B\] or \[B, 1\], got \[3, 2\] for 3"),
    ],
)
def test_networks_that_are_no_energies_are_refused(kind, message, molecules):
    batch = SimpleNamespace(**{**molecules, "pos": molecules["pos"].float()}, num_graphs=3)
    torch.manual_seed(0)
    compare_gnns.check_network("Pairs", Pairs(), batch)
    with pytest.raises(SystemExit, match=message):
        compare_gnns.check_network(kind.__name__, kind(), batch)


def test_clock_stands_still_during_validation(monkeypatch):
    now = 0.0
    monkeypatch.setattr("lightning.pytorch.callbacks.timer.time", SimpleNamespace(monotonic=lambda: now))
    budget = compare_gnns.Budget(seconds=60.0)
    trainer = SimpleNamespace(global_step=7, callback_metrics={"val/U0_mae": torch.tensor(0.5)})
    task = SimpleNamespace(property=Property("U0", "eV"))
    budget.on_train_start(trainer, task)
    for _ in range(2):
        now += 5.0
        budget.on_validation_start(trainer, task)
        now += 100.0
        budget.on_validation_end(trainer, task)
    assert [point["seconds"] for point in budget.curve] == [5.0, 10.0]
    assert budget.time_remaining() == 50.0
    assert budget.curve[0]["val"]["meV"] == pytest.approx(500.0)


def test_the_table_of_the_guide_is_that_of_the_saved_run(tmp_path, capsys, monkeypatch):
    saved, plot = BENCHMARKS / "results" / "gnns.json", tmp_path / "gnns.svg"
    monkeypatch.setattr(sys, "argv", ["compare_gnns.py", f"--draw={saved}", f"--plot={plot}"])
    compare_gnns.main()
    printed = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    guide = (BENCHMARKS.parent / "examples" / "guides" / "models.md").read_text(encoding="utf-8").splitlines()
    begin = next(k for k, line in enumerate(guide) if line.startswith("| model | parameters |"))
    assert [line.split() for line in guide[begin : begin + len(printed)]] == printed
    assert len(printed) == 7
    assert plot.stat().st_size > 10_000
