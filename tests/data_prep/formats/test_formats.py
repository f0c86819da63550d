"""All formats alike: a file's format is found, and whatever a file holds, it is read or refused with its name."""

import bz2
import gzip
import io
import json
import lzma

import pytest
import zstandard
from datatrove.data import Document
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.formats import FORMATS, Rejected, format_of
from data_prep.opening import DamagedFile, open_input

TEXT = "A river is water that flows, naïve or not. " * 3
PO = 'msgid ""\nmsgstr "Language: de\\n"\n\nmsgid "A river"\nmsgstr "Ein Fluss"\n\nmsgid "A sea"\nmsgstr "Ein Meer"\n'
SAMPLES = {
    "jsonl": "".join(json.dumps({"text": TEXT, "meta": {"source": "x"}}) + "\n" for _ in range(3)),
    "text": f"{TEXT}\n\n{TEXT}\n{TEXT}\n\n{TEXT}\n",
    "wikipedia": "<mediawiki>"
    + f"<page><title>T</title><ns>0</ns><id>1</id><revision><text>{TEXT}</text></revision></page>" * 3
    + "</mediawiki>",
    "wikiextractor": f'<doc id="1" url="https://en.wikipedia.org/wiki?curid=1" title="T">\nT\n\n{TEXT}\n</doc>\n' * 3,
    "po": PO,
    "mediawiki-i18n": json.dumps({"@metadata": {"authors": ["A"]}, "a": TEXT, "b": TEXT}, indent=4),
}
COMPRESS = [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.compress]


def test_every_format_has_a_sample_here():
    assert set(FORMATS) == set(SAMPLES)
    assert all(format.name == name for name, format in FORMATS.items())


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    return path


def read_all(path, name):
    """Every record, documents cleaned; checks what holds for all of them."""
    records = []
    with open_input(path) as stream:
        for record in FORMATS[name].read(stream, str(path)):
            records.append(record)
            if isinstance(record, Rejected):
                assert record.reason and record.position
                continue
            assert isinstance(record, Document) and record.id
            if FORMATS[name].clean(record) is None:
                assert record.text
                assert not set("\0\u2581\r") & set(record.text)
                json.dumps([record.text, record.id, record.metadata], ensure_ascii=False).encode("utf-8")
    return records


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_are_read_whole(tmp_path, name):
    records = read_all(write(tmp_path, "file", SAMPLES[name].encode()), name)
    documents = [record for record in records if isinstance(record, Document)]
    assert len(documents) == (2 if name in ("po", "mediawiki-i18n") else 3)


@pytest.mark.parametrize("name", SAMPLES)
@settings(max_examples=40)
@given(
    start=st.floats(0, 1),
    removed=st.integers(0, 60),
    inserted=st.binary(max_size=12)
    | st.sampled_from([b"\xef\xbb\xbf", b"\r\n\r\n", b"\0", b"\xff\xfe", b"\xed\xa0\x80"]),
    compress=st.sampled_from(COMPRESS),
    cut=st.none() | st.floats(0, 1),
)
def test_a_changed_file_is_read_or_refused_with_its_name(
    tmp_path_factory, name, start, removed, inserted, compress, cut
):
    content = SAMPLES[name].encode()
    position = int(start * len(content))
    content = compress(content[:position] + inserted + content[position + removed :])
    content = content if cut is None else content[: int(cut * len(content))]
    path = write(tmp_path_factory.mktemp("fuzz"), "file", content)
    try:
        read_all(path, name)
    except DamagedFile as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("name", SAMPLES)
@settings(max_examples=20)
@given(content=st.binary(max_size=80))
def test_any_bytes_are_read_or_refused_with_the_name(tmp_path_factory, name, content):
    path = write(tmp_path_factory.mktemp("fuzz"), "file", content)
    try:
        read_all(path, name)
    except DamagedFile as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("content", [b"", b"\n\r\n", b"\xef\xbb\xbf"])
def test_files_of_nothing_have_no_documents_or_are_damaged_where_something_must_stand(tmp_path, name, content):
    path = write(tmp_path, "file", content)
    if name in ("wikipedia", "mediawiki-i18n"):
        with pytest.raises(DamagedFile, match="file"):
            read_all(path, name)
    else:
        assert not [record for record in read_all(path, name) if isinstance(record, Document)]


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_line_ends_and_a_byte_order_mark_change_no_text(tmp_path, name):
    def texts(content):
        return [r.text for r in read_all(write(tmp_path, "file", content), name) if isinstance(r, Document)]

    content = SAMPLES[name].encode()
    assert texts(b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n")) == texts(content)


@pytest.mark.parametrize(
    "file, sample, name",
    [
        ("arxiv_0.jsonl", "jsonl", "jsonl"),
        ("C4-train.00000.JSON", "jsonl", "jsonl"),
        ("en.json", "mediawiki-i18n", "mediawiki-i18n"),
        ("books.txt", "jsonl", "text"),
        ("enwiki-pages-articles.xml", "wikipedia", "wikipedia"),
        ("enwiki-pages-articles1.xml-p1p41242", "wikipedia", "wikipedia"),
        ("wiki_00", "wikiextractor", "wikiextractor"),
        ("part-0", "jsonl", "jsonl"),
        ("django.po", "po", "po"),
    ],
)
@pytest.mark.parametrize("ending, compress", list(zip(["", ".gz", ".bz2", ".xz", ".zst"], COMPRESS)))
def test_name_and_first_bytes_tell_the_format(tmp_path, file, sample, name, ending, compress):
    assert format_of(write(tmp_path, file + ending, compress(SAMPLES[sample].encode()))) == name


def test_wikiextractors_json_is_told_from_other_json(tmp_path):
    entry = {"id": "1", "url": "https://en.wikipedia.org/wiki?curid=1", "title": "T", "text": TEXT}
    assert format_of(write(tmp_path, "wiki_00", json.dumps(entry).encode())) == "wikiextractor"


@pytest.mark.parametrize("file", ["wiki_00", "a.json", "a.csv"])
def test_a_format_that_nothing_tells_is_an_error_with_the_choices(tmp_path, file):
    with pytest.raises(ValueError, match=f"{file}: neither .*jsonl.*--format"):
        format_of(write(tmp_path, file, b"some words"))


def test_a_stream_may_be_of_memory():
    assert len(list(FORMATS["jsonl"].read(io.BytesIO(SAMPLES["jsonl"].encode()), "x"))) == 3
