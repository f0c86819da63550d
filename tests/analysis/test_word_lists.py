"""Lists of words: ours, and what is said about the user's own."""

import pytest

from fairseq_mhmoe.analysis.word_lists import SHIPPED, read_word_list, shipped_lists


def test_shipped_lists():
    polysemous, cognates = shipped_lists()
    assert (polysemous.name, cognates.name) == ("polysemous", "false_cognates")
    assert len(polysemous.words) >= 200 and len(cognates.words) >= 100
    assert {"bank", "spring", "match", "bat"} <= polysemous.words
    assert {"gift", "actual", "sensible", "library"} <= cognates.words
    assert not polysemous.repeated and not cognates.repeated


@pytest.mark.parametrize("name", ["polysemous.txt", "false_cognates.txt"])
def test_shipped_files_say_where_they_are_from(name):
    lines = (SHIPPED / name).read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("# Source: ") for line in lines)
    entries = [line.split("\t") for line in lines if not line.startswith("#")]
    assert [entry[0] for entry in entries] == sorted(entry[0] for entry in entries)
    if name == "false_cognates.txt":
        assert all(len(entry) == 4 and entry[1] in ("de", "fr", "es") and all(entry) for entry in entries)
    else:
        assert all(len(entry) == 2 and entry[1] for entry in entries)


def write(tmp_path, content):
    path = tmp_path / "mine.txt"
    path.write_bytes(content)
    return path


def test_a_file_of_ones_own(tmp_path):
    path = write(tmp_path, b"\xef\xbb\xbf# mine\r\nBank\r\n\r\n  caf\xc3\xa9 \tremark, of two words\r\nbank\n")
    found = read_word_list(path)
    assert (found.name, found.words) == ("mine", {"bank", "caf\u00e9"})
    assert found.repeated == (f"{path}, line 5: 'bank' stands in line 2 already",)


def test_bad_lines_are_named(tmp_path):
    path = write(tmp_path, b"bank\nriver bank\n12\nwell-known\n#\nit's\nbank's\n")
    with pytest.raises(ValueError) as error:
        read_word_list(path)
    message = str(error.value)
    assert message.startswith(
        f"{path}: line 2: 'river bank'; line 3: '12'; line 4: 'well-known'; line 6: \"it's\"; line 7"
    )
    assert "expected one word of letters a line" in message
    with pytest.raises(ValueError, match="line 5: '5' and 2 more: expected"):
        read_word_list(write(tmp_path, b"1\n2\n3\n4\n5\n6\n7\n"))


@pytest.mark.parametrize(
    "content, message",
    [(b"bank\nb\xe4r\n", "mine.txt, line 2: no UTF-8"), (b"# nothing\n\n", "mine.txt has no words")],
)
def test_files_that_are_no_list(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_word_list(write(tmp_path, content))


def test_no_file(tmp_path):
    with pytest.raises(ValueError, match="words file .*none.txt: No such file"):
        read_word_list(tmp_path / "none.txt")
