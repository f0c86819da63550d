"""The multimodal demonstration, shrunken, with the real programs in forks; its models; and the same for `reproduce`."""

import io
import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from types import SimpleNamespace

import pytest

from fairseq_mhmoe.cli import multimodal_demo, multimodal_demo_models, reproduce, reproduce_figures
from fairseq_mhmoe.cli.multimodal_demo_models import BODY, Budget, demo_models, finetuning_words, pretraining_words
from fairseq_mhmoe.cli.multimodal_demo_report import answer_table, sentence

from ..multimodal_data import caption, draw
from .forked_programs import forked_programs

PRIOR = {"commonest_answer": 0.4, "commonest_answer_of_the_question": 0.6}
pytestmark = pytest.mark.timeout(600)  # a dozen programs, on a machine that others use


@pytest.fixture(scope="module")
def data(tiny_data_dir, tmp_path_factory):
    """What data_prep.demo_multimodal leaves, with few pictures; the visual tokenizer is still to be trained."""
    from data_prep.images.pack import write_folder

    folder = tmp_path_factory.mktemp("demo") / "data"
    (folder / "easy-vqa").mkdir(parents=True)
    (folder / "text").symlink_to(tiny_data_dir)
    for name in ("dict.txt", "spm.model"):
        (folder / name).symlink_to(tiny_data_dir / name)
    numbers = {"train": range(16), "valid": range(16, 20), "test": range(20, 24)}
    for name, words in (("pairs", caption), ("images", lambda number: None)):
        records = {split: [(f"{n}.png", draw(n), words(n)) for n in those] for split, those in numbers.items()}
        write_folder(folder / name, records, tiny_data_dir if name == "pairs" else None)
    for split, count in (("train", 12), ("test", 6)):
        lines = []
        for number in range(count):
            path = f"easy-vqa/{split}-{number}.png"
            (folder / path).write_bytes(draw(number))
            label = {"labels": [number % 2], "scores": [1.0], "qid": number}
            lines.append(json.dumps({"image_path": path, "text_segment": "the city and the river", **label}))
        (folder / f"vqa.{split}.jsonl").write_text("\n".join(lines) + "\n")
    answers = [json.dumps({"answer": word, "label": label}) for label, word in enumerate(("yes", "no"))]
    (folder / "answer2label.txt").write_text("\n".join(answers) + "\n")
    (folder / "demo.json").write_text(json.dumps({"fingerprint": "made up", "answer_prior": PRIOR}))
    return folder


@pytest.fixture
def small_models(monkeypatch):
    """Bodies of a few thousand weights."""
    for name, value in zip(BODY, (16, 2, 2, 32), strict=True):  # width, layers, attention heads, inner width
        monkeypatch.setitem(BODY, name, value)


@pytest.fixture
def demonstrate(data, small_models, tmp_path_factory):
    """demonstrate(folder, *options): the command -> its results, what it said, the programs that it started."""
    pipes = tmp_path_factory.mktemp("pipes")

    def run(folder, *options):
        words = ["--data", data, "--output", folder, "--updates", 3, "--finetuning-updates", 2, "--jobs", 2]
        words += [
            "--tokenizer-steps",
            2,
            "--tokenizer-images",
            12,
            "--models",
            "mhmoe",
            "--questions",
            "train",
            *options,
        ]
        said = io.StringIO()
        with forked_programs(pipes) as started, redirect_stdout(said):
            try:
                multimodal_demo.main(list(map(str, words)))
            finally:
                logging.disable(logging.NOTSET)
        return json.loads((folder / "results.json").read_text()), said.getvalue(), list(started)

    return run


@pytest.mark.slow
def test_the_demonstration_and_once_more(demonstrate, tmp_path):
    folder = tmp_path / "out"
    results, said, started = demonstrate(folder)
    assert sorted(started) == sorted(
        ["fairseq_mhmoe.cli.train_image_tokenizer", "fairseq_mhmoe.cli.evaluate_multimodal"]
        + 3 * ["fairseq-train"]
        + 2 * ["fairseq_mhmoe.cli.evaluate_vqa"]
    )
    assert [row["model"] for row in results["models"]] == ["mhmoe"]
    assert [(row["start"], row["questions"]) for row in results["answers"]] == [
        ("from scratch", 12),
        ("pre-trained", 12),
    ]
    assert all(0 <= row["vqa_score"] <= 100 for row in results["answers"])
    words = results["answers"][1]["training_command"].split()
    assert words[words.index("--finetune-from-model") + 1].endswith("out/mhmoe/checkpoint_last.pt")
    assert "valid ppl" in said and "12 questions: mhmoe is" in results["sentence"]
    # the second time only the tokenizer's program looks whether all is there
    again, said, started = demonstrate(folder)
    assert started == ["fairseq_mhmoe.cli.train_image_tokenizer"] and said.count("done before") == 3
    assert again["answers"] == results["answers"] and again["models"] == results["models"]


@pytest.mark.slow
def test_reproduction_of_the_multimodal_block(data, tmp_path, monkeypatch):
    from fairseq_mhmoe.vision import save_tokenizer

    from ..multimodal_data import make_tokenizer

    folder = tmp_path / "data"
    folder.mkdir()
    for path in data.iterdir():
        if not path.name.startswith("image_tokenizer"):
            (folder / path.name).symlink_to(path)
    save_tokenizer(make_tokenizer(16, 256), folder / "image_tokenizer.pt")
    (folder / "image_tokenizer.json").write_text(json.dumps({"fingerprint": "made up"}))
    monkeypatch.setattr(reproduce_figures, "draw", lambda runs, place: {})
    size = "width=16 layers=2 attention_heads=2 ffn=16 samples_per_update=8 samples_per_batch=8 validations=2".split()
    words = ["multimodal", "--data", folder, "--output", tmp_path / "out", "--device", "cpu", "--tokens", 3000]
    words += ["--experts", 2, "--models", "dense", "--seeds", 1, 2, "--jobs", 2, "--set", *size]
    with forked_programs(tmp_path / "pipes") as started:
        try:
            reproduce.main(list(map(str, words)))
        finally:
            logging.disable(logging.NOTSET)
    assert sorted(started) == 2 * ["fairseq-train"] + 2 * ["fairseq_mhmoe.cli.evaluate_multimodal"]
    results = json.loads((tmp_path / "out/results.json").read_text())
    runs = results["runs"]
    assert [run["seed"] for run in runs] == [1, 2] and runs[0]["valid_ppl"] != runs[1]["valid_ppl"]
    assert set(runs[0]["sources"]["valid"]) == {"image", "text", "pair_image", "pair_text"}
    assert (
        results["models"][0]["paper_ppl"] == 17.95 and results["models"][0]["over_seeds"]["valid_bits_per_byte"] is None
    )


@pytest.mark.parametrize("fails", [False, True])
def test_a_fine_tuning_waits_for_its_pre_training(fails):
    first = SimpleNamespace(key="first", start=None, is_done=lambda origin: False)
    second = SimpleNamespace(key="second", start=first, is_done=lambda origin: False)
    begun, order = threading.Event(), []

    def work(run):
        if run is first:
            assert begun.wait(30)
            time.sleep(0.05)  # the second one would be there by now
        order.append(run.key)
        if run is first and fails:
            raise ValueError("no such luck")

    one = multimodal_demo.in_order([first, second], work)
    with ThreadPoolExecutor(2) as pool:
        later, sooner = pool.submit(one, second), pool.submit(one, first)
        begun.set()
        assert (sooner.exception(30) is not None) == fails
        later.result(30)
    assert order == ["first", "second"]


def test_what_was_done_before_is_not_waited_for():
    first = SimpleNamespace(key="first", start=None, is_done=lambda origin: True)
    second = SimpleNamespace(key="second", start=first, is_done=lambda origin: False)
    done = []
    multimodal_demo.in_order([first, second], done.append)(second)
    assert done == [second]


def test_the_three_models_cost_the_same():
    models = {model.name: model.cost for model in demo_models(3001)}
    dense = models["dense"].flops_per_token
    assert all(abs(cost.flops_per_token / dense - 1) < 0.01 for cost in models.values())
    assert abs(models["mhmoe"].params_total / models["xmoe"].params_total - 1) < 0.02


def test_both_starts_are_fine_tuned_alike():
    words = finetuning_words(Budget(finetuning_updates=50), "train-500")
    assert words[words.index("--train-subset") + 1] == "train-500" and words[words.index("--max-update") + 1] == "50"
    assert not set(words) & {"--finetune-from-model", "--restore-file"}
    shared = {"--image-size", "--patch-size", "--image-augmentation", "--optimizer"}
    of_pretraining = pretraining_words(Budget())
    for option in shared:
        assert words[words.index(option) + 1] == of_pretraining[of_pretraining.index(option) + 1]


def test_sentence_and_table_tell_who_is_ahead():
    rows = [
        {"model": "mhmoe", "start": start, "questions": 500, "updates": 9, "vqa_score": score}
        for start, score in (("from scratch", 58.0), ("pre-trained", 71.5))
    ]
    told = sentence(rows, PRIOR)
    assert "500 questions: mhmoe is +13.50 points with pre-training against scratch, and +11.50" in told
    assert sentence(rows[:1], PRIOR) == "no model was fine-tuned both ways"
    lines = answer_table(rows, PRIOR).splitlines()
    assert "40.00" in lines[2] and "60.00" in lines[3] and "71.50" in lines[5]


@pytest.mark.parametrize("words", [["--updates", "0"], ["--models", "smoe"], ["--jobs", "none"]])
def test_wrong_options_end_it(words, capsys):
    with pytest.raises(SystemExit) as end:
        multimodal_demo.parse_arguments(words)
    assert end.value.code == 2 and words[0] in capsys.readouterr().err


def test_a_folder_without_data_is_told(tmp_path):
    with pytest.raises(SystemExit, match="demo.json; name a folder that data_prep.demo_multimodal has written"):
        multimodal_demo.main(["--data", str(tmp_path), "--output", str(tmp_path / "out")])
    logging.disable(logging.NOTSET)
    assert multimodal_demo_models.NAMES[0] == "mhmoe"
