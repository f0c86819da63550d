"""Listings of data sets, and tars as img2dataset writes them: every record is found, or rejected with its reason."""

import json

import pytest

from data_prep.images.formats import READERS, format_of
from data_prep.images.listings import Entry, load_entry
from data_prep.images.settings import ImageInput, ImageSettings
from data_prep.images.tar_records import read_records

SETTINGS = ImageSettings()


def entries(format, *files, images=None, split=None):
    return list(READERS[format](ImageInput("x", files, format, images, split), SETTINGS))


def captions(found):
    return [(entry.name, entry.captions) for entry in found]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def records(write_tar, tmp_path, members, **settings):
    path = write_tar(tmp_path / "a.tar", members)
    with open(path, "rb") as file:
        found = list(read_records(file, path, ImageSettings(**settings), captions=True))
    return [
        (r.name, str(r.content) if isinstance(r.content, Exception) else r.content, [bytes_of(c) for c in r.captions])
        for r in found
    ]


def bytes_of(caption):
    return caption.decode() if isinstance(caption, bytes) else caption


def test_files_of_one_key_are_a_record(write_tar, tmp_path):
    members = [("000.jpg", b"J"), ("000.json", {"caption": "of json", "status": "success"}), ("000.txt", "of text")]
    members += [("sub.dir/1.PNG", b"P"), ("sub.dir/1.json", {"caption": ["one", "two"]}), ("v.1.webp", b"W")]
    members += [("v.2.webp", b"X"), ("v.2.txt", "second"), ("v.2.cls", "7")]
    wanted = [("000.jpg", b"J", ["of text"]), ("sub.dir/1.PNG", b"P", ["one", "two"]), ("v.1.webp", b"W", [])]
    assert records(write_tar, tmp_path, members) == [*wanted, ("v.2.webp", b"X", ["second"])]


def test_a_field_of_the_json_can_be_the_caption(write_tar, tmp_path):
    members = [("0.txt", "text"), ("0.jpg", b"J"), ("0.json", {"alt": "of json"}), ("1.jpg", b"K"), ("1.txt", "text")]
    found = records(write_tar, tmp_path, members, caption_key="alt")
    assert found == [("0.jpg", b"J", ["of json"]), ("1.jpg", b"K", [])]


def test_what_has_no_image_is_a_record_with_a_reason(write_tar, tmp_path):
    members = [("0.txt", "text"), ("1.jpg", b"x" * 10), ("2.jpg", b"J"), ("2.json", "{"), ("3.jpg", b"J")]
    members += [("3.json", {"status": "failed_to_download", "error_message": "404"}), ("README", "hello")]
    found = records(write_tar, tmp_path, members, max_bytes=9)
    assert [(name, reason.partition(":")[0]) for name, reason, _ in found] == [
        ("0.txt", "no_image"),
        ("1.jpg", "too_many_bytes"),
        ("2.jpg", "caption_bad_json"),
        ("3.jpg", "not_downloaded"),
        ("README", "no_image"),
    ]


def test_tables_have_their_columns_in_either_order_or_named(tmp_path):
    cc3m = write(tmp_path / "cc3m.tsv", "a dog\thttp://x.org/1.jpg?s=2\na cat\thttp://x.org/2.jpg\n")
    assert captions(entries("tsv", cc3m)) == [("1.jpg", ["a dog"]), ("2.jpg", ["a cat"])]
    cc12m = write(tmp_path / "cc12m.tsv", "http://x.org/1.jpg\ta dog\nbroken\nhttp://x.org/2.jpg\ta\tcat\n")
    found = entries("tsv", cc12m)
    assert captions(found[:1]) == [("1.jpg", ["a dog"])]
    assert [(entry.name, entry.reason) for entry in found[1:]] == [
        ("cc12m.tsv:2", "bad_line: 1 columns, expected 2"),
        ("cc12m.tsv:3", "bad_line: 3 columns, expected 2"),
    ]
    named = write(tmp_path / "named.tsv", "id\tCaption\timage_path\n1\ta dog\tb/1.png\n1\ttwo dogs\tb/1.png\n")
    assert captions(entries("tsv", named, split="valid")) == [("b/1.png", ["a dog", "two dogs"])]
    for text, message in (("a dog\ta cat\n", "no telling which column"), ("", "is empty")):
        with pytest.raises(ValueError, match=message):
            entries("tsv", write(tmp_path / "bad.tsv", text))


def test_addresses_lead_to_what_img2dataset_has_downloaded(tmp_path):
    folder = tmp_path / "files"
    write(folder / "00000/000000001.jpg", "J")
    write(folder / "00000/000000001.json", {"url": "http://x.org/a?b", "status": "success"})
    write(folder / "00000/000000002.json", {"url": "http://x.org/c", "status": "failed_to_download"})
    write(folder / "stats.json", {"count": 2})
    table = write(tmp_path / "cc.tsv", "a dog\thttp://x.org/a?b\na cat\thttp://x.org/c\na cow\thttp://x.org/d.jpg\n")
    found = entries("tsv", table, images=folder)
    assert found[0].places == ["00000/000000001.jpg"] and found[0].captions == ["a dog"]
    assert found[1].reason.startswith("not_downloaded: failed_to_download")
    assert str(load_entry(found[2], folder, SETTINGS)) == "missing_file: d.jpg in files"


def test_sbu_in_its_three_forms(tmp_path):
    urls, texts = ["http://f.org/1_a.jpg", "http://f.org/2_b.jpg"], ["a dog", "a cat"]
    wanted = [("1_a.jpg", ["a dog"]), ("2_b.jpg", ["a cat"])]
    both = write(tmp_path / "sbu.json", {"image_urls": urls, "captions": texts, "user_ids": ["u", "v"]})
    assert captions(entries("sbu", both)) == wanted
    pairs = write(tmp_path / "annot.json", [["1_a.jpg", "a dog"], ["2_b.jpg", "a cat"], ["3"]])
    found = entries("sbu", pairs)
    assert captions(found[:2]) == wanted and found[2].reason.startswith("bad_line: ['3']")
    lists = [
        write(tmp_path / "SBU_captioned_photo_dataset_urls.txt", "\n".join(urls) + "\n"),
        write(tmp_path / "SBU_captioned_photo_dataset_captions.txt", "\n".join(texts)),
    ]
    assert captions(entries("sbu", *lists)) == wanted
    write(lists[0], urls[0] + "\n")
    with pytest.raises(ValueError, match="different numbers of lines"):
        entries("sbu", *lists)


def test_coco_has_several_captions_an_image(tmp_path):
    name = "COCO_train2014_000000000009.jpg"
    images = [{"id": 9, "file_name": name}, {"id": 8, "file_name": "8.jpg", "coco_url": "http://c.org/val2017/8.jpg"}]
    annotations = [
        {"image_id": 9, "caption": "one"},
        {"image_id": 8, "caption": "x"},
        {"image_id": 9, "caption": "two"},
    ]
    found = entries("coco", write(tmp_path / "captions.json", {"images": images, "annotations": annotations}))
    assert captions(found) == [(name, ["one", "two"]), ("8.jpg", ["x"])]
    assert [entry.places for entry in found] == [[name, f"train2014/{name}"], ["8.jpg", "val2017/8.jpg"]]


def test_karpathys_splits_are_kept(tmp_path):
    images = [
        {"filepath": "val2014", "filename": f"{n}.jpg", "split": split, "sentences": [{"raw": f"text {n}"}]}
        for n, split in enumerate(["train", "restval", "val", "test"])
    ]
    found = entries("coco", write(tmp_path / "dataset_coco.json", {"images": images}))
    assert [entry.split for entry in found] == ["train", "train", "valid", "test"]
    assert found[1].places[0] == "val2014/1.jpg" and found[1].captions == ["text 1"]


def test_visual_genome_phrases_are_captions_of_the_whole_picture(tmp_path):
    regions = [{"region_id": n, "image_id": 61, "phrase": text, "x": 1} for n, text in enumerate("a b a".split())]
    found = entries("visual-genome", write(tmp_path / "region_descriptions.json", [{"id": 61, "regions": regions}]))
    assert captions(found) == [("61.jpg", ["a", "b"])]
    assert found[0].places == ["VG_100K/61.jpg", "VG_100K_2/61.jpg", "61.jpg"]


@pytest.mark.parametrize("format", ["coco", "visual-genome", "sbu"])
@pytest.mark.parametrize("content", ["{", "[1]", '{"a": 1}'])
def test_other_json_is_refused_by_name(tmp_path, format, content):
    path = write(tmp_path / "odd.json", content)
    if (format, content) == ("sbu", "[1]"):
        assert entries(format, path)[0].reason.startswith("bad_line")
        return
    with pytest.raises(ValueError, match="odd.json"):
        entries(format, path)


def test_folders_are_walked_in_order_with_captions_beside(tmp_path):
    for name in ("b/2.jpg", "b/1.JPEG", "a/3.png", "notes.md", "4.jpg"):
        write(tmp_path / "root" / name, "x")
    write(tmp_path / "root/b/2.txt", "a dog")
    write(tmp_path / "root/4.json", {"caption": "a cat", "status": "success"})
    (tmp_path / "root/a/circle").symlink_to(tmp_path / "root")
    found = entries("folder", tmp_path / "root")
    assert captions(found) == [("4.jpg", ["a cat"]), ("a/3.png", []), ("b/1.JPEG", []), ("b/2.jpg", ["a dog"])]
    (tmp_path / "root/a/circle").unlink()
    two = entries("folder", tmp_path / "root/a", tmp_path / "root/b")
    assert [entry.name for entry in two] == ["a/3.png", "b/1.JPEG", "b/2.jpg"]
    assert load_entry(two[2], tmp_path / "root", SETTINGS) == b"x"


@pytest.mark.parametrize(
    "place, reason",
    [
        ("../secret.jpg", "outside_folder"),
        ("/etc/hostname", "outside_folder"),
        ("sub", "not_a_file"),
        ("none.jpg", "missing_file"),
        ("large.jpg", "too_many_bytes"),
        ("nul\0.jpg", "missing_file"),
        ("x" * 300, "missing_file"),
    ],
)
def test_files_that_are_not_taken(tmp_path, place, reason):
    (tmp_path / "secret.jpg").write_text("x")
    (tmp_path / "pictures/sub").mkdir(parents=True)
    (tmp_path / "pictures/large.jpg").write_text("x" * 50)
    found = load_entry(Entry("x", [place]), tmp_path / "pictures", ImageSettings(max_bytes=49))
    assert str(found).partition(":")[0] in (reason, "unreadable")


def test_names_tell_formats(tmp_path):
    assert [format_of(tmp_path / name) for name in ("a.tar", "a.tsv", "")] == ["webdataset", "tsv", "folder"]
    with pytest.raises(ValueError, match="a.json: the name does not tell the format"):
        format_of(tmp_path / "a.json")
