"""From tars and listings to a prepared folder: everything accounted for, the same bytes however the work went."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.executors import Executor
from data_prep.images import pipeline, tasks
from data_prep.images.captions import CaptionEncoder
from data_prep.images.decoding import decode_image
from data_prep.images.layout import read_image_manifest
from data_prep.images.settings import ImageInput, ImageSettings
from data_prep.opening import DamagedFile
from data_prep.recipe import SourceInfo
from fairseq_mhmoe.data.image_shards import ImageShards


@pytest.fixture(scope="module")
def tars(tmp_path_factory, draw, write_tar):
    """Three tars of ten pairs; in the second the picture 4 is cut off, and 5 has no caption."""
    folder = tmp_path_factory.mktemp("tars")
    for tar in range(3):
        members = []
        for number in range(tar * 10, tar * 10 + 10):
            picture = draw(number)
            members.append((f"{number:03d}.png", picture[: len(picture) // 2] if number == 14 else picture))
            if number != 15:
                members.append((f"{number:03d}.txt", f"the city {number}"))
        write_tar(folder / f"{tar:05d}.tar", members)
    return folder


def everything(output):
    """name of the image -> (split, captions' numbers of tokens) over all splits."""
    found = {}
    for split in read_image_manifest(output)["splits"]:
        shards = ImageShards(output, split)
        for index in range(len(shards)):
            sizes = found.setdefault(shards.name(index), (split, []))[1]
            assert shards.picture(index).mode == "RGB"
            if shards.has_captions:
                sizes.append(int(shards.caption_sizes[index]))
    return found


def test_every_record_is_read_accepted_or_rejected_with_its_reason(tmp_path, tars, prepare, tiny_data_dir):
    info = {"cc": SourceInfo("CC BY 4.0", "by them")}
    output = tmp_path / "pairs"
    manifest = prepare(output, {"cc": sorted(tars.glob("*.tar"))}, tiny_data_dir, info=info)
    source = manifest["sources"]["cc"]
    assert (source["read"], source["accepted"]) == (30, 28)
    assert source["rejected"] == manifest["rejected"] == {"no_caption": 1, "truncated": 1}
    assert (source["license"], source["attribution"]) == ("CC BY 4.0", "by them")
    rejected = [json.loads(line) for line in (output / "rejected/cc.jsonl").read_text().splitlines()]
    assert [(record["tar"], record["name"]) for record in rejected] == [("00001.tar", f"01{n}.png") for n in (4, 5)]
    found = everything(output)
    wanted = {f"cc/{n // 10:05d}.tar: {n:03d}.png" for n in range(30) if n not in (14, 15)}
    assert set(found) == wanted and {split for split, _ in found.values()} == {"train", "valid", "test"}
    assert sum(split["records"] for split in manifest["splits"].values()) == 28
    assert manifest["tars"][1]["size"] == (tars / "00001.tar").stat().st_size


def test_the_split_depends_on_seed_and_image_only(tmp_path, tars, prepare, draw, write_tar):
    paths = sorted(tars.glob("*.tar"))
    prepare(tmp_path / "a", {"cc": paths})
    prepare(
        tmp_path / "b", {"x": paths[2:], "y": [write_tar(tmp_path / "own.tar", [("copy.png", draw(3))]), *paths[:1]]}
    )
    a, b = (
        {name.split(": ")[1]: split for name, (split, _) in everything(tmp_path / name).items()} for name in ("a", "b")
    )
    assert b.pop("copy.png") == a["003.png"] and b == {name: a[name] for name in b}
    prepare(tmp_path / "c", {"cc": paths}, seed=1)
    assert everything(tmp_path / "c") != everything(tmp_path / "a")


def test_interrupted_work_gives_the_same_bytes(tmp_path, tars, prepare, contents, tiny_data_dir, monkeypatch):
    paths = sorted(tars.glob("*.tar"))
    # all beside one another, since the manifest has relative places
    first, second = tmp_path / "whole", tmp_path / "parts"
    prepare(first, {"cc": paths}, tiny_data_dir)
    calls = []
    index_tar = tasks._index_tar

    def fail(task, *arguments):
        calls.append(task.file)
        if len(calls) == 2:
            raise OSError("no space left")
        return index_tar(task, *arguments)

    monkeypatch.setattr(tasks, "_index_tar", fail)
    with pytest.raises(OSError, match="no space"):
        prepare(second, {"cc": paths}, tiny_data_dir)
    assert not (second / "manifest.json").exists()
    # what is finished is not done again
    prepare(second, {"cc": paths}, tiny_data_dir)
    assert calls == ["00000.tar", "00001.tar", "00001.tar", "00002.tar"]
    names = json.loads((first / "manifest.json").read_text()), json.loads((second / "manifest.json").read_text())
    assert {key for key in names[0] if names[0][key] != names[1][key]} == {"name", "fingerprint"}
    whole, parts = contents(first), contents(second)
    assert {name for name in whole if whole[name] != parts.get(name)} == {"manifest.json"}
    prepare(second, {"cc": paths}, tiny_data_dir)
    assert len(calls) == 4


def test_processes_give_the_same_bytes(tmp_path, tars, prepare, contents):
    paths = sorted(tars.glob("*.tar"))
    for workers in (1, 2):
        prepare(tmp_path / str(workers) / "images", {"cc": paths}, workers=workers)
    assert contents(tmp_path / "1/images") == contents(tmp_path / "2/images")


def test_a_new_tar_costs_only_itself_and_a_lost_index_is_made_again(tmp_path, tars, prepare, monkeypatch):
    paths, done = sorted(tars.glob("*.tar")), []
    index_tar = tasks._index_tar
    monkeypatch.setattr(tasks, "_index_tar", lambda task, *rest: (done.append(task.file), index_tar(task, *rest))[1])
    prepare(tmp_path / "out", {"cc": paths[:2]})
    manifest = prepare(tmp_path / "out", {"cc": paths})
    assert done == ["00000.tar", "00001.tar", "00002.tar"] and manifest["read"] == 30
    content = bytearray((tmp_path / "out/train.images.npy").read_bytes())
    content[-1] ^= 1
    (tmp_path / "out/train.images.npy").write_bytes(content)
    prepare(tmp_path / "out", {"cc": paths})
    assert len(done) == 3 and (tmp_path / "out/train.images.npy").read_bytes() != content
    shutil.rmtree(tmp_path / "out/work")
    prepare(tmp_path / "out", {"cc": paths})
    assert len(done) == 3  # the folder is complete without them


def test_a_damaged_tar_stops_the_run_unless_it_is_allowed(tmp_path, tars, prepare):
    whole = (tars / "00000.tar").read_bytes()
    damaged = tmp_path / "cut.tar"
    damaged.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedFile, match=r"cut.tar: damaged tar at byte .*take the \d records before that"):
        prepare(tmp_path / "out", {"cc": [damaged]})
    assert not (tmp_path / "out/manifest.json").exists()
    manifest = prepare(tmp_path / "out", {"cc": [damaged]}, allow_damaged_files=True)
    assert 0 < manifest["read"] < 10 and manifest["damaged"][0]["file"] == "cc/cut.tar"
    assert manifest["damaged"][0]["reason"].startswith("damaged tar at byte ")


def test_loose_files_are_packed_and_what_settings_no_longer_ask_for_goes(tmp_path, prepare, draw, tiny_data_dir):
    images = [{"id": n, "file_name": f"{n}.png"} for n in range(12)]
    annotations = [{"image_id": n, "caption": f"the {text} {n}"} for text in ("city", "river") for n in range(11)]
    annotations.append({"image_id": 3, "caption": "half \ud83d"})
    (tmp_path / "captions.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    (tmp_path / "pictures").mkdir()
    for number in range(11):
        (tmp_path / f"pictures/{number}.png").write_bytes(draw(number))
    (tmp_path / "pictures/5.png").write_bytes(b"")
    (tmp_path / "pictures/6.png").unlink()

    def run(**settings):
        sources = {"coco": [tmp_path / "captions.json"]}
        return prepare(tmp_path / "out", sources, tiny_data_dir, "coco", tmp_path / "pictures", **settings)

    manifest = run(images_per_tar=5)
    assert manifest["read"] == 24 and manifest["sources"]["coco"]["accepted"] == 18
    assert manifest["rejected"] == {"caption_not_utf8": 1, "empty": 2, "missing_file": 3}
    assert [tar["file"][:6] for tar in manifest["tars"]] == ["00000-", "00001-", "00002-"]
    found = everything(tmp_path / "out")
    assert len(found) == 9 and all(len(sizes) == 2 for _, sizes in found.values())
    assert manifest["sources"]["coco"]["inputs"][0]["file"] == "captions.json"
    before = {tar["file"] for tar in manifest["tars"]}
    after = {tar["file"] for tar in run(images_per_tar=50)["tars"]}
    assert {path.name for path in (tmp_path / "out/coco").iterdir()} == after and not before & after
    assert everything(tmp_path / "out").keys() != found.keys() and len(everything(tmp_path / "out")) == 9
    # back again: the tars that were removed are packed again
    assert run(images_per_tar=5) == manifest


def test_fixed_splits_share_no_image(tmp_path, draw, write_tar):
    numbers = {"train": [1, 2, 3, 3, 4], "valid": [4, 5], "test": [5, 6]}
    inputs = []
    for split, own in numbers.items():
        members = [(f"{place}.png", draw(number)) for place, number in enumerate(own)]
        inputs.append(ImageInput("x", (write_tar(tmp_path / f"{split}.tar", members),), "webdataset", split=split))
    manifest = pipeline.prepare_images(inputs, tmp_path / "out", ImageSettings(), executor=Executor(workers=1))
    assert {name: split["images"] for name, split in manifest["splits"].items()} == {"train": 4, "valid": 1, "test": 2}
    assert manifest["rejected"] == {"in_another_split": 2} and manifest["read"] == 9
    lines = (tmp_path / "out/rejected/x.jsonl").read_text().splitlines()
    assert [json.loads(line)["tar"] for line in lines] == ["train.tar", "valid.tar"]
    digests = [np.load(tmp_path / f"out/{split}.images.npy")["digest"].tobytes() for split in numbers]
    assert len({part[start : start + 16] for part in digests for start in range(0, len(part), 16)}) == 6


def test_links_on_the_way_to_tars_and_output(tmp_path, tars, prepare):
    for name, target in (("raw", tars), ("out", tmp_path / "deep/er/place")):
        target.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(target, target_is_directory=True)
    prepare(tmp_path / "out", {"cc": [tmp_path / "raw/00000.tar"]})
    found = everything(tmp_path / "out")
    assert len(found) == 10 and everything(tmp_path / "deep/er/place") == found


@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=8), st.floats(0, 4))
def test_a_fuzzed_tar_is_accounted_for(tmp_path_factory, tars, tiny_data_dir, changes, length):
    content = bytearray((tars / "00000.tar").read_bytes())
    for place, value in changes:
        content[int(place * len(content))] = value
    path = tmp_path_factory.getbasetemp() / "fuzzed.tar"
    path.write_bytes(content[: int(length * len(content))])
    task = tasks.Task("x", "webdataset", path, path.name, "key")
    index = tasks._index_tar(task, ImageSettings(allow_damaged_files=True), CaptionEncoder(tiny_data_dir))
    counts, images = index.counts(), index.arrays["images"]
    assert counts["read"] == counts["accepted"] + sum(counts["rejected"].values())
    assert counts["accepted"] == len(index.arrays["rows"]) and len(index.arrays["starts"]) == counts["accepted"] + 1
    for image in images:
        picture = path.read_bytes()[image["offset"] : image["offset"] + image["size"]]
        assert hashlib.sha256(picture).digest()[:16] == image["digest"].tobytes() and decode_image(picture)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"format": "zip"}, "format is 'zip'; expected one of webdataset, tar, folder"),
        ({"format": "tar", "dictionary": True}, "format tar has no captions"),
        ({"sources": {"cc": ["none.tar"]}}, "cc: no such file: none.tar"),
        ({"sources": {"cc": ["{}", "{}"]}}, "is named twice"),
        ({"sources": {"work": ["{}"]}}, "source name 'work'"),
        ({"info": {"dd": SourceInfo()}}, "licence or attribution of dd; the sources are cc"),
        ({"images": "{}"}, "--images is for listings"),
        ({"split": "dev"}, "split is 'dev'"),
        ({"max_pixels": 10**10}, "Pillow decodes at most"),
        ({"valid_share": 0.9}, "must be 0 or more and leave a rest"),
        ({"min_side": 100}, r"no image for training was accepted \(too_small 10\); see "),
    ],
)
def test_wrong_settings_are_told(tmp_path, tars, prepare, tiny_data_dir, change, message):
    path = str(tars / "00000.tar")
    change = dict(change)
    sources = {n: [Path(p.replace("{}", path)) for p in ps] for n, ps in change.pop("sources", {"cc": [path]}).items()}
    dictionary = tiny_data_dir if change.pop("dictionary", False) else None
    if "images" in change:
        change["images"] = Path(path)
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path / "out", sources, dictionary, **change)
