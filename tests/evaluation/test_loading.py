"""Checkpoints as models that can be asked: what is found in them, and what is refused."""

import shutil
from argparse import Namespace

import pytest
import torch

from fairseq_mhmoe.cli.checkpoint import main as checkpoint_command
from fairseq_mhmoe.evaluation.loading import load_checkpoint


def test_a_model_with_its_task_and_tokenizer(tiny_checkpoint, tiny_data_dir):
    loaded = load_checkpoint(tiny_checkpoint("mhmoe"), tiny_data_dir, device="cpu")
    assert not loaded.model.training and loaded.device == torch.device("cpu")
    assert len(loaded.dictionary) == loaded.model.decoder.embed_tokens.num_embeddings
    assert loaded.longest == 32
    assert [(block, layer.config.num_experts) for block, layer in loaded.moe_layers()] == [(0, 6), (1, 6)]
    text = loaded.text()
    assert text.decode(text.encode("the history of the city")) == "the history of the city"


def test_blocks_with_experts_keep_their_numbers(tiny_checkpoint):
    assert [block for block, _ in load_checkpoint(tiny_checkpoint("smoe")).moe_layers()] == [1]
    assert load_checkpoint(tiny_checkpoint("dense")).moe_layers() == []


def test_the_folder_of_the_checkpoint_is_the_default(tiny_checkpoint, tiny_data_dir, tmp_path):
    assert load_checkpoint(tiny_checkpoint("smoe")).data == tiny_data_dir
    elsewhere = tmp_path / "copy"
    shutil.copytree(tiny_data_dir, elsewhere)
    loaded = load_checkpoint(tiny_checkpoint("smoe"), elsewhere)
    assert loaded.data == elsewhere and loaded.task.args.data == str(elsewhere)


def test_options_of_the_task_can_be_changed(tiny_checkpoint):
    changes = {"tokens_per_sample": 16, "sources": None, "no_option_of_any_task": None}
    assert load_checkpoint(tiny_checkpoint("smoe"), task_changes=changes).task.args.tokens_per_sample == 16
    with pytest.raises(ValueError, match="was trained with task gpt, which has no --no-option-of-any-task 3"):
        load_checkpoint(tiny_checkpoint("smoe"), task_changes={"no_option_of_any_task": 3})


def test_a_checkpoint_of_two_ranks_is_the_same_model(tiny_checkpoint, tmp_path):
    spread = tmp_path / "checkpoint.pt"
    assert checkpoint_command(["split", str(tiny_checkpoint("mhmoe")), str(spread), "--size", "2"]) == 0
    expected = load_checkpoint(tiny_checkpoint("mhmoe")).model.state_dict()
    found = load_checkpoint(spread).model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_what_is_not_there(tiny_checkpoint, tmp_path):
    with pytest.raises(ValueError, match="no checkpoint .*nothing.pt; expected a file such as"):
        load_checkpoint(tmp_path / "nothing.pt")
    with pytest.raises(ValueError, match="no data folder .*nowhere; name the prepared folder"):
        load_checkpoint(tiny_checkpoint("smoe"), tmp_path / "nowhere")


def test_a_folder_without_tokenizer_has_no_text(tiny_checkpoint, tiny_data_dir, tmp_path):
    shutil.copyfile(tiny_data_dir / "dict.txt", tmp_path / "dict.txt")
    loaded = load_checkpoint(tiny_checkpoint("smoe"), tmp_path)
    with pytest.raises(ValueError, match="has no tokenizer; name the prepared folder"):
        loaded.text()


def test_another_vocabulary_is_refused(tiny_checkpoint, tmp_path):
    (tmp_path / "dict.txt").write_text("".join(f"w{number} 1\n" for number in range(40)))
    with pytest.raises(ValueError, match="trained with a dictionary of 320 symbols, the one of .* has 44"):
        load_checkpoint(tiny_checkpoint("smoe"), tmp_path)


def test_another_kind_of_model_is_refused(tiny_checkpoint, tmp_path):
    state = torch.load(tiny_checkpoint("dense"), weights_only=False)
    state["cfg"]["model"] = Namespace(_name="transformer_lm")
    torch.save(state, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="holds no language model of fairseq_mhmoe"):
        load_checkpoint(tmp_path / "checkpoint.pt")
