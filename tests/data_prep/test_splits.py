"""A document's split depends on nothing but itself and the seed."""

from datatrove.data import Document

from data_prep.recipe import InputFile, Recipe, Settings
from data_prep.splits import SplitByDocument, expected_splits, split_of


def document(document_id, title="T", text="x"):
    return Document(text=text, id=document_id, metadata={"title": title})


def test_shares_are_about_what_was_asked_for():
    splits = [split_of(document(str(number)), seed=0, valid_share=0.05, test_share=0.1) for number in range(4000)]
    assert abs(splits.count("valid") / 4000 - 0.05) < 0.015
    assert abs(splits.count("test") / 4000 - 0.1) < 0.02


def test_seed_id_and_title_change_the_split():
    def splits(seed=0, title="T", prefix=""):
        return [split_of(document(f"{prefix}{number}", title), seed, 0.3, 0.3) for number in range(50)]

    assert splits() == splits()
    assert len({tuple(splits()), tuple(splits(seed=1)), tuple(splits(title="U")), tuple(splits(prefix="1"))}) == 4


def test_without_a_title_the_text_decides_so_copies_stay_together():
    splits = [
        split_of(document(str(number), title=None, text=f"text {number // 2}"), 0, 0.3, 0.3) for number in range(99)
    ]
    assert splits[0:98:2] == splits[1:99:2] and len(set(splits)) == 3


def test_a_split_that_the_file_has_stays():
    given = document("1")
    given.metadata["split"] = "valid"
    (labelled,) = SplitByDocument(0, 0.0, 0.5).run(iter([given]))
    assert labelled.metadata["split"] == "valid"


def test_splits_are_expected_where_shares_or_files_ask_for_them(tmp_path):
    def expected(splits, **shares):
        inputs = tuple(InputFile(tmp_path, "text", "a", split=split) for split in splits)
        return expected_splits(Recipe("r", inputs), Settings(**shares))

    assert expected([None]) == ["train", "valid", "test"]
    assert expected([None], test_share=0.0) == ["train", "valid"]
    assert expected(["train", "valid"]) == ["train", "valid"]


def test_a_larger_test_share_leaves_valid_as_it_is():
    few = [split_of(document(str(number)), 0, 0.1, 0.1) for number in range(200)]
    more = [split_of(document(str(number)), 0, 0.1, 0.5) for number in range(200)]
    assert [split == "valid" for split in few] == [split == "valid" for split in more]


def test_order_does_not_matter_and_no_document_is_lost():
    documents = [Document(text="x", id=str(number), metadata={"title": "T"}) for number in range(100)]

    def labels(items):
        return {document.id: document.metadata["split"] for document in SplitByDocument(0, 0.2, 0.2).run(iter(items))}

    assert labels(documents) == labels(reversed(documents))
    assert len(labels(documents)) == 100
