"""COCO's captions in Karpathy's split as index files, and references in COCO's form."""

import json

import pytest

from data_prep.coco_captions import main, prepare
from fairseq_mhmoe.evaluation.caption_files import read_references


def image(number, split, *captions, **changes):
    name = f"COCO_val2014_{number:0>12}.jpg"
    sentences = [{"tokens": text.split(), "raw": text, "imgid": 0, "sentid": 7} for text in captions]
    fields = {"filepath": "val2014", "filename": name, "imgid": 0, "split": split, "sentences": sentences}
    return {**fields, "cocoid": number, **changes}


IMAGES = [
    image(9, "restval", "A dog runs. ", "a \n dog"),
    image(5, "train", "A cat."),
    image(7, "val", "A red bus.", "A bus in the street.", "  "),
    image(8, "test", "Two men."),
]


def write(folder, images):
    path = folder / "dataset_coco.json"
    path.write_text(json.dumps({"images": images, "dataset": "coco"}))
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_caption_is_a_record_of_its_split(tmp_path):
    manifest = prepare(write(tmp_path, IMAGES), tmp_path / "out")
    path = "val2014/COCO_val2014_000000000009.jpg"
    assert lines(tmp_path / "out" / "captioning.train.jsonl") == [
        {"image_path": path, "text": "A dog runs.", "image_id": 9},
        {"image_path": path, "text": "a dog", "image_id": 9},
        {"image_path": path.replace("9.jpg", "5.jpg"), "text": "A cat.", "image_id": 5},
    ]
    assert [record["image_id"] for record in lines(tmp_path / "out" / "captioning.test.jsonl")] == [8]
    assert manifest["records"] == {
        "captioning.train.jsonl": 3,
        "captioning.valid.jsonl": 2,
        "captioning.test.jsonl": 1,
    }
    assert manifest["images"] == {"train": 2, "valid": 1, "test": 1}
    assert manifest["empty_captions"] == {"train": 0, "valid": 1, "test": 0}
    assert json.loads((tmp_path / "out" / "captioning.json").read_text()) == manifest


def test_references_are_annotations_in_cocos_form(tmp_path):
    prepare(write(tmp_path, IMAGES), tmp_path)
    content = json.loads((tmp_path / "captioning.valid.references.json").read_text())
    assert content["images"] == [{"id": 7, "file_name": "val2014/COCO_val2014_000000000007.jpg"}]
    assert [annotation["id"] for annotation in content["annotations"]] == [0, 1]
    references = read_references(tmp_path / "captioning.valid.references.json")
    assert references == {7: ["A red bus.", "A bus in the street."]}
    assert not (tmp_path / "captioning.train.references.json").exists()


def test_pycocotools_reads_the_references(tmp_path, capsys):
    from pycocotools.coco import COCO

    prepare(write(tmp_path, IMAGES), tmp_path)
    coco = COCO(str(tmp_path / "captioning.test.references.json"))
    assert [each["caption"] for each in coco.imgToAnns[8]] == ["Two men."] and coco.getImgIds() == [8]


def test_flickr30k_has_neither_folders_nor_cocoids(tmp_path):
    images = [image(number, split, "a man") for number, split in enumerate(("train", "val", "test"))]
    for number, each in enumerate(images):
        del each["cocoid"], each["filepath"]
        each |= {"imgid": number, "filename": f"{number}.jpg"}
    prepare(write(tmp_path, images), tmp_path)
    assert lines(tmp_path / "captioning.valid.jsonl") == [{"image_path": "1.jpg", "text": "a man", "image_id": 1}]


@pytest.mark.parametrize(
    "images, words",
    [
        ([*IMAGES, image(1, "dev", "a")], "image 4: not as Karpathy's .*'dev'"),
        ([*IMAGES, image(1, "test", "a", sentences=[{}])], "image 4: not as Karpathy's .*'raw'"),
        ([*IMAGES, image(8, "test", "a")], "image 4: number 8, expected one that no other image has"),
        ([*IMAGES, image("x", "test", "a")], "image 4: number 'x'"),
        (IMAGES[:3], "no captions of split 'test'"),
    ],
)
def test_what_is_not_karpathys_is_refused(tmp_path, images, words):
    with pytest.raises(ValueError, match=words):
        prepare(write(tmp_path, images), tmp_path)


def test_the_program_says_what_it_wrote(tmp_path, capsys):
    path = write(tmp_path, IMAGES)
    tokenizer = tmp_path / "text"
    tokenizer.mkdir()
    for name in ("dict.txt", "spm.model"):
        (tokenizer / name).write_text(name)
    main(["--annotations", str(path), "--output", str(tmp_path / "out"), "--tokenizer", str(tokenizer)])
    told = capsys.readouterr().out
    assert "captioning.train.jsonl: 3 captions" in told and "1 empty captions are left out" in told
    assert (tmp_path / "out" / "spm.model").read_text() == "spm.model"
    path.write_text("[]")
    with pytest.raises(SystemExit, match="expected Karpathy's split"):
        main(["--annotations", str(path), "--output", str(tmp_path / "out")])
