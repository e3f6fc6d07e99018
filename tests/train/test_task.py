import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch_geometric.data import Batch, Data
from torch_geometric.nn.models import SchNet as PyGSchNet

from pyg_schnet import InteractionGraph, SchNet
from pyg_schnet.data.loader import collate_indices
from pyg_schnet.models.atomref import pop_atomref
from pyg_schnet.train import PropertyTask, StructureDataModule
from pyg_schnet.train.references import pooling_of


def small_schnet(**kwargs):
    torch.manual_seed(0)
    return SchNet(hidden_channels=16, num_filters=16, num_interactions=2, num_gaussians=10, cutoff=5.0, **kwargs)


def fitted_task(dataset, network, target="U0"):
    task = PropertyTask(network)
    data = StructureDataModule(dataset, target, num_train=26, num_val=2)
    task.property = data.property
    task.fit_statistics(*data.training_targets())
    return task.eval()


def small_pyg_schnet(**kwargs):
    torch.manual_seed(0)
    return PyGSchNet(16, 16, 2, 10, 5.0, interaction_graph=InteractionGraph(5.0), **kwargs)


def test_references_are_the_least_squares_solution(qm9_sample):
    task = fitted_task(qm9_sample, small_schnet())
    counts, target = StructureDataModule(qm9_sample, "U0", num_train=26, num_val=2).training_targets()
    counts = counts.numpy()
    present = counts.any(0)
    expected, *_ = np.linalg.lstsq(counts[:, present], target.numpy(), rcond=None)
    assert task.atomref[torch.from_numpy(present), 0].numpy() == pytest.approx(expected, rel=1e-6)


def test_prediction_is_references_plus_scaled_network(qm9_sample):
    task = fitted_task(qm9_sample, small_schnet())
    batch = collate_indices(qm9_sample, [0, 5, 9])
    with torch.no_grad():
        network = task.network(batch.z, batch.pos, batch.batch).squeeze(-1).double()
        predicted = task.predict_step(batch, 0)
    references = [sum(float(task.atomref[z]) for z in qm9_sample[k].z) for k in (0, 5, 9)]
    expected = torch.tensor(references, dtype=torch.float64) + task.scale.double() * network
    assert predicted.dtype == torch.float64
    torch.testing.assert_close(predicted, expected, rtol=0, atol=1e-6)


def test_residuals_lose_nothing_at_large_energies(qm9_sample):
    task = fitted_task(qm9_sample, small_schnet())
    batch = collate_indices(qm9_sample, range(len(qm9_sample)))
    _, residual = task.compare(batch)["U0"]
    restored = residual.double() + task.references(batch)
    assert (restored - batch.y[:, 7]).abs().max() < 1e-6  # eV; float32 energies would be off by 1e-3
    assert (batch.y[:, 7].float().double() - batch.y[:, 7]).abs().max() > 1e-4


@pytest.mark.parametrize(("readout", "target"), [("sum", "U0"), ("mean", "homo"), ("max", "zpve"), ("dipole", "mu")])
def test_export_gives_the_same_predictions(qm9_sample, tmp_path, readout, target):
    task = fitted_task(qm9_sample, small_schnet(readout=readout), target)
    batch = collate_indices(qm9_sample, range(10))
    path = task.export().save(tmp_path / "model.safetensors")
    model = SchNet.load(path)
    assert model.card["target"] == target
    assert model.card["unit"] == task.property.unit
    with torch.no_grad():
        exported = model.double()(batch.z, batch.pos.double(), batch.batch).squeeze(-1)
        expected = task.predict_step(batch, 0)
    torch.testing.assert_close(exported, expected, rtol=1e-9, atol=2e-6)
    again = PropertyTask.from_model(SchNet.load(path), task.property)
    with torch.no_grad():
        torch.testing.assert_close(again.predict_step(batch, 0), expected, rtol=1e-9, atol=2e-6)


@pytest.mark.parametrize(("readout", "target"), [("sum", "U0"), ("mean", "homo"), ("max", "zpve")])
def test_export_scales_what_the_network_had_of_its_own(qm9_sample, readout, target):
    """The network of a fine-tuned model comes with a scale and a shift."""
    network = small_schnet(readout=readout)
    network.readout.scale.fill_(0.7)
    network.readout.shift.fill_(-1.3)
    task = fitted_task(qm9_sample, network, target).double()
    task.scale.fill_(3.0)
    assert task.export().readout.shift.item() == pytest.approx(-3.9)
    assert task.export().readout.scale.item() == pytest.approx(2.1)
    batch = collate_indices(qm9_sample, range(10))
    with torch.no_grad():
        difference = 3.0 * network(batch.z, batch.pos.double(), batch.batch)[:, 0]
        exported = task.export()(batch.z, batch.pos.double(), batch.batch)[:, 0]
        torch.testing.assert_close(exported, difference + expected_references(task, batch), rtol=1e-12, atol=1e-9)
        torch.testing.assert_close(task.predict_step(batch, 0), exported, rtol=1e-12, atol=1e-9)


def expected_references(task, batch):
    each = [task.atomref[batch.z[batch.batch == k], 0] for k in range(batch.num_graphs)]
    return torch.stack([rows.sum() if task.pooling == "sum" else rows.mean() for rows in each])


@pytest.mark.parametrize(
    ("pooling", "scale"),
    [("sum", (0.5 / 3) ** 0.5), ("mean", (2 / 3) ** 0.5), ("max", (2 / 3) ** 0.5), ("none", (2 / 3) ** 0.5)],
)
def test_scale_is_the_spread_of_what_references_leave(pooling, scale):
    # sums: one hydrogen is worth 1, what is left is 0, 1 and -1, for each atom 0, 0.5 and -0.5
    counts = torch.zeros(3, 100, dtype=torch.float64)
    counts[:, 1] = torch.tensor([1.0, 2.0, 2.0])
    target = torch.tensor([1.0, 3.0, 1.0] if pooling == "sum" else [1.0, 3.0, 2.0], dtype=torch.float64)
    task = PropertyTask(small_schnet(), pooling=pooling)
    task.fit_statistics(counts, target)
    assert task.scale.item() == pytest.approx(scale, rel=1e-6)
    assert task.atomref[1].item() == pytest.approx({"sum": 1.0, "none": 0.0}.get(pooling, 2.0))


def test_scale_is_one_where_references_leave_nothing():
    counts = torch.zeros(2, 100, dtype=torch.float64)
    counts[:, 6] = torch.tensor([1.0, 3.0])
    task = PropertyTask(small_schnet())
    task.fit_statistics(counts, torch.tensor([-38.0, -114.0], dtype=torch.float64))
    assert task.scale.item() == pytest.approx(1.0, abs=1e-6)


class RateRecord(Callback):
    """Learning rate of every step."""

    def __init__(self):
        self.rates = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def rates_of(dataset, epochs, **options):
    data = StructureDataModule(dataset, "U0", num_train=12, num_val=2, batch_size=4)  # three steps in an epoch
    record = RateRecord()
    trainer = Trainer(
        accelerator="cpu", max_epochs=epochs, limit_val_batches=0, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[record],
    )  # fmt: skip
    trainer.fit(PropertyTask(small_schnet(), lr=0.01, **options), datamodule=data)
    return record.rates


def test_warm_restarts_count_epochs(qm9_sample):
    rates = rates_of(qm9_sample, 5, schedule="warm_restarts", restart_period=2, restart_multiplier=1, restart_decay=0.5)
    expected = [0.01 * 0.5 ** (k // 6) * 0.5 * (1 + np.cos(np.pi * (k % 6) / 6)) for k in range(15)]
    assert rates == pytest.approx(expected, rel=1e-9)


def test_cosine_ends_with_the_training(qm9_sample):
    rates = rates_of(qm9_sample, 4, schedule="cosine", warmup=0.25)
    expected = [0.01 * (k / 3 if k < 3 else 0.5 * (1 + np.cos(np.pi * (k - 3) / 9))) for k in range(12)]
    assert rates == pytest.approx([max(rate, 1e-6) for rate in expected], rel=1e-9)
    assert rates_of(qm9_sample, 1, schedule="constant") == [0.01] * 3


def test_networks_of_other_packages_are_trained_but_not_exported(qm9_sample):
    task = fitted_task(qm9_sample, small_pyg_schnet())
    batch = collate_indices(qm9_sample, range(10))
    loss = task.total_loss(task.compare(batch))
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in task.parameters() if p.grad is not None)
    with pytest.raises(TypeError, match="only models of pyg_schnet can be exported"):
        task.export()


def test_same_weights_give_the_same_task_in_both_packages(qm9_sample):
    theirs = small_pyg_schnet()
    tasks = [fitted_task(qm9_sample, network) for network in (theirs, SchNet.from_pyg(theirs))]
    batch = collate_indices(qm9_sample, range(10))
    torch.testing.assert_close(*(task.predict_step(batch, 0) for task in tasks), rtol=1e-9, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (small_schnet(), "sum"),
        (small_schnet(readout="mean"), "mean"),
        (small_schnet(readout="max"), "max"),
        (small_schnet(readout="dipole"), "none"),
        (small_pyg_schnet(), "sum"),
        (small_pyg_schnet(readout="mean"), "mean"),
        (small_pyg_schnet(dipole=True), "none"),
    ],
)
def test_pooling_is_read_from_the_network(network, expected):
    assert pooling_of(network) == expected


def test_pooling_of_unknown_networks_has_to_be_stated():
    with pytest.raises(ValueError, match="say pooling="):
        PropertyTask(torch.nn.Linear(1, 1))
    assert PropertyTask(torch.nn.Linear(1, 1), pooling="mean").pooling == "mean"


def test_references_are_taken_out_once():
    model = small_schnet()
    model.readout.set_references(torch.arange(10.0))
    taken = pop_atomref(model)
    assert taken[9] == 9.0
    assert not model.readout.atomref.any()


def test_periodic_structures_are_refused_by_networks_without_cell():
    task = PropertyTask(small_pyg_schnet())
    data = Data(
        z=torch.tensor([6]), pos=torch.zeros(1, 3), cell=torch.eye(3).unsqueeze(0), pbc=torch.ones(1, 3, dtype=bool)
    )
    with pytest.raises(ValueError, match="takes no cell"):
        task(Batch.from_data_list([data]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "l2"}, "loss must be one of"),
        ({"warmup": 1.0}, "warmup"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"lr": float("nan")}, "lr must be positive, got nan"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative, got -1.0"),
        ({"huber_delta": 0.0}, "huber_delta must be positive, in the unit of the property, got 0.0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PropertyTask(small_schnet(), **options)


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_losses_are_those_of_torch(qm9_sample, loss):
    task = fitted_task(qm9_sample, small_schnet())
    task.loss, task.huber_delta = loss, 0.05
    task.log = lambda *args, **kwargs: None
    batch = collate_indices(qm9_sample, range(10))
    predicted, target = task.compare(batch)["U0"]
    error = (predicted - target).abs()
    huber = torch.where(error < 0.05, 0.5 * error**2, 0.05 * (error - 0.025))
    expected = {"mse": (error**2).mean(), "mae": error.mean(), "huber": huber.mean()}[loss]
    torch.testing.assert_close(task.training_step(batch, 0), expected)


@pytest.mark.parametrize(("limit", "algorithm"), [(1e-3, None), (1e-3, "norm"), (1e-4, "value"), (1e6, "norm")])
def test_gradients_are_clipped_as_by_lightning(qm9_sample, limit, algorithm, monkeypatch):
    found = []
    for cls in (PropertyTask, LightningModule):
        monkeypatch.setattr(PropertyTask, "configure_gradient_clipping", cls.configure_gradient_clipping)
        task = fitted_task(qm9_sample, small_schnet())
        task.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
        task.total_loss(task.compare(collate_indices(qm9_sample, range(10)))).backward()
        before = [weight.grad.clone() for weight in task.parameters()]
        task.configure_gradient_clipping(torch.optim.SGD(task.parameters()), limit, algorithm)
        found.append([weight.grad for weight in task.parameters()])
        same = all(torch.equal(a, b) for a, b in zip(before, found[-1], strict=True))
        assert same == (limit == 1e6)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


def test_structures_without_label_do_not_count(qm9_sample):
    task = fitted_task(qm9_sample, small_schnet())
    batch = collate_indices(qm9_sample, range(4))
    batch.has_y = torch.tensor([True, False, True, False])
    found = task.compare(batch)["U0"]
    del batch.has_y
    for some, of_all in zip(found, task.compare(batch)["U0"], strict=True):
        torch.testing.assert_close(some, of_all[[0, 2]], rtol=1e-6, atol=1e-6)
