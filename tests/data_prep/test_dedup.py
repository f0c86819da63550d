"""Duplicates: found across files and sources, one of each kept, all counted."""

import json

import pytest

from data_prep.dedup import Words


def test_words_need_no_language():
    assert Words().word_tokenize("the cat  sat\n日本語 です x") == [*"the cat sat".split(), *"日本語です", "x"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, write_jsonl, make_texts):
    """Two files of one source and one of another; 6 copies and 5 near copies, over files and within one."""
    folder = tmp_path_factory.mktemp("corpus")
    texts = make_texts(80, words=60)
    near = [text.replace(text.split()[30], "changed", 1) for text in texts[:5]]
    return {
        "a": [
            write_jsonl(folder / "a0.jsonl", texts[:40]),
            write_jsonl(folder / "a1.jsonl", texts[40:] + texts[10:12]),
        ],
        "b": [write_jsonl(folder / "b.jsonl", make_texts(20, seed=1) + texts[20:23] + texts[22:23] + near)],
    }


def taken_texts(output, manifest, read_texts):
    prefixes = [name[:-4] for split in manifest["splits"].values() for name in split["files"] if name.endswith(".bin")]
    return [text for prefix in prefixes for text in read_texts(output, prefix)]


def test_exact_copies_go_and_one_of_each_stays(tmp_path, corpus, prepare_sources, read_texts):
    manifest = prepare_sources(tmp_path / "out", corpus, exact_dedup=True)
    assert manifest["read"] == 111 and manifest["rejected"] == {"exact_duplicate": 6}
    texts = taken_texts(tmp_path / "out", manifest, read_texts)
    assert len(texts) == len(set(texts)) == 105
    logged = [
        json.loads(line)
        for path in tmp_path.glob("out/work/*/rejected/*.exact_duplicate.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert len(logged) == 6 and {reason for reason, *_ in logged} == {"exact_duplicate"}


@pytest.mark.slow
def test_near_copies_go_too_and_every_record_is_accounted_for(tmp_path, corpus, prepare_sources, read_texts):
    manifest = prepare_sources(tmp_path / "out", corpus, exact_dedup=True, near_dedup=True)
    assert manifest["rejected"] == {"exact_duplicate": 6, "near_duplicate": 5}
    assert len(taken_texts(tmp_path / "out", manifest, read_texts)) == 100
    for source in manifest["sources"].values():
        assert source["read"] == source["accepted"] + sum(source["rejected"].values())
    # copies are near copies of themselves
    alone = prepare_sources(tmp_path / "near", corpus, near_dedup=True)
    assert alone["rejected"] == {"near_duplicate": 11}
