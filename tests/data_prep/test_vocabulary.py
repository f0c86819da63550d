"""The SentencePiece vocabulary: exact on any text, the same bytes every time, and what it is sampled from."""

import json
import random
from functools import partial

import pytest
import sentencepiece
from fairseq.data import Dictionary
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import text_files, vocabulary
from data_prep.tokenizers.dictionary import dictionary_text
from data_prep.tokenizers.pieces import fairseq_ids
from data_prep.vocabulary import (
    VocabularyTrainer,
    count_characters,
    sample_lines,
    sampling_rates,
    train_sentencepiece,
)
from data_prep.wikitext import plain_text, tidy


@pytest.fixture(scope="module")
def lines(write_articles):
    return [line for _, _, markup in write_articles(80) for line in plain_text(markup).split("\n")]


@pytest.fixture(scope="module")
def model(lines):
    return train_sentencepiece(lines, vocab_size=320)


@pytest.fixture(scope="module")
def processor(model):
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def test_training_twice_gives_the_same_bytes(lines, model):
    assert train_sentencepiece(lines, vocab_size=320) == model


def test_the_size_is_the_one_asked_for(processor):
    assert len(processor) == 320


def test_numbers_are_fairseqs(tmp_path, processor):
    symbols, ids = fairseq_ids(processor)
    path = tmp_path / "dict.txt"
    path.write_text(dictionary_text(symbols), encoding="utf-8")
    dictionary = Dictionary.load(str(path))
    assert len(dictionary) == 320
    assert [dictionary[ids[index]] for index in range(320)] == [processor.IdToPiece(index) for index in range(320)]
    # nothing to translate in a model of our own
    assert ids.tolist() == list(range(320))


@given(st.text(max_size=100))
@settings(max_examples=30)
def test_text_survives_the_round_trip(processor, text):
    text = tidy(text)
    assert processor.DecodeIds(processor.EncodeAsIds(text)) == text


@given(st.text(max_size=50))
@settings(max_examples=30)
def test_no_text_is_unknown(processor, text):
    assert processor.unk_id() not in processor.EncodeAsIds(tidy(text))


def test_line_ends_are_kept(processor):
    assert processor.EncodeAsPieces("a\nb").count("<0x0A>") == 1
    assert processor.DecodeIds(processor.EncodeAsIds("a\nb\nc")) == "a\nb\nc"


def test_too_little_text_for_the_vocabulary_is_an_error():
    with pytest.raises(ValueError, match="vocabulary of 8000 pieces.*--vocab-size"):
        train_sentencepiece(["a few words"], vocab_size=8000)


def test_no_text_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="vocabulary of 320 pieces"):
        train_sentencepiece([], vocab_size=320)
    with pytest.raises(ValueError, match="no training text"):
        VocabularyTrainer(tmp_path, tmp_path / "spm.model", 320).run()


def test_bpe_without_byte_pieces_knows_only_characters_within_the_coverage(lines):
    model = train_sentencepiece([*lines, "\u4e2d"], 150, model_type="bpe", character_coverage=0.99, byte_fallback=False)
    assert model == train_sentencepiece(
        [*lines, "\u4e2d"], 150, model_type="bpe", character_coverage=0.99, byte_fallback=False
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert len(processor) == 150 and not any(map(processor.IsByte, range(150)))
    assert processor.EncodeAsIds("the \u4e2d")[-1] == processor.unk_id()


def test_lines_longer_than_sentencepiece_takes_are_cut(monkeypatch, lines):
    monkeypatch.setattr(vocabulary, "LINE_CHARACTERS", 200)
    monkeypatch.setattr(vocabulary, "LINE_BYTES", 1000)
    assert train_sentencepiece([" ".join(lines)], vocab_size=320)


@pytest.mark.parametrize("alpha, share", [(1.0, 0.1), (0.7, 1 / (1 + 9**0.7)), (0.3, 1 / (1 + 9**0.3)), (0.0, 0.5)])
def test_shares_of_the_sample_are_as_p_to_alpha(alpha, share):
    characters = {"few": 100, "many": 900, "none": 0}
    for budget in (500, 10**6):
        rates = sampling_rates(characters, alpha, budget)
        assert rates.keys() == {"few", "many"}
        size = min(budget, 1000)
        assert rates["few"] * 100 == pytest.approx(share * size)
        assert rates["many"] * 900 == pytest.approx((1 - share) * size)


def test_text_within_the_budget_is_taken_once_without_rounding():
    assert set(sampling_rates({"a": 3, "b": 7, "c": 1 / 3}, 1.0, 11).values()) == {1.0}


@pytest.fixture()
def text_folder(tmp_path, monkeypatch, lines):
    """Two sources in three files, whose documents are a few lines each; segments of 300 bytes."""
    monkeypatch.setattr(vocabulary, "read_texts", partial(text_files.read_texts, segment_bytes=300))
    monkeypatch.setattr(vocabulary, "segments_of", partial(text_files.segments_of, segment_bytes=300))
    for name, part in (
        ("en/train/00000", lines[:30]),
        ("en/train/00001", lines[30:90]),
        ("de/train/00001", lines[90:100]),
    ):
        path = tmp_path / "text" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        texts = ["\n".join(part[start : start + 2]) for start in range(0, len(part), 2)]
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return tmp_path / "text"


def test_all_lines_are_taken_in_their_order(text_folder, lines):
    trainer = VocabularyTrainer(text_folder, text_folder.parent / "spm.model", vocab_size=320)
    trainer.run()
    assert (text_folder.parent / "spm.model").read_bytes() == train_sentencepiece([*lines[90:100], *lines[:90]], 320)
    sampled = trainer.stats.stats
    assert sampled["de/characters"].total == sum(map(len, lines[90:100]))


def test_a_sample_is_the_same_for_a_seed_and_another_for_others(text_folder):
    def train(seed):
        VocabularyTrainer(text_folder, text_folder.parent / "m", 320, alpha=0.5, characters=4000, seed=seed).run()
        return (text_folder.parent / "m").read_bytes()

    assert train(0) == train(0) != train(1)


@pytest.mark.parametrize("rate", [0.01, 0.3, 1.0, 2.5])
def test_lines_come_as_often_as_the_rate_says(text_folder, rate):
    files = sorted(text_folder.glob("en/train/*.jsonl"))
    draws = 60
    counts = [len(list(sample_lines(files, rate, random.Random(seed)))) for seed in range(draws)]
    lines = len(list(sample_lines(files, 1.0, random.Random(0))))
    assert sum(counts) == pytest.approx(rate * draws * lines, rel=0.3)
    assert (len(set(counts)) > 1) == (rate != 1.0)


def test_a_rate_above_one_repeats_every_line(text_folder):
    path = text_folder / "de/train/00001.jsonl"
    once = list(sample_lines([path], 1.0, random.Random(0)))
    assert list(sample_lines([path], 2.0, random.Random(0))) == [line for line in once for _ in range(2)]


@pytest.mark.parametrize("segments, tolerance", [(1000, 0), (10, 0.3)])
def test_characters_are_counted_or_estimated(text_folder, lines, segments, tolerance):
    files = sorted(text_folder.glob("en/train/*.jsonl"))
    exact = sum(map(len, lines[:90])) + 45  # and the line end within each document
    assert count_characters(files, segments) == pytest.approx(exact, rel=tolerance)
