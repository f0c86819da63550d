"""Index files: every good line is a record, every bad one is told with file and line."""

import json
import multiprocessing
import pickle

import pytest
from fairseq.data import Dictionary
from hypothesis import given
from hypothesis import strategies as st

from fairseq_mhmoe.data.index_files import IndexFiles, RecordText, image_file, text_of
from tests.finetuning_data import write_jsonl

TEXTS = st.text(st.characters(blacklist_categories=("Cs",)), max_size=30)


def anything(record):
    """Every record is good."""


def has_number(record):
    """Records need a number."""
    if "n" not in record:
        raise ValueError("no number")


@pytest.fixture
def words():
    """Symbols 0 to 8, <mask> the last."""
    dictionary = Dictionary()
    for symbol in ("▁a", "▁b", "c", "d", "<mask>"):
        dictionary.add_symbol(symbol)
    return dictionary


@given(st.lists(st.dictionaries(TEXTS, TEXTS, max_size=3), min_size=1, max_size=20), st.booleans(), st.integers(0, 20))
def test_records_come_back_whatever_is_in_them(tmp_path_factory, records, escaped, cut):
    folder = tmp_path_factory.mktemp("index")
    parts = [part for part in (records[:cut], records[cut:]) if part]
    paths = [folder / f"{number}.jsonl" for number in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        lines = [json.dumps(record, ensure_ascii=escaped) for record in part]
        path.write_bytes("\n\n".join(lines).encode())  # a blank line between two, none at the end
    index = IndexFiles(paths, anything)
    assert [index[number] for number in range(len(index))] == records
    assert index.bad_lines == 0


def test_a_long_line_is_read_in_several_pieces(tmp_path):
    records = [{"text": "x" * length} for length in (4080, 4085, 4096, 20_000, 1)]
    index = IndexFiles([write_jsonl(tmp_path / "a.jsonl", records)], anything)
    assert [index[number] for number in range(5)] == records


def test_bad_lines_are_left_out_and_told(tmp_path, caplog):
    lines = [json.dumps({"n": number}) for number in range(60)]
    lines[7], lines[30], lines[41] = '{"n": 7', "[1]", "{}"
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines))
    index = IndexFiles([path], has_number)
    assert (len(index), index.bad_lines) == (57, 3)
    assert index[7] == {"n": 8} and index.place(7) == f"{path}, line 9"
    for words in ("a.jsonl, line 8: no JSON", "line 31: no JSON object", "line 42: no number", "3 bad lines"):
        assert words in caplog.text


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "no records"), ('{"n": 1}\n{}\n', "1 of 2 lines are bad: .*line 2: no number"), ("x\n", "1 of 1 lines")],
)
def test_a_file_of_another_kind_is_refused(tmp_path, content, words):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(ValueError, match=words):
        IndexFiles([tmp_path / "a.jsonl"], has_number)
    with pytest.raises(ValueError, match="no index file .*b.jsonl; found: a.jsonl"):
        IndexFiles([tmp_path / "b.jsonl"], has_number)


def test_other_processes_read_the_same_records(tmp_path):
    index = IndexFiles([write_jsonl(tmp_path / "a.jsonl", [{"n": number} for number in range(50)])], anything)
    assert index[3] == {"n": 3}  # the file is open when the processes start
    again = pickle.loads(pickle.dumps(index))
    assert again[49] == {"n": 49}
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(index.__getitem__, range(50)) == [{"n": number} for number in range(50)]


def test_a_file_that_changes_is_noticed(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"n": 1}, {"n": 2}])
    index = IndexFiles([path], anything)
    path.write_text('{"another": 1}\n{"n": 2}\n')
    with pytest.raises(ValueError, match="line 2: the file has changed"):
        index[1]


@pytest.mark.parametrize("name", [None, "", 3, "/etc/passwd", "../secret.png", "a/../../b.png", "a\0b"])
def test_an_image_outside_of_its_folder_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="the image"):
        image_file(tmp_path, name)


def test_an_image_lies_in_its_folder(tmp_path):
    assert image_file(tmp_path, "val2014/1.jpg") == tmp_path / "val2014/1.jpg"


def test_token_numbers_stand_between_the_symbols_of_a_text(words):
    text = RecordText(words, None, longest=5)
    assert text.tokens({"text_segment": [4, 5]}).tolist() == [0, 4, 5, 2]
    assert text.tokens({"text_segment": [4, 5, 6, 7, 4]}).tolist() == [0, 4, 5, 6, 2]


@pytest.mark.parametrize("token", [2, 8, 9, -1, True, 4.0, "4"])
def test_a_token_of_another_dictionary_is_refused(words, token):
    text = RecordText(words, None, longest=5)
    text.check({"text_segment": [3, 7]})
    with pytest.raises(ValueError, match="is not in the dictionary; expected numbers from 3 to 7"):
        text.check({"text_segment": [4, token]})


@pytest.mark.parametrize("record", [{}, {"text_segment": []}, {"text_segment": None}, {"text": [4, 5]}, {"text": 4}])
def test_a_record_without_text_is_refused(words, record):
    with pytest.raises(ValueError, match="no text: expected"):
        text_of(record)


def test_strings_need_a_tokenizer(words, tmp_path):
    with pytest.raises(ValueError, match="no spm.model to encode it with"):
        RecordText(words, None, 5).check({"text": "a b"})
    with pytest.raises(ValueError, match="the text is empty"):
        RecordText(words, tmp_path / "spm.model", 5).check({"text_segment": "  "})


def test_strings_become_the_tokens_of_the_prepared_text(tiny_data_dir):
    from fairseq_mhmoe.data.text import SentencePieceText

    dictionary = Dictionary.load(str(tiny_data_dir / "dict.txt"))
    symbols = SentencePieceText(tiny_data_dir / "spm.model", dictionary).encode("the city of the river").split()
    text = RecordText(dictionary, tiny_data_dir / "spm.model", 64)
    pickle.loads(pickle.dumps(text))
    found = text.tokens({"text": "the city of the river"}).tolist()
    assert [dictionary[token] for token in found] == ["<s>", *symbols, "</s>"]
