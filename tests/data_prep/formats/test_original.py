"""The published code's data folders: files are found, splits and weights kept, every mistake told with its entry."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.formats.original import read_original
from data_prep.recipe import InputFile, Recipe

EN = {"source": ["en0.json", "en1.json"], "source_lang": "en", "weight": 0.7, "name": "wiki", "count": 100}
DE = {"source": ["de.json"], "source_lang": "de", "count": 30, "name": "news"}


@pytest.fixture
def write(tmp_path):
    """write(train=[...], valid=[...]): a data folder with these lists; its files lie in data/."""
    folder = tmp_path / "data"
    (folder / "json").mkdir(parents=True)
    for name in ("en0", "en1", "de", "valid"):
        (folder / f"{name}.json").write_text('{"text": "a"}\n')

    def make(**lists):
        for split, entries in lists.items():
            content = entries if isinstance(entries, str) else json.dumps(entries)
            (folder / "json" / f"{split}.json").write_text(content)
        return folder

    return make


def test_every_file_becomes_an_input_of_its_source_and_split(write):
    folder = write(train=[EN, DE], valid=[{"source": ["valid.json"], "name": "wiki", "weight": 1}])
    files = read_original(folder)
    assert files == [
        InputFile(folder / "en0.json", "jsonl", "wiki", "en", 0.7, "train"),
        InputFile(folder / "en1.json", "jsonl", "wiki", "en", 0.7, "train"),
        InputFile(folder / "de.json", "jsonl", "news", "de", 30.0, "train"),  # the count stands in for the weight
        InputFile(folder / "valid.json", "jsonl", "wiki", "en", 0.7, "valid"),
    ]
    assert Recipe("original", tuple(files)).sources() == ["wiki", "news"]


def test_without_other_lists_the_settings_divide_the_documents(write):
    assert {file.split for file in read_original(write(train=[EN]))} == {None}


def test_a_source_without_name_is_called_by_its_language(write):
    assert read_original(write(train=[{"source": ["de.json"], "source_lang": "de"}]))[0].source == "de"


def test_relative_files_are_looked_up_in_four_places(write, tmp_path, monkeypatch):
    places = {name: tmp_path / where / name for name, where in [
        ("a.json", "data"), ("b.json", "data/json"), ("c.json", "."), ("d.json", "elsewhere")
    ]}  # fmt: skip
    for path in places.values():
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    monkeypatch.chdir(tmp_path / "elsewhere")
    absolute = str(tmp_path / "c.json")
    folder = write(train=[{"source": [*places, absolute], "name": "x"}])
    found = [file.path.resolve() for file in read_original(folder)]
    assert found == [*places.values(), tmp_path / "c.json"]


def test_all_missing_files_are_named_at_once(write):
    folder = write(
        train=[EN, {"source": ["none.json", "de.json"], "name": "x"}], valid=[{"source": ["no"], "name": "y"}]
    )
    with pytest.raises(ValueError, match="2 files are missing") as error:
        read_original(folder)
    assert "train.json: entry 2: none.json" in str(error.value) and "valid.json: entry 1: no" in str(error.value)


@pytest.mark.parametrize(
    "entry, message",
    [
        ("en", "entry 2: str, expected an object"),
        ({"name": "x"}, 'entry 2: no "source"'),
        ({"source": "de.json", "name": "x"}, "entry 2: source is 'de.json', expected list"),
        ({"source": None, "name": "x"}, "entry 2: source is None, expected a list"),
        ({"source": [5], "name": "x"}, r"entry 2: source is \[5\], expected a list of file names"),
        ({"source": ["de.json"]}, 'entry 2: neither "name" nor "source_lang"'),
        ({"source": ["de.json"], "name": "x", "weight": "1"}, "entry 2: weight is '1', expected int or float"),
        ({"source": ["de.json"], "name": "x", "weight": True}, "entry 2: weight is True"),
        ({"source": ["de.json"], "name": "x", "weight": -1}, "entry 2: x: weight is -1.0"),
        ({"source": ["de.json"], "name": "a/b"}, "entry 2: .*a/b"),
        (
            {"source": ["de.json"], "name": "wiki", "weight": 0.1},
            "entry 2: wiki has .*0.1.*0.7.*one language and weight",
        ),
    ],
)
def test_a_wrong_entry_is_an_error_with_its_number(write, entry, message):
    with pytest.raises(ValueError, match=message) as error:
        read_original(write(train=[EN, entry]))
    assert "train.json" in str(error.value)


@pytest.mark.parametrize(
    "content, message", [("{}", "dict, expected a list"), ("[", "no JSON"), ("[]", "name no files")]
)
def test_a_list_that_is_none_is_an_error(write, content, message):
    with pytest.raises(ValueError, match=message):
        read_original(write(train=content))


def test_a_folder_without_lists_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no json/train.json"):
        read_original(tmp_path)


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.text(max_size=5))
ENTRIES = st.lists(VALUES | st.dictionaries(st.sampled_from(list(EN)), VALUES | st.just(["de.json"])), max_size=3)


@given(ENTRIES | VALUES)
def test_any_list_is_read_or_refused(tmp_path_factory, entries):
    folder = tmp_path_factory.mktemp("original")
    (folder / "json").mkdir()
    (folder / "de.json").write_text("")
    (folder / "json/train.json").write_text(json.dumps(entries))
    try:
        files = read_original(folder)
    except ValueError:
        return
    assert all(file.path.is_file() for file in files)
