"""Task gpt on a folder of several sources: what is read, and what batches tell."""

import json
import logging

import pytest
import torch

EOS = 2


def documents(first, count, length=4):
    """Documents of the tokens first .. first + 9, which tell the source."""
    return [[first + (number + place) % 10 for place in range(length - 1)] + [EOS] for number in range(count)]


# 10 samples of en, 5 of de, 2 of fr, with 8 tokens a sample; fr has no valid split
SOURCES = {
    "en": {"train": [documents(5, 12), documents(5, 8)], "valid": [documents(5, 4)]},
    "de": {"train": [documents(20, 10)], "valid": [documents(20, 2), documents(20, 1)]},
    "fr": {"train": [documents(35, 4)]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_sources):
    return write_sources(tmp_path_factory.mktemp("sources") / "data", **SOURCES)


@pytest.fixture
def load(make_task):
    """load(folder, split, **fields) -> (task, all batches)"""

    def run(folder, split="train", seed=1, **fields):
        task = make_task(folder, **{"tokens_per_sample": 8, **fields})
        task.load_dataset(split, combine=split == "train")
        iterator = task.get_batch_iterator(task.dataset(split), max_sentences=3, seed=seed)
        return task, list(iterator.next_epoch_itr())

    return run


def tokens_of(batches):
    return sorted(token for batch in batches for token in batch["target"].flatten().tolist() if token != 1)


def all_tokens(split, *names):
    shards = [shard for name in names for shard in SOURCES[name].get(split, [])]
    return sorted(token for shard in shards for document in shard for token in document)


def test_every_token_of_every_source_is_a_target_once(load, folder):
    task, batches = load(folder)
    assert task.source_names == ["en", "de", "fr"]
    assert tokens_of(batches) == all_tokens("train", "en", "de", "fr")


def test_rows_tell_their_source(load, folder):
    _, batches = load(folder)
    for batch in batches:
        assert batch["source"].dtype == torch.int64 and len(batch["source"]) == len(batch["target"])
        for source, row in zip(batch["source"].tolist(), batch["target"], strict=True):
            assert {token // 15 for token in row.tolist() if token > EOS} == {source}


def test_rows_tell_the_bytes_of_their_text(load, folder):
    _, batches = load(folder)
    for batch in batches:
        lengths = batch["target"].ne(1).sum(1)
        # the sources' tokens have 4, 5 and 6 bytes
        assert torch.equal(batch["nbytes"], (lengths * (4 + batch["source"])).double())
    assert sum(batch["nbytes"].sum() for batch in batches) == 80 * 4 + 40 * 5 + 16 * 6


def test_rows_that_fill_a_batch_stand_for_no_bytes(load, folder):
    _, batches = load(folder, "valid", pad_to_fixed_bsz=True, batch_size_valid=5)
    assert batches[0]["target"].shape[0] == 5 > batches[0]["nsentences"]
    assert len(batches[0]["source"]) == 5 and batches[0]["nbytes"][batches[0]["nsentences"] :].sum() == 0


def test_valid_is_all_sources_that_have_it_and_one_by_name(load, folder):
    assert tokens_of(load(folder, "valid")[1]) == all_tokens("valid", "en", "de")
    _, batches = load(folder, "de/valid")
    assert tokens_of(batches) == all_tokens("valid", "de")
    assert all(batch["source"].eq(1).all() for batch in batches)


def test_chosen_sources_are_the_only_ones(load, folder):
    task, batches = load(folder, sources="fr,de")
    assert task.source_names == ["de", "fr"]
    assert tokens_of(batches) == all_tokens("train", "de", "fr")
    assert {number for batch in batches for number in batch["source"].tolist()} == {0, 1}


def test_batches_of_one_source_have_no_source(load, folder):
    _, batches = load(folder, sources="de")
    assert "source" not in batches[0] and "nbytes" in batches[0]


def test_a_flat_folder_has_bytes_where_its_manifest_has(load, tiny_data_dir):
    counts = json.loads((tiny_data_dir / "manifest.json").read_text())["splits"]["valid"]
    task, batches = load(tiny_data_dir, "valid", tokens_per_sample=64)
    assert len(task.source_names) == 1 and "source" not in batches[0]
    assert float(sum(batch["nbytes"].sum() for batch in batches)) == pytest.approx(counts["bytes"])


def test_without_a_manifest_there_are_sources_but_no_bytes(load, tmp_path, write_sources):
    _, batches = load(write_sources(tmp_path / "data", manifest=False, **SOURCES))
    assert tokens_of(batches) == all_tokens("train", "en", "de", "fr")
    assert "source" in batches[0] and "nbytes" not in batches[0]


def test_one_document_a_sample(load, folder):
    _, batches = load(folder, sample_break_mode="eos")
    assert sum(batch["nsentences"] for batch in batches) == 34
    assert all(row[-1] == EOS for batch in batches for row in batch["target"].tolist())


def test_several_folders_are_read_one_an_epoch_with_all_their_sources(make_task, tmp_path, write_sources):
    first = write_sources(tmp_path / "a", en=SOURCES["en"])
    second = write_sources(tmp_path / "b", en=SOURCES["en"], de=SOURCES["de"])
    task = make_task(f"{first}:{second}", tokens_per_sample=8)
    lengths = []
    for epoch in (1, 2, 3):
        task.load_dataset("train", epoch=epoch, combine=True)
        iterator = task.get_batch_iterator(task.dataset("train"), max_sentences=3, epoch=epoch)
        lengths.append(sum(len(batch["source"]) for batch in iterator.next_epoch_itr()))
    assert task.source_names == ["en", "de"] and lengths == [10, 15, 10]


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(sources="fr"), "--sources fr: .*a has none of them, but en; leave the folder out"),
        (dict(source_weights="en=1"), "--source-weights: no weight for de, fr"),
    ],
)
def test_a_later_folder_is_checked_before_training_comes_to_it(
    make_task, tmp_path, folder, fields, message, write_sources
):
    first = write_sources(tmp_path / "a", en=SOURCES["en"])
    with pytest.raises(ValueError, match=message):
        make_task(f"{first}:{folder}", **fields)
    with pytest.raises(ValueError, match="no data folder .*none; check the colon-separated list"):
        make_task(f"{first}:{tmp_path / 'none'}")


def test_a_later_folder_with_another_dictionary_is_refused_before_training_comes_to_it(
    make_task, tmp_path, folder, write_sources
):
    other = write_sources(tmp_path / "a", en=SOURCES["en"])
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(manifest | {"dictionary": {"sha256": "-"}}))
    with pytest.raises(ValueError, match="wrong vocabulary: .*a/manifest.json was written with another dictionary"):
        make_task(f"{folder}:{other}")


def test_a_folder_that_was_read_is_let_go(make_task, tmp_path, write_sources):
    folder = write_sources(tmp_path / "data", **SOURCES)
    task = make_task(folder)
    for _ in range(3):
        task.load_dataset("train")
        task.get_batch_iterator(task.dataset("train"), max_sentences=3)
    assert len(task.dataset_to_epoch_iter) == 1


def test_a_source_may_lie_elsewhere(load, tmp_path, write_sources):
    folder = write_sources(tmp_path / "data", **SOURCES)
    (folder / "de").rename(tmp_path / "german")
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"folder": "de"', f'"folder": "{tmp_path / "german"}"'))
    with pytest.raises(ValueError, match="source 'de' lies at .*--absolute-path allows that"):
        load(folder)
    _, batches = load(folder, absolute_path=True)
    assert tokens_of(batches) == all_tokens("train", "en", "de", "fr")


def test_a_dictionary_elsewhere(load, tmp_path, write_sources):
    folder = write_sources(tmp_path / "data", **SOURCES)
    (folder / "dict.txt").rename(tmp_path / "symbols.txt")
    with pytest.raises(ValueError, match="no dict.txt in .*data.*or give --dict-path"):
        load(folder)
    task, _ = load(folder, dict_path=str(tmp_path / "symbols.txt"))
    assert len(task.dictionary) == 50
    (tmp_path / "symbols.txt").write_text("a 1\n" * 1)
    with pytest.raises(ValueError, match="wrong vocabulary: .*another dictionary than .*symbols.txt"):
        load(folder, dict_path=str(tmp_path / "symbols.txt"))


def test_the_originals_data_folder_is_said_to_hold_text(make_task, tmp_path):
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "train.json").write_text("[]")
    with pytest.raises(ValueError, match="holds text .*python -m data_prep --original-folder"):
        make_task(tmp_path)


@pytest.mark.parametrize(
    "split, message",
    [
        ("test", "no source in .* has a split 'test'; looked into en, de, fr"),
        ("it/valid", "no source 'it' in .*; there are de, en, fr"),
        ("fr/valid", "no split 'valid' in .*fr: .*missing"),
    ],
)
def test_a_split_that_is_not_there_is_an_error(load, folder, split, message):
    with pytest.raises(ValueError, match=message):
        load(folder, split)


def test_a_source_that_is_left_out_is_not_read_by_name(load, folder):
    with pytest.raises(ValueError, match="no source 'fr' .*--sources leaves it out"):
        load(folder, "fr/train", sources="en,de")


def test_a_damaged_shard_is_named(load, tmp_path, write_sources):
    folder = write_sources(tmp_path / "data", **SOURCES)
    (folder / "en" / "train1.bin").write_bytes(b"\5\0")
    with pytest.raises(ValueError, match="en/train1.bin is truncated"):
        load(folder)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(sources="en,it"), "--sources: no source 'it'"),
        (dict(source_weights="en=1,it=2"), "--source-weights: no source 'it' is read"),
        (dict(source_weights="en=0"), "'en=0' is no NAME=WEIGHT"),
        (dict(source_weights="en=1,de=1", sampling_alpha=0.7), "--source-weights and --sampling-alpha 0.7 both"),
        (dict(sampling_alpha=-1.0), "--sampling-alpha is -1.0"),
        (dict(spm_model=__file__, tiktoken_model="cl100k_base"), "--spm-model and --tiktoken-model"),
        (dict(tiktoken_model="none.tiktoken"), "--tiktoken-model: no file none.tiktoken, and it is not cl100k_base"),
        (dict(dict_path="none.txt"), "--dict-path: no file none.txt"),
    ],
)
def test_impossible_options_are_refused(make_task, folder, fields, message):
    with pytest.raises(ValueError, match=message):
        make_task(folder, **fields)


def test_sources_need_our_reader(load, folder):
    with pytest.raises(ValueError, match="--shorten-method truncate works with data of one source, and there are 3"):
        load(folder, shorten_method="truncate")


def test_options_without_effect_are_named(make_task, folder, caplog):
    with caplog.at_level(logging.WARNING):
        make_task(folder, sources="de", sampling_alpha=0.7, absolute_path=True, use_plasma_view=True)
    assert "--sampling-alpha has no effect: the data have one source, de" in caplog.text
    assert "--absolute-path has no effect" in caplog.text and "--use-plasma-view has no effect" in caplog.text


@pytest.mark.parametrize("fields", [dict(sampling_alpha=0.7), dict(source_weights="en=1,de=2,fr=1")])
def test_evaluation_says_that_it_does_not_mix(make_task, folder, caplog, fields):
    task = make_task(folder, tokens_per_sample=8, **fields)
    task.load_dataset("valid")
    task.eval_lm_dataloader(task.dataset("valid"))
    option = "--" + next(iter(fields)).replace("_", "-")
    assert f"{option} has no effect in evaluation" in caplog.text
