"""Options and errors of task gpt."""

import base64
import logging
import shutil

import pytest

from data_prep.tokenizers import load_tokenizer, save_tokenizer
from data_prep.tokenizers.dictionary import dictionary_text
from fairseq_mhmoe.data.text import SentencePieceText

EOS = 2
DOCUMENTS = [[*range(4, 14), EOS]] * 4


@pytest.fixture
def folder(tmp_path, write_folder):
    return write_folder(tmp_path / "data", train=DOCUMENTS, valid=DOCUMENTS)


def first_batch(task, split="train", **kwargs):
    task.load_dataset(split)
    return task.get_batch_iterator(task.dataset(split), max_sentences=8, **kwargs).first_batch


def test_pad_to_max_len_gives_every_batch_one_shape(make_task, tmp_path, write_folder):
    folder = write_folder(tmp_path / "data", train=[[5, 6, 7, EOS]])
    shape = {}
    for words in ([], ["--pad-to-max-len"]):
        batch = first_batch(make_task(folder, "--tokens-per-sample", 16, *words))
        shape[len(words)] = tuple(batch["net_input"]["src_tokens"].shape)
        assert batch["target"].shape == shape[len(words)] and batch["ntokens"] == 4
    assert shape == {0: (1, 4), 1: (1, 16)}


@pytest.mark.parametrize(
    "words, expected", [([], 10), (["--batch-read-ahead", 0], 0), (["--batch-read-ahead", 100], 100)]
)
def test_batch_read_ahead_sets_how_many_batches_wait(make_task, folder, words, expected):
    task = make_task(folder, *words)
    task.load_dataset("train")
    iterator = task.get_batch_iterator(task.dataset("train"), max_sentences=2, data_buffer_size=10)
    assert iterator.buffer_size == expected


def test_the_folders_spm_model_makes_pieces_and_text(make_task, tiny_data_dir):
    bpe = make_task(tiny_data_dir).build_bpe(None)
    assert bpe.decode(bpe.encode("The naïve river.")) == "The naïve river."


def test_spm_model_names_another_model(make_task, tmp_path, tiny_data_dir):
    without = tmp_path / "data"
    without.mkdir()
    shutil.copyfile(tiny_data_dir / "dict.txt", without / "dict.txt")
    assert make_task(without).build_bpe(None) is None
    model = tiny_data_dir / "spm.model"
    assert isinstance(make_task(without, "--spm-model", model).build_bpe(None), SentencePieceText)


@pytest.mark.parametrize("by_option", [False, True])
def test_a_tiktoken_file_makes_ranks_and_text(make_task, tmp_path, by_option):
    """A vocabulary of all bytes and "th", which is the folder's own or named by --tiktoken-model."""
    tokens = [*(bytes([byte]) for byte in range(256)), b"th"]
    ranks = tmp_path / "ranks.tiktoken"
    ranks.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)))
    tokenizer, folder = load_tokenizer(ranks), tmp_path / "data"
    folder.mkdir()
    (folder / "dict.txt").write_text(dictionary_text(tokenizer.symbols))
    if not by_option:
        save_tokenizer(tokenizer, folder)
    task = make_task(folder, tiktoken_model=str(ranks) if by_option else None)
    bpe = task.build_bpe(None)
    assert bpe.encode("that") == "256 97 116" and bpe.decode(bpe.encode("the naïve")) == "the naïve"
    ids = task.dictionary.encode_line(bpe.encode("that"), append_eos=False, add_if_not_exist=False)
    assert ids.tolist() == tokenizer.encode(["that"])[0].tolist()


def test_spm_model_beside_bpe_is_said_to_have_no_effect(make_task, tiny_data_dir, caplog):
    from fairseq.data.encoders.characters import Characters
    from omegaconf import OmegaConf

    task = make_task(tiny_data_dir, "--spm-model", tiny_data_dir / "spm.model")
    with caplog.at_level(logging.WARNING):
        bpe = task.build_bpe(OmegaConf.create({"_name": "characters"}))
    assert isinstance(bpe, Characters) and "--spm-model has no effect beside --bpe" in caplog.text


def test_output_dictionary_size_cuts_the_targets(make_task, folder):
    batch = first_batch(make_task(folder, "--output-dictionary-size", 10))
    assert batch["target"].max() < 10 <= batch["net_input"]["src_tokens"].max()


def test_combined_training_files_are_read_and_checked(make_task, tmp_path, write_folder):
    folder = write_folder(tmp_path / "data", train=DOCUMENTS, train1=DOCUMENTS)
    task = make_task(folder, "--tokens-per-sample", 4)
    task.load_dataset("train", combine=True)
    assert len(task.dataset("train")) == 22
    write_folder(folder, train1=[[99, EOS]])
    with pytest.raises(ValueError, match="train1.bin holds token 99"):
        task.load_dataset("train", combine=True)


def test_several_folders_are_read_one_an_epoch(make_task, tmp_path, write_folder):
    first = write_folder(tmp_path / "a", train=DOCUMENTS)
    second = write_folder(tmp_path / "b", train=DOCUMENTS[:1])
    task = make_task(f"{first}:{second}", "--tokens-per-sample", 11)
    lengths = []
    for epoch in (1, 2, 3):
        task.load_dataset("train", epoch=epoch)
        lengths.append(len(task.dataset("train")))
    assert lengths == [4, 1, 4]


@pytest.mark.parametrize(
    "words, message",
    [
        (["--tokens-per-sample", 0], "--tokens-per-sample is 0"),
        (["--tokens-per-sample", 64, "--max-target-positions", 32], "64 is more than --max-target-positions 32"),
        (["--batch-read-ahead", -1], "--batch-read-ahead is -1; expected 0 or more"),
        (["--spm-model", "none.model"], "--spm-model: no file none.model"),
    ],
)
def test_impossible_options_are_refused(make_task, folder, words, message):
    with pytest.raises(ValueError, match=message):
        make_task(folder, *words)


def test_a_missing_folder_is_an_error(make_task, tmp_path):
    with pytest.raises(ValueError, match="no data folder .*data_prep.demo_english"):
        make_task(tmp_path / "none")


def test_a_missing_split_is_an_error_that_lists_the_folder(make_task, folder):
    with pytest.raises(ValueError, match="no split 'test' in .*data.*found: dict.txt, train.bin, train.idx, valid.bin"):
        make_task(folder).load_dataset("test")


def test_another_vocabulary_is_an_error(make_task, tmp_path, write_folder):
    folder = write_folder(tmp_path / "data", train=[[5, 50, EOS]])
    with pytest.raises(ValueError, match="wrong vocabulary: .*token 50, the dictionary has 50"):
        make_task(folder).load_dataset("train")


def test_samples_that_are_too_long_are_an_error_and_not_left_out(make_task, folder):
    task = make_task(folder, "--sample-break-mode", "eos")
    with pytest.raises(ValueError, match="4 samples of up to 11 tokens are longer than 8.*--sample-break-mode none"):
        first_batch(task, max_positions=8, ignore_invalid_inputs=True)


def test_a_document_may_be_longer_than_fairseqs_16_bits(make_task, tmp_path, write_folder):
    folder = write_folder(tmp_path / "data", train=[[5] * 65536])
    task = make_task(folder, "--sample-break-mode", "eos")
    task.load_dataset("train")
    assert task.dataset("train")[0]["target"].tolist() == [5] * 65536


def test_evaluation_takes_blocks_that_the_model_has_positions_for(make_task, folder, caplog):
    task = make_task(folder, "--tokens-per-sample", 1024)
    task.load_dataset("valid")
    with caplog.at_level(logging.WARNING):
        batches = list(task.eval_lm_dataloader(task.dataset("valid"), max_positions=16, batch_size=4, num_workers=0))
    assert "the model has 16 positions" in caplog.text
    assert sum(batch["ntokens"] for batch in batches) == 44
    assert max(batch["target"].shape[1] for batch in batches) == 16


def test_a_context_as_long_as_the_model_is_an_error(make_task, folder):
    task = make_task(folder, "--tokens-per-sample", 16)
    task.load_dataset("valid")
    with pytest.raises(ValueError, match="--context-window 16 leaves none of the model's 16 positions"):
        task.eval_lm_dataloader(task.dataset("valid"), max_positions=16, context_window=16)
