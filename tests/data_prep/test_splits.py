"""A document's split depends on nothing but itself and the seed."""

from datatrove.data import Document

from data_prep.splits import SplitByDocument, split_of


def test_shares_are_about_what_was_asked_for():
    splits = [split_of(str(number), "T", seed=0, valid_share=0.05, test_share=0.1) for number in range(4000)]
    assert abs(splits.count("valid") / 4000 - 0.05) < 0.015
    assert abs(splits.count("test") / 4000 - 0.1) < 0.02


def test_seed_id_and_title_change_the_split():
    def splits(seed=0, title="T", prefix=""):
        return [split_of(f"{prefix}{number}", title, seed, 0.3, 0.3) for number in range(50)]

    assert splits() == splits()
    assert len({tuple(splits()), tuple(splits(seed=1)), tuple(splits(title="U")), tuple(splits(prefix="1"))}) == 4


def test_a_larger_test_share_leaves_valid_as_it_is():
    few = [split_of(str(number), "T", 0, 0.1, 0.1) for number in range(200)]
    more = [split_of(str(number), "T", 0, 0.1, 0.5) for number in range(200)]
    assert [split == "valid" for split in few] == [split == "valid" for split in more]


def test_order_does_not_matter_and_no_document_is_lost():
    documents = [Document(text="x", id=str(number), metadata={"title": "T"}) for number in range(100)]

    def labels(items):
        return {document.id: document.metadata["split"] for document in SplitByDocument(0, 0.2, 0.2).run(iter(items))}

    assert labels(documents) == labels(reversed(documents))
    assert len(labels(documents)) == 100
