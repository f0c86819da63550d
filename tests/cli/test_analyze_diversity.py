"""`mhmoe-analyze diversity`: its figures against loops over the text, its page, and what it refuses."""

import json
import re
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.image import imread

from fairseq_mhmoe.analysis.diversity_run import bytes_of
from fairseq_mhmoe.cli.analyze import main
from fairseq_mhmoe.evaluation.loading import load_checkpoint
from fairseq_mhmoe.evaluation.routing import route

WORDS = ["city", "river", "the", "absent"]


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint):
    """6 experts, 3 heads, 2 choices, 2 MoE layers."""
    return tiny_checkpoint("mhmoe")


@pytest.fixture(scope="module")
def analysis(tmp_path_factory, tiny_data_dir, checkpoint):
    """Folder with what the command wrote, for a list of the user's own, and a page of 100 tokens."""
    folder = tmp_path_factory.mktemp("analysis")
    (folder / "mine.txt").write_text("\n".join(WORDS))
    words = ["--words", folder / "mine.txt", "--html", folder / "text.html", "--html-tokens", 100, "--min-count", 3]
    words = ["diversity", checkpoint, tiny_data_dir, "--output", folder, "--batch-size", 3, "--device", "cpu", *words]
    assert main([*map(str, words)]) == 0
    return folder


@pytest.fixture(scope="module")
def found(analysis):
    return json.loads((analysis / "diversity.json").read_text())


@pytest.fixture(scope="module")
def by_hand(checkpoint, tiny_data_dir):
    """(symbol, diversity, first choice's) of each token of the split, in order, one block at a time."""
    loaded = load_checkpoint(checkpoint, tiny_data_dir, "cpu")
    loaded.task.load_dataset("valid")
    dataset = loaded.task.dataset("valid")
    tokens = []
    for index in range(len(dataset)):
        row = dataset[index]["source"]
        layers, _ = route(loaded, row[None])
        assert len(layers) == 2
        for place, token in enumerate(row.tolist()):
            chosen = [layer.wanted[0, place].tolist() for layer in layers]
            every = np.mean([len({each for head in layer for each in head}) for layer in chosen])
            first = np.mean([len({head[0] for head in layer}) for layer in chosen])
            tokens.append((loaded.dictionary[token], every, first))
    return tokens


def test_means_are_those_of_loops(found, by_hand):
    real = [(every, first) for symbol, every, first in by_hand if symbol != "</s>"]
    assert found["tokens"]["tokens"] == len(real) > 500
    assert (found["tokens"]["mean"], found["tokens"]["mean_first_choice"]) == pytest.approx(
        tuple(np.mean(real, axis=0))
    )
    assert (found["experts"], found["heads"], found["top_k"], found["largest_possible"]) == (6, 3, 2, 6)
    assert found["tokens"]["expected_uniform"] == pytest.approx(6 * (1 - (2 / 3) ** 3))


def text_of(piece):
    """Text of a SentencePiece piece; of a byte piece that is no ASCII a sign."""
    byte = re.fullmatch("<0x(..)>", piece)
    if byte:
        return chr(int(byte.group(1), 16)) if byte.group(1) < "80" else "?"
    return piece.lstrip("\u2581")


def words_by_hand(by_hand):
    """{word: values} with words cut at SentencePiece's mark, and signs of their ends taken off."""
    words, current = defaultdict(list), []

    def finish():
        pieces = [text_of(piece) for piece, _ in current]
        text = "".join(pieces)
        for match in re.finditer(r"[^\W\d_]+(?:'[^\W\d_]+)*", text):
            word, ends = match.group(), np.cumsum([len(piece) for piece in pieces])
            stop = match.end() - 2 if word.endswith("'s") else match.end()
            values = [
                value
                for (_, value), end, piece in zip(current, ends, pieces, strict=True)
                if end > match.start() and end - len(piece) < stop and piece
            ]
            words[word.removesuffix("'s").lower()].append(np.mean(values))

    for symbol, value, _ in by_hand:
        if symbol == "</s>" or symbol.startswith("\u2581"):
            finish()
            current = []
        if symbol != "</s>":
            current.append((symbol, value))
    finish()
    return words


def test_words_are_those_of_loops(found, by_hand):
    words = {word: values for word, values in words_by_hand(by_hand).items() if word.isascii()}
    others = [each for each in words if each not in WORDS]
    assert len(others) > 30
    [compared] = found["lists"]
    inside = [value for word in WORDS for value in words.get(word, [])]
    assert (compared["name"], compared["words"], compared["words_matched"]) == ("mine", 4, 3)
    assert compared["occurrences"] == len(inside) > 10
    assert compared["all_choices"]["mean"] == pytest.approx(np.mean(inside))
    for row in (*found["by_word"]["top"], *found["by_word"]["bottom"]):
        if row["text"].isascii():
            values = words[row["text"]]
            assert (row["count"], row["mean"]) == (len(values), pytest.approx(np.mean(values)))
    assert sum(compared["histogram"]["list"]) == sum(compared["histogram"]["rest"]) == pytest.approx(1)


def test_tokens_of_the_tables_are_those_of_loops(found, by_hand):
    values = defaultdict(list)
    for symbol, value, _ in by_hand:
        byte = re.fullmatch("<0x([0-7].)>", symbol)  # the tables show ASCII as it is
        values[chr(int(byte.group(1), 16)) if byte else symbol].append(value)
    assert found["by_token"]["enough"] == sum(len(each) >= 3 for symbol, each in values.items() if symbol != "</s>")
    rows = [*found["by_token"]["top"], *found["by_token"]["bottom"]]
    assert len(rows) == 30 and rows[0]["mean"] >= rows[14]["mean"] >= rows[29]["mean"] >= rows[15]["mean"]
    for row in rows:
        if not row["text"].startswith("\\"):
            assert (row["count"], row["mean"]) == (
                len(values[row["text"]]),
                pytest.approx(np.mean(values[row["text"]])),
            )


def test_picture_and_page_are_there(analysis, by_hand):
    assert imread(analysis / "diversity.png").shape[0] > 400
    page = (analysis / "text.html").read_text(encoding="utf-8")
    spans = re.findall(r'<span class="c\d+(?: u)?" title="([\d.]+), by first choice ([\d.]+)">', page)
    real = [(every, first) for symbol, every, first in by_hand if symbol != "</s>"][:100]
    assert spans == [(f"{every:.2f}", f"{first:.2f}") for every, first in real]
    assert re.search(r'<span class="c\d+ u" [^>]*> the</span>', page)


def test_raw_text_and_our_lists(tmp_path, checkpoint, tiny_data_dir, capsys):
    (tmp_path / "text.txt").write_text("The river bank.\n\n<b>city</b> \u202e is & was\n" * 20)
    words = ["--text", tmp_path / "text.txt", "--max-tokens", 60, "--html", tmp_path / "text.html", "--device", "cpu"]
    assert main(["diversity", *map(str, [checkpoint, tiny_data_dir, "--output", tmp_path, *words])]) == 0
    found = json.loads((tmp_path / "diversity.json").read_text())
    assert [each["name"] for each in found["lists"]] == ["polysemous", "false_cognates"]
    assert found["lists"][0]["words_matched"] == 1 and 40 < found["tokens"]["tokens"] <= 60
    said = capsys.readouterr()
    assert "polysemous against the rest: 1 of " in said.out and "too few words to tell" in said.out
    assert "100% done" in said.err
    page = (tmp_path / "text.html").read_text(encoding="utf-8")
    assert "<b>" not in page and "U+202E" in page and "&lt;" in page


@pytest.mark.parametrize(
    "words, message",
    [
        (["--html-tokens", "5"], "--html-tokens 5 has no effect without --html FILE"),
        (["--min-count", "0"], "--min-count is 0; expected 1 or more"),
        (["--text", "a", "--split", "test"], "--split and --text both say what to read"),
        (["--words", "none.txt"], "words file none.txt: No such file"),
        (["--words", "LIST", "--words", "LIST"], "expected different names"),
    ],
)
def test_options_that_can_not_be_are_refused(tmp_path, capsys, words, message):
    (tmp_path / "list.txt").write_text("bank\n")
    words = [str(tmp_path / "list.txt") if word == "LIST" else word for word in words]
    assert main(["diversity", "model.pt", "data", *words]) == 2
    assert message in capsys.readouterr().err


def test_words_that_a_file_repeats_are_told(tmp_path, capsys):
    (tmp_path / "list.txt").write_text("bank\nBank\n")
    assert main(["diversity", "model.pt", "data", "--words", str(tmp_path / "list.txt")]) == 2
    said = capsys.readouterr()
    assert f"--words: {tmp_path / 'list.txt'}, line 2: 'Bank' stands in line 1 already" in said.out
    assert "no checkpoint model.pt" in said.err


def test_a_tokenizer_that_does_not_tell_its_pieces_is_refused():
    with pytest.raises(ValueError, match="--bpe: object does not tell the text of tokens"):
        bytes_of(SimpleNamespace(text=object))
