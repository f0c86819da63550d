"""Reading checkpoint files: nothing in them runs, damage is named, and every rank gets the experts that it holds."""

import io
import pickle
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from fairseq import checkpoint_utils

import fairseq_mhmoe  # noqa: F401  (installs the hooks)
from fairseq_mhmoe.moe.parallel import is_expert


class RunsCode:
    def __reduce__(self):
        return (print, ("this must not be printed",))


def test_a_pickle_with_code_is_refused_by_name_and_not_run(tmp_path, capsys):
    path = tmp_path / "foreign.pt"
    torch.save({"model": RunsCode()}, path)
    refusal = "foreign.pt is refused: reading it would run code, it holds (builtins.)?print"
    with pytest.raises(ValueError, match=refusal):
        checkpoint_utils.load_checkpoint_to_cpu(str(path))
    assert "must not be printed" not in capsys.readouterr().out


def archive():
    buffer = io.BytesIO()
    torch.save({"model": {"weight": torch.ones(10000)}}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"not a checkpoint", pickle.dumps([1, 2]), archive()[:-100], archive()[:1000], archive()[:20000]],
    ids=["empty", "text", "pickle", "without its end", "beginning", "half"],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, content):
    path = tmp_path / "damaged.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged.pt: .*--restore-file"):
        checkpoint_utils.load_checkpoint_to_cpu(str(path))


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "none.pt"))


def write(path, state):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return str(path)


def test_a_file_of_old_fairseq_loads_with_its_namespace(tmp_path):
    cfg = {"optimizer": Namespace(momentum=0.9), "distributed_training": {"distributed_world_size": 2}}
    history = [{"optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 3}]
    state = {"cfg": cfg, "model": {}, "optimizer_history": history, "extra_state": {"train_iterator": {}}}
    loaded = checkpoint_utils.load_checkpoint_to_cpu(write(tmp_path / "old.pt", state), {"distributed_world_size": 1})
    assert loaded["cfg"].optimizer.momentum == 0.9
    assert loaded["cfg"].distributed_training.distributed_world_size == 1


def test_code_runs_when_this_very_file_is_trusted(tmp_path, capsys, monkeypatch):
    path = write(tmp_path / "trusted.pt", {"model": RunsCode(), "optimizer_history": [{}], "extra_state": {}})
    monkeypatch.setenv("MHMOE_TRUST_CHECKPOINT", str(tmp_path / "another.pt"))
    with pytest.raises(ValueError, match="is refused"):
        checkpoint_utils.load_checkpoint_to_cpu(path)
    assert "must not be printed" not in capsys.readouterr().out
    monkeypatch.setenv("MHMOE_TRUST_CHECKPOINT", path)
    with pytest.raises(KeyError):  # too little for fairseq, but it was read
        checkpoint_utils.load_checkpoint_to_cpu(path)
    assert "must not be printed" in capsys.readouterr().out


@pytest.mark.parametrize("named", [True, False], ids=["with our list of parameters", "without, as of before"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_takes_its_rows_from_a_single_file(make_trainer, train, rank, named):
    whole = make_trainer("--store-ema")
    train(whole, 2)
    path = Path(whole.cfg.checkpoint.save_dir, "checkpoint_last.pt")
    if not named:
        state = torch.load(path, weights_only=True)
        del state["mhmoe_parameters"]
        torch.save(state, path)
    part = make_trainer("--store-ema", place=(rank, 2))
    checkpoint_utils.load_checkpoint(part.cfg.checkpoint, part)

    rows = slice(2 * rank, 2 * rank + 2)
    moments = {id(p): whole.optimizer.optimizer.state[p]["exp_avg"] for p in whole.get_model().parameters()}
    all_weights, average = dict(whole.get_model().named_parameters()), whole.ema.get_model().state_dict()
    experts = 0
    for name, weights in part.get_model().named_parameters():
        mine = rows if is_expert(weights) else slice(None)
        experts += is_expert(weights)
        assert torch.equal(weights, all_weights[name][mine])
        assert torch.equal(part.ema.get_model().state_dict()[name], average[name][mine])
        found = part.optimizer.optimizer.state[weights]["exp_avg"]
        assert torch.equal(found, moments[id(all_weights[name])][mine])
    assert experts > 0


def test_what_does_not_fit_is_named(make_trainer, train):
    train(make_trainer(), 1)
    other = make_trainer("--moe-expert-count", "2")
    with pytest.raises(ValueError, match=r"architectures match.*experts.w_in: .*\[4, .*\[2, "):
        checkpoint_utils.load_checkpoint(other.cfg.checkpoint, other)


def test_experts_that_can_not_be_split_say_which_would_fit(make_trainer, train):
    train(make_trainer(), 1)
    other = make_trainer("--moe-expert-count", "6", place=(0, 3))
    with pytest.raises(ValueError, match=r"the 4 experts of .* can't be split over 3 ranks; \[1, 2, 4\] would fit"):
        checkpoint_utils.load_checkpoint(other.cfg.checkpoint, other)


def test_every_rank_reads_by_itself_only_where_experts_are_spread(make_trainer, train, monkeypatch):
    train(make_trainer(), 1)
    asked = []
    load = checkpoint_utils.load_checkpoint_to_cpu

    def ask(path, *args, **kwargs):
        asked.append(kwargs["load_on_all_ranks"])
        return load(path, *args, **kwargs)

    monkeypatch.setattr(checkpoint_utils, "load_checkpoint_to_cpu", ask)
    for place in (None, (0, 2)):
        trainer = make_trainer(place=place)
        checkpoint_utils.load_checkpoint(trainer.cfg.checkpoint, trainer)
        assert trainer.cfg.checkpoint.load_checkpoint_on_all_dp_ranks is False
    assert asked == [False, True]


def test_models_for_use_hold_all_experts(make_trainer, train):
    trainer = make_trainer()
    train(trainer, 1)
    path = Path(trainer.cfg.checkpoint.save_dir, "checkpoint_last.pt")
    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(path)])
    expected = trainer.get_model().state_dict()
    assert all(torch.equal(weights, expected[name]) for name, weights in model.state_dict().items())


def test_the_average_of_a_sharded_checkpoint_is_not_read_in_part(tmp_path):
    reference = {"format": 1, "folder": "experts/u00000001-00000000", "manifest_sha256": "0" * 64}
    path = write(tmp_path / "sharded.pt", {"mhmoe_experts": reference, "extra_state": {"ema": {}}})
    with pytest.raises(ValueError, match="sharded.pt has its experts in other files.*mhmoe-checkpoint merge"):
        checkpoint_utils.load_ema_from_checkpoint(path)
