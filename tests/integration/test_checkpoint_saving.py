"""What a trainer writes: in one process one ordinary file; of several, one that says where its experts are."""

import errno
from pathlib import Path

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager

from fairseq_mhmoe.checkpoint import reading, writing
from fairseq_mhmoe.checkpoint.stages import STAGES
from fairseq_mhmoe.integration import checkpoint_contents, checkpoint_saving
from fairseq_mhmoe.integration.checkpoint_saving import check_that_files_are_shared


def load(trainer, name="checkpoint_last.pt"):
    return torch.load(Path(trainer.cfg.checkpoint.save_dir, name), weights_only=True)


def test_one_process_writes_one_file_with_all_experts(make_trainer, train):
    trainer = make_trainer()
    train(trainer, 2)
    state = load(trainer)
    assert [path.name for path in Path(trainer.cfg.checkpoint.save_dir).iterdir()] == ["checkpoint_last.pt"]
    weights = dict(trainer.get_model().named_parameters())
    name = next(name for name in weights if name.endswith("experts.w_in"))
    assert state["model"][name].shape[0] == 4 and torch.equal(state["model"][name], weights[name])
    assert "mhmoe_experts" not in state


def test_the_file_names_the_parameters_in_the_order_of_the_optimizer(make_trainer, train):
    trainer = make_trainer()
    train(trainer, 1)
    state = load(trainer)
    names = state["mhmoe_parameters"]
    assert len(names) == len(state["last_optimizer_state"]["state"])
    for number, moments in state["last_optimizer_state"]["state"].items():
        assert moments["exp_avg"].shape == state["model"][names[number]].shape


def test_settings_are_plain_data_where_fairseq_keeps_a_namespace(make_trainer, train):
    trainer = make_trainer("--optimizer", "sgd", "--momentum", "0.9")
    train(trainer, 1)
    cfg = load(trainer)["cfg"]  # weights_only, with no type allowed beside torch's own
    assert isinstance(cfg["optimizer"], dict) and cfg["optimizer"]["momentum"] == 0.9


def test_the_best_loss_survives_the_hooks(make_trainer, train):
    trainer = make_trainer()
    epoch = train(trainer, 1)
    for loss, best in ((3.0, 3.0), (2.0, 2.0), (2.5, 2.0)):
        checkpoint_utils.save_checkpoint(trainer.cfg.checkpoint, trainer, epoch, loss)
        assert checkpoint_utils.save_checkpoint.best == best
        assert load(trainer)["extra_state"]["best"] == best
    assert load(trainer, "checkpoint_best.pt")["extra_state"]["val_loss"] == 2.0
    checkpoint_utils.save_checkpoint.best = None
    checkpoint_utils.load_checkpoint(trainer.cfg.checkpoint, trainer)
    assert checkpoint_utils.save_checkpoint.best == 2.0


def test_the_state_of_one_of_several_ranks_is_marked(make_trainer, tmp_path):
    trainer = make_trainer(place=(1, 2))
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(tmp_path / "crash.pt"), {})
    state = torch.load(tmp_path / "crash.pt", weights_only=True)
    assert not [name for name in state["model"] if ".experts." in name]
    with pytest.raises(ValueError, match="crash.pt was written by one rank alone.*holds no experts"):
        checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "crash.pt"))


def test_a_reference_is_for_one_save_only(make_trainer, monkeypatch):
    trainer, seen, reference = make_trainer(), [], {"folder": "experts/u00000001-00000000"}
    monkeypatch.setattr(checkpoint_saving, "write_experts", lambda cfg, trainer: (reference["folder"], ["entry"]))
    monkeypatch.setattr(checkpoint_saving, "describe_experts", lambda *arguments: reference)

    def stock(cfg, trainer, epoch_itr, val_loss):
        seen.append(trainer.mhmoe_reference)

    checkpoint_saving.save_checkpoint(stock, trainer.cfg.checkpoint, trainer, None, None)
    assert seen == [reference]
    assert trainer.mhmoe_reference is None  # else crash.pt would name the experts of an earlier update


def test_experts_beside_the_file_make_it_whole(make_trainer, train):
    """A group of two of which this process plays both, one after the other."""
    whole = make_trainer()
    train(whole, 2)
    path = Path(whole.cfg.checkpoint.save_dir, "checkpoint_last.pt")
    folder, entries = path.parent / "experts" / "u00000002-00000000", []
    for rank in range(2):
        trainer = make_trainer("--restore-file", path, place=(rank, 2))
        checkpoint_utils.load_checkpoint(trainer.cfg.checkpoint, trainer)
        experts = checkpoint_contents.experts_of(trainer)
        assert all(rows.shape[0] == 2 for part in experts.values() for rows in part.values())
        entries.append(writing.write_shard(folder, rank, 2, experts))
    trainer.mhmoe_reference = writing.write_manifest(folder, entries, {})
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(path.with_name("sharded.pt")), {})
    merged, expected = reading.load_merged(path.with_name("sharded.pt")), load(whole)
    assert list(merged["model"]) == list(expected["model"])
    for name, weights in expected["model"].items():
        assert torch.equal(merged["model"][name], weights)
    for number, moments in expected["last_optimizer_state"]["state"].items():
        assert torch.equal(merged["last_optimizer_state"]["state"][number]["exp_avg_sq"], moments["exp_avg_sq"])


def test_a_failed_save_raises_with_the_file_and_leaves_the_last_one(make_trainer, train, monkeypatch):
    trainer = make_trainer()
    epoch = train(trainer, 1)
    path = Path(trainer.cfg.checkpoint.save_dir, "checkpoint_last.pt")
    before = path.read_bytes()

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left on device.*checkpoint_last.pt"):
        checkpoint_utils.save_checkpoint(trainer.cfg.checkpoint, trainer, epoch, None)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_copy_replaces_a_file_only_as_a_whole(tmp_path, monkeypatch):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"new")
    target.write_bytes(b"old")
    monkeypatch.setattr("shutil.copyfileobj", lambda *args: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match="broken"):
        PathManager.copy(str(source), str(target), overwrite=True)
    assert target.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 2
    monkeypatch.undo()
    assert PathManager.copy(str(source), str(target), overwrite=True)
    assert target.read_bytes() == b"new"


def test_a_save_reports_its_stages(make_trainer, train, monkeypatch, tmp_path):
    monkeypatch.setenv("MHMOE_SAVE_PAUSE", "0")
    monkeypatch.setenv("MHMOE_SAVE_LOG", str(tmp_path / "log"))
    trainer = make_trainer()
    epoch = train(trainer, 1)
    checkpoint_utils.save_checkpoint(trainer.cfg.checkpoint, trainer, epoch, 1.0)
    stages = [line.split()[1] for line in (tmp_path / "log").read_text().splitlines()]
    alone = [stage for stage in STAGES if stage in ("save", "dense", "commit", "copies", "clean", "saved")]
    assert stages == [stage for stage in alone if stage != "copies"] + alone


def test_disks_that_are_not_shared_are_noticed(tmp_path):
    (tmp_path / "here.pt").touch()
    check_that_files_are_shared(tmp_path, [{"file": "here.pt"}])
    with pytest.raises(OSError, match="elsewhere.pt, which another rank wrote: --save-dir must be on storage"):
        check_that_files_are_shared(tmp_path, [{"file": "here.pt"}, {"file": "elsewhere.pt"}])
