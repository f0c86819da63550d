"""VQAv2's official files become index files: answers counted, scored and split; nothing is lost unsaid."""

import json

import pytest

from data_prep.vqa import answer_list, labels_of, main, soft_score, validation_images
from data_prep.vqa_answers import CONTRACTIONS, normalize_answer

PEOPLE = 10


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("The Dog.", "dog"),
        ("two dogs", "2 dogs"),
        ("none", "0"),
        ("2,000", "2000"),
        ("3.5", "3.5"),
        ("1st.", "1st"),
        ("t-shirt", "t shirt"),
        ("well, yes!", "well yes"),
        ("dont know", "don't know"),
        ("couldntve", "couldn't've"),
        ("black & white", "black & white"),
        (" a\tcat\n", "cat"),
        ("an", ""),
    ],
)
def test_answers_are_compared_as_the_official_program_does(answer, normal):
    assert normalize_answer(answer) == normal
    assert normalize_answer(normal) == normal


def test_contractions_lead_to_one_spelling():
    assert CONTRACTIONS["hes"] == "he's" and CONTRACTIONS["shouldnt've"] == "shouldn't've"
    assert not set(CONTRACTIONS) & set(CONTRACTIONS.values())
    # words of their own
    assert not {"its", "were", "well", "hell", "im"} & set(CONTRACTIONS)


def test_soft_scores():
    assert [soft_score(people) for people in range(6)] == [0, 0.3, 0.6, 0.9, 1, 1]
    people = ["red"] * 4 + ["Blue!", "blue"] + ["2"] + ["two"] * 2 + ["rare"]
    annotation = {"answers": [{"answer": answer} for answer in people]}
    found = labels_of(annotation, {"red": 5, "blue": 1, "2": 0})
    assert dict(zip(found["labels"], found["scores"], strict=True)) == {5: 1.0, 1: 0.6, 0: 0.9}


def test_frequent_answers_make_the_list():
    def split(*answers):
        return {number: {"multiple_choice_answer": answer} for number, answer in enumerate(answers)}

    annotations = {"train": split("yes", "Yes", "no", "a", "a"), "val": split("yes", "no", "2", "two")}
    assert answer_list(annotations, 2) == ["yes", "2", "no"]
    assert answer_list(annotations, 3) == ["yes"]


def test_validation_images_are_always_the_same_ones():
    assert validation_images(set(range(100)), 10) == validation_images(set(range(99, -1, -1)), 10)
    assert validation_images(set(range(100)), 10) < validation_images(set(range(100)), 20)
    assert len(validation_images(set(range(100)), 1000)) == 50


@pytest.fixture
def official(tmp_path):
    """Official files of 8 images each of train and val with 2 questions each, and 3 test questions."""
    folder = tmp_path / "official"
    folder.mkdir()

    def write(split, questions, annotations=None):
        (folder / f"v2_OpenEnded_mscoco_{split}_questions.json").write_text(json.dumps({"questions": questions}))
        if annotations is not None:
            (folder / f"v2_mscoco_{split}_annotations.json").write_text(json.dumps({"annotations": annotations}))

    def question(number):
        return {"question_id": number, "image_id": number // 10, "question": f"Is this {number}?"}

    def annotation(number, answer):
        given = [answer] * 7 + ["no"] * 3
        return {
            "question_id": number,
            "image_id": number // 10,
            "multiple_choice_answer": answer,
            "answer_type": "other",
            "answers": [{"answer": each, "answer_id": place} for place, each in enumerate(given)],
        }

    for split, first in (("train2014", 100), ("val2014", 200)):
        numbers = [first + 10 * image + question for image in range(8) for question in range(2)]
        answers = ["yes" if number % 2 else "two" for number in numbers]
        write(split, [question(n) for n in numbers], [annotation(n, a) for n, a in zip(numbers, answers, strict=True)])
    write("test2015", [question(number) for number in (900, 901, 910)])
    return folder


def prepare(official, output, *words):
    main(["--annotations", str(official), "--output", str(output), "--min-count", "3", "--valid-images", "3", *words])
    return {path.name: path.read_text() for path in output.iterdir() if path.suffix != ".model"}


def records(text):
    return [json.loads(line) for line in text.splitlines()]


def test_official_files_become_an_index(official, tmp_path, capsys):
    files = prepare(official, tmp_path / "data")
    assert records(files["answer2label.txt"]) == [{"answer": "2", "label": 0}, {"answer": "yes", "label": 1}]
    train, validation, rest = (records(files[f"vqa.{name}.jsonl"]) for name in ("train", "rest_val", "trainable_val"))
    assert train[1] == {
        "image_path": "train2014/COCO_train2014_000000000010.jpg",
        "text": "Is this 101?",
        "qid": 101,
        "labels": [1],
        "scores": [1.0],
    }
    assert (len(train), len(validation), len(rest)) == (16, 6, 10)
    assert not {r["image_path"] for r in validation} & {r["image_path"] for r in rest}
    test = records(files["vqa.test.jsonl"])
    assert [r["qid"] for r in test] == [900, 901, 910] and "labels" not in test[0]
    assert test[0]["image_path"] == "test2015/COCO_test2015_000000000090.jpg"
    manifest = json.loads(files["vqa.json"])
    assert manifest["records"]["vqa.train.jsonl"] == 16 and len(manifest["inputs"]) == 5
    assert "vqa.train.jsonl: 16 questions" in capsys.readouterr().out
    assert prepare(official, tmp_path / "again") == files


def test_training_leaves_out_what_has_no_answer_of_the_list(official, tmp_path, capsys):
    path = official / "v2_mscoco_train2014_annotations.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"][:2]:
        annotation["answers"] = [{"answer": "rare"}] * 10
    del content["annotations"][2]
    path.write_text(json.dumps(content))
    files = prepare(official, tmp_path / "data")
    assert len(records(files["vqa.train.jsonl"])) == 13
    out = capsys.readouterr().out
    assert "left out: 2 questions of train: no answer of the list" in out
    assert "left out: 1 questions of train: no annotation" in out


def test_missing_images_are_told(official, tmp_path, capsys):
    images = tmp_path / "images"
    for folder in ("train2014", "val2014", "test2015"):
        (images / folder).mkdir(parents=True)
    for number in range(10, 17):
        (images / f"train2014/COCO_train2014_{number:012d}.jpg").touch()
    files = prepare(official, tmp_path / "data", "--images", str(images))
    assert len(records(files["vqa.train.jsonl"])) == 14
    assert "left out: 2 questions of train: no image" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("v2_OpenEnded_mscoco_val2014_questions.json", "{", "is no JSON"),
        ("v2_OpenEnded_mscoco_val2014_questions.json", '{"questions": [{}]}', "no official file of VQAv2"),
        ("v2_mscoco_train2014_annotations.json", None, "can't be read"),
        (
            "v2_OpenEnded_mscoco_test2015_questions.json",
            json.dumps({"questions": [{"question_id": 1, "image_id": 1, "question": "?"}] * 2}),
            "a question_id comes more than once",
        ),
    ],
)
def test_other_files_are_refused(official, tmp_path, name, content, words):
    if content is None:
        (official / name).unlink()
    else:
        (official / name).write_text(content)
    with pytest.raises(SystemExit, match=f"error: .*{name}.*{words}"):
        prepare(official, tmp_path / "data")


def test_the_tokenizer_comes_along(official, tmp_path, tiny_data_dir):
    files = prepare(official, tmp_path / "data", "--tokenizer", str(tiny_data_dir))
    assert files["dict.txt"] == (tiny_data_dir / "dict.txt").read_text()
    with pytest.raises(SystemExit, match="error: --tokenizer .*: no dict.txt"):
        prepare(official, tmp_path / "data", "--tokenizer", str(tmp_path))
