"""The command mhmoe-checkpoint: what it prints, writes and refuses, and its exit status."""

import json
import subprocess
import sys

import pytest
import torch

from fairseq_mhmoe.checkpoint import load, reference_of, write_dense
from fairseq_mhmoe.cli.checkpoint import main

EXPERTS = "decoder.layers.1.moe_layer.experts.w_in"


def whole_state():
    """One process's state with two parameters, the second with 4 experts."""
    model = {"decoder.layer_norm.weight": torch.ones(3), EXPERTS: torch.arange(8.0).reshape(4, 2)}
    return {
        "cfg": {"model": {"_name": "mhmoe_lm"}, "distributed_training": {"distributed_world_size": 1}},
        "model": model,
        "optimizer_history": [{"num_updates": 12}],
        "extra_state": {"train_iterator": {"epoch": 2}},
        "last_optimizer_state": {
            "state": {index: {"exp_avg": tensor / 2} for index, tensor in enumerate(model.values())},
            "param_groups": [{"params": [0, 1]}],
        },
    }


@pytest.fixture
def one_file(tmp_path):
    write_dense(whole_state(), tmp_path / "checkpoint_one.pt")
    return tmp_path / "checkpoint_one.pt"


@pytest.fixture
def sharded(one_file, tmp_path, capsys):
    path = tmp_path / "checkpoint_split.pt"
    assert main(["split", str(one_file), str(path), "--size", "2"]) == 0
    capsys.readouterr()
    return path


def shard_of(path):
    return path.parent / reference_of(path)["folder"] / "experts-00001-of-00002.pt"


def run(capsys, *words):
    """(exit status, lines of standard output, standard error)."""
    status = main([str(word) for word in words])
    output, errors = capsys.readouterr()
    return status, output.splitlines(), errors


def test_files_and_folders_are_verified(one_file, sharded, capsys):
    assert run(capsys, "verify", one_file) == (0, [f"ok: {one_file}"], "")
    assert run(capsys, "verify", sharded.parent) == (0, [f"ok: {one_file}", f"ok: {sharded}"], "")


def test_damage_is_one_line_and_status_1(one_file, sharded, capsys):
    shard = shard_of(sharded)
    shard.write_bytes(shard.read_bytes()[:-1])
    status, lines, errors = run(capsys, "verify", sharded.parent)
    assert (status, errors) == (1, "")
    assert lines[0] == f"ok: {one_file}"
    assert lines[1].startswith(f"damaged: {sharded} by {shard}: has ") and "its manifest says" in lines[1]
    one_file.write_bytes(b"half")
    status, lines, _ = run(capsys, "verify", one_file)
    assert status == 1 and lines[0].startswith(f"damaged: {one_file}: is not a checkpoint")


def test_files_with_code_are_refused(tmp_path, capsys):
    torch.save({"loader": main}, tmp_path / "checkpoint.pt")
    status, lines, _ = run(capsys, "verify", tmp_path)
    assert status == 1 and len(lines) == 1
    assert lines[0].startswith(f"refused: {tmp_path / 'checkpoint.pt'}")
    assert "fairseq_mhmoe.cli.checkpoint.main" in lines[0]
    status, _, errors = run(capsys, "info", tmp_path / "checkpoint.pt")
    assert status == 1 and errors.startswith("mhmoe-checkpoint: error: ") and errors.count("\n") == 1


def test_what_is_in_a_checkpoint(sharded, tmp_path, capsys):
    status, lines, _ = run(capsys, "info", sharded, "--json", tmp_path / "info.json", "--verbose")
    assert status == 0
    shown = {line[:22].rstrip(): line[22:] for line in lines}
    assert shown["updates"] == "12" and shown["epoch"] == "2" and shown["architecture"] == "mhmoe_lm"
    assert shown["parameters"] == "3 dense, 8 expert"
    assert shown["expert-parallel size"] == "2" and shown["optimizer"] == "yes" and shown["EMA"] == "no"
    assert lines[-1].split() == [EXPERTS, "expert", "float32", "(4,", "2)"]
    figures = json.loads((tmp_path / "info.json").read_text())
    assert figures["parameters"] == {"dense": 3, "expert": 8} and len(figures["tensors"]) == 2


def test_split_and_merge_give_the_file_back(one_file, sharded, tmp_path, capsys):
    again = tmp_path / "again.pt"
    assert run(capsys, "merge", sharded, again) == (0, [f"written: {again}"], "")
    assert reference_of(again) is None
    found, expected = load(again), whole_state()
    assert list(found["model"]) == list(expected["model"])
    for index, name in enumerate(expected["model"]):
        assert torch.equal(found["model"][name], expected["model"][name])
        assert torch.equal(found["last_optimizer_state"]["state"][index]["exp_avg"], expected["model"][name] / 2)


@pytest.mark.parametrize("command", [["merge"], ["split", "--size", "4"]])
def test_files_are_only_replaced_by_force(one_file, sharded, command, capsys):
    before = one_file.read_bytes()
    status, _, errors = run(capsys, command[0], sharded, one_file, *command[1:])
    assert status == 2 and errors == f"mhmoe-checkpoint: error: {one_file} exists; name another file, or add --force\n"
    assert one_file.read_bytes() == before
    assert run(capsys, command[0], sharded, one_file, "--force", *command[1:])[0] == 0
    assert run(capsys, "verify", one_file)[0] == 0
    assert one_file.read_bytes() != before


@pytest.mark.parametrize(
    "words, message",
    [
        (["verify", "nothing.pt"], "nothing.pt is not a file"),
        (["verify", "empty"], "empty has no checkpoint*.pt"),
        (["info", "empty"], "empty is not a file"),
        (["merge", "nothing.pt", "out.pt"], "nothing.pt is not a file"),
        (["merge", "checkpoint_one.pt", "empty"], "empty exists; name another file"),
        (["merge", "checkpoint_one.pt", "nowhere/out.pt"], "nowhere is not a folder"),
        (["split", "checkpoint_one.pt", "out.pt", "--size", "3"], "can't be split over 3 ranks; [1, 2, 4] would fit"),
        (["split", "checkpoint_one.pt", "out.pt", "--size", "1"], "size 1: at least 2"),
    ],
)
def test_what_can_not_be_done_is_one_line_and_status_2(one_file, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    status, lines, errors = run(capsys, *words)
    assert (status, lines) == (2, [])
    assert errors.startswith("mhmoe-checkpoint: error: ") and errors.count("\n") == 1 and message in errors
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint_one.pt", "empty"]


@pytest.mark.parametrize("words", [[], ["check"], ["split", "a", "b"], ["split", "a", "b", "--size", "two"]])
def test_wrong_words_are_one_line_and_status_2(capsys, words):
    with pytest.raises(SystemExit) as caught:
        main(words)
    errors = capsys.readouterr().err
    assert caught.value.code == 2
    assert errors.startswith("mhmoe-checkpoint") and errors.count("\n") == 1


def test_damaged_sources_are_status_1(sharded, tmp_path, capsys):
    shard_of(sharded).unlink()
    status, _, errors = run(capsys, "merge", sharded, tmp_path / "out.pt")
    assert status == 1 and "experts-00001-of-00002.pt: is missing" in errors


def test_it_is_a_program(one_file):
    command = [sys.executable, "-W", "ignore", "-m", "fairseq_mhmoe.cli.checkpoint", "verify", str(one_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, f"ok: {one_file}\n"), done.stderr
