import pytest
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only

from pyg_schnet.train import processes
from pyg_schnet.train.evaluation import evaluator

SLURM = {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "job", "SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2"}
SRUN = {**SLURM, "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NODEID": "0", "SLURM_STEP_ID": "0"}
TORCHRUN = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": "2"}


@pytest.fixture(params=[SLURM, SRUN, TORCHRUN, {"WORLD_SIZE": "x", "NODE_RANK": "y"}], ids=str)
def environment(request, monkeypatch):
    for name, value in request.param.items():
        monkeypatch.setenv(name, value)
    return request.param


def test_an_evaluation_is_one_process(environment, monkeypatch):
    monkeypatch.setenv("PL_TRAINER_LIMIT_TEST_BATCHES", "0")
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    trainer = evaluator()
    assert (trainer.world_size, trainer.global_rank, trainer.is_global_zero) == (1, 0, True)
    assert rank_zero_only.rank == 0
    assert trainer.limit_test_batches == 1.0


def test_a_run_of_one_device_is_one_process(environment, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    (plugin,) = processes.environment_plugins({"devices": 1})
    assert type(plugin) is LightningEnvironment


@pytest.mark.parametrize(
    ("variables", "message"),
    [(SRUN, r"process 1 of a job \(SLURM_PROCID=1\)"), (TORCHRUN, r"process 1 of a job \(RANK=1\)")],
)
def test_the_others_of_a_job_do_not_train_the_same(variables, message, monkeypatch):
    processes.check_first()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        processes.check_first()


@pytest.mark.parametrize(
    ("options", "one"),
    [
        ({"devices": 1}, True), ({"devices": "1", "num_nodes": 1}, True), ({"devices": [3]}, True),
        ({"devices": 2}, False), ({"devices": "auto"}, False), ({"devices": 1, "num_nodes": 2}, False),
    ],
)  # fmt: skip
def test_one_device_on_one_node(options, one):
    assert processes.is_one_process(options) == one


def test_a_job_without_srun_starts_its_own_processes(monkeypatch):
    for name, value in {**SLURM, "SLURM_PROCID": "0"}.items():
        monkeypatch.setenv(name, value)
    assert len(processes.environment_plugins({"devices": 2})) == 1
    assert not processes.started_by_others({"devices": 2})
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert processes.environment_plugins({"devices": 2}) == []
    assert processes.started_by_others({"devices": 2})
    assert not processes.is_follower({"devices": 2})
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert processes.is_follower({"devices": 2})
    assert not processes.is_follower({"devices": 1})
