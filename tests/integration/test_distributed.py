"""Joining the job that a launcher started, without starting one; tests/distributed does that."""

import datetime
import importlib
import types

import pytest
import torch
from fairseq import models

from fairseq_mhmoe.integration import distributed
from fairseq_mhmoe.integration.launchers import TORCHRUN_VARIABLES, Place


@pytest.fixture
def cfg():
    return types.SimpleNamespace(
        common=types.SimpleNamespace(cpu=True),
        distributed_training=types.SimpleNamespace(
            distributed_world_size=1,
            distributed_rank=0,
            distributed_init_method=None,
            distributed_backend="nccl",
            distributed_no_spawn=False,
            device_id=0,
        ),
    )


@pytest.fixture
def torchrun(monkeypatch):
    def start(rank, world_size, local_rank=None):
        local_rank = rank if local_rank is None else local_rank
        values = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": local_rank, "MASTER_ADDR": "localhost"}
        for name, value in {**values, "MASTER_PORT": 29500}.items():
            monkeypatch.setenv(name, str(value))

    for name in TORCHRUN_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return start


def call(cfg, program="train"):
    main = importlib.import_module(f"fairseq_cli.{program}").main  # only the hook is called
    received = []
    distributed.call_main(lambda cfg, main: received.append(cfg), cfg, main)
    return received[0].distributed_training


def test_one_process_without_torchrun_stays_alone(cfg, torchrun):
    assert call(cfg).distributed_init_method is None


def test_a_rank_of_torchrun_joins_on_the_cpu(cfg, torchrun):
    torchrun(rank=3, world_size=4, local_rank=1)
    settings = call(cfg)
    assert settings.distributed_init_method == "env://"
    assert (settings.distributed_rank, settings.distributed_world_size) == (3, 4)
    assert (settings.distributed_backend, settings.distributed_no_spawn, settings.device_id) == ("gloo", True, 0)


def test_a_rank_of_torchrun_takes_its_gpu(cfg, torchrun, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cfg.common.cpu = False
    torchrun(rank=5, world_size=8, local_rank=1)
    settings = call(cfg)
    assert (settings.distributed_backend, settings.device_id) == ("nccl", 1)


def test_more_ranks_than_gpus_are_refused(cfg, torchrun, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cfg.common.cpu = False
    torchrun(rank=2, world_size=3)
    with pytest.raises(ValueError, match="has 2 GPUs.*--nproc-per-node 2"):
        call(cfg)


def test_torchrun_with_one_process_is_one_process_whatever_the_number_of_gpus(cfg, torchrun):
    torchrun(rank=0, world_size=1)
    cfg.distributed_training.distributed_world_size = 8
    settings = call(cfg)
    assert (settings.distributed_world_size, settings.distributed_init_method) == (1, None)


def test_an_own_init_method_is_left_alone(cfg, torchrun):
    torchrun(rank=1, world_size=2)
    cfg.distributed_training.distributed_init_method = "tcp://localhost:1234"
    assert call(cfg).distributed_rank == 0


def test_eval_lm_without_a_launcher_runs_in_one_process(cfg, torchrun):
    cfg.distributed_training.distributed_world_size = 8
    assert call(cfg, "eval_lm").distributed_world_size == 1


def test_eval_lm_joins_as_training_does(cfg, torchrun):
    torchrun(rank=1, world_size=2)
    assert call(cfg, "eval_lm").distributed_rank == 1


def test_a_conversation_in_several_processes_is_refused(cfg, torchrun):
    torchrun(rank=0, world_size=2)
    with pytest.raises(ValueError, match="torchrun started 2 processes: start it without"):
        call(cfg, "interactive")


def test_a_single_visible_gpu_is_the_task_s_own_under_slurm():
    place = Place("Slurm", rank=5, world_size=8, local_rank=1, init_method="tcp://node:1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        assert distributed.device_of(place) == 0


def test_a_time_out_is_given_unless_the_caller_has_one():
    received = []
    ten, two = datetime.timedelta(seconds=10), datetime.timedelta(seconds=2)
    timed = distributed.with_timeout(ten, lambda *args, **kwargs: received.append((args, kwargs["timeout"])))
    timed([0, 1])
    timed([0], timeout=two)
    distributed.with_timeout(two, timed)()  # a second job in one process
    assert received == [(([0, 1],), ten), (([0],), two), ((), two)]


@pytest.mark.parametrize("seconds", [0, -1.0])
def test_a_time_out_that_is_not_positive_is_refused(cfg, seconds):
    cfg.model = types.SimpleNamespace(moe_timeout=seconds)
    with pytest.raises(ValueError, match="--moe-timeout.*above 0"):
        distributed.distributed_init(None, cfg)


@pytest.mark.parametrize("backend", ["pytorch_ddp", "c10d", "fully_sharded", "slowmo"])
def test_a_ddp_backend_that_needs_gpus_is_refused_on_the_cpu(backend):
    args = types.SimpleNamespace(ddp_backend=backend)
    with pytest.raises(ValueError, match=f"--ddp-backend {backend} needs GPUs.*legacy_ddp"):
        models.DistributedFairseqModel(args, torch.nn.Linear(2, 2), process_group=None, device=torch.device("cpu"))


def test_processes_of_a_launcher_that_did_not_meet_do_not_train(cfg, torchrun):
    torchrun(rank=1, world_size=2)
    cfg.common.tpu = False
    with pytest.raises(ValueError, match="torchrun started 2 processes, and this one would train alone.*hydra_train"):
        distributed.check_not_alone(None, None, cfg)
