"""Fine-tuning through the stock programs: from a pre-trained checkpoint, resumed, and asked about a split."""

import json

import pytest
import torch

from fairseq_mhmoe.checkpoint.loading import load
from fairseq_mhmoe.cli import evaluate_nlvr2, evaluate_vqa, finetuning_table
from tests.finetuning_data import write_nlvr2_data, write_vqa_data

MODEL = (
    "--user-dir fairseq_mhmoe --cpu --arch mhmoe_multimodal_tiny --encoder-embed-dim 24 --encoder-layers 2 "
    "--encoder-attention-heads 2 --encoder-ffn-embed-dim 32 --moe-expert-count 4 --moe-ffn-dim 16 --patch-size 8 "
    "--optimizer adam --lr 0.01 --num-workers 0 --no-epoch-checkpoints --log-format json --log-interval 1 "
    "--ddp-backend legacy_ddp"
).split()
PRETRAINING = (
    "--task masked_multimodal --criterion masked_multimodal --image-size 32 --batch-size 4 --max-update 2 "
    "--tokens-per-sample 32 --caption-length 16 --disable-validation"
).split()
FINETUNING = (
    "--batch-size 8 --max-text-length 20 --layer-lr-decay 0.8 --head-lr-scale 1.5 --weight-decay 0.01 "
    "--no-weight-decay-on norm,bias,router"
).split()
VQA = "--task vqa --criterion vqa --image-size 48 --best-checkpoint-metric vqa_score".split()
VQA += ["--maximize-best-checkpoint-metric"]
NLVR2 = "--task nlvr2 --criterion nlvr2 --image-size 32".split()


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny_data_dir):
    """{task: data folder}."""
    root = tmp_path_factory.mktemp("data")
    return {
        "vqa": write_vqa_data(root / "vqa", tiny_data_dir),
        "nlvr2": write_nlvr2_data(root / "nlvr2", tiny_data_dir),
    }


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, multimodal_data_dir, run_cli):
    """A checkpoint of two updates of masked pre-training."""
    folder = tmp_path_factory.mktemp("pretraining")
    run_cli("fairseq-train", multimodal_data_dir, *MODEL, *PRETRAINING, "--save-dir", folder)
    return folder / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def vqa(tmp_path_factory, data, pretrained, run_cli):
    """(checkpoint of 15 updates, what the training printed)."""
    folder = tmp_path_factory.mktemp("vqa")
    words = [*MODEL, *FINETUNING, *VQA, "--finetune-from-model", pretrained, "--max-update", 15, "--save-dir", folder]
    done = run_cli("fairseq-train", data["vqa"], *words)
    return folder / "checkpoint_best.pt", done.stdout


def last(output, tag):
    """The last line of figures of this kind."""
    return json.loads([line for line in output.splitlines() if f"| {tag} | {{" in line][-1].split(f"| {tag} | ")[1])


def test_what_was_learnt_before_is_the_start(vqa, pretrained):
    checkpoint, output = vqa
    assert "image positions interpolated from 4 x 4 to 6 x 6 patches" in output
    assert (
        "head 'answers' is not in the checkpoint" in output and "head 'image' of the checkpoint is left out" in output
    )
    assert (
        "learning rates of the layers, from the embeddings to the heads: --lr times 0.512, 0.64, 0.8, 1, 1.5" in output
    )
    before, after = load(pretrained)["model"], load(checkpoint)["model"]
    assert {name.split(".")[1] for name in after if name.startswith("heads.")} == {"answers"}
    assert before["beit3.text_embed.weight"].shape == after["beit3.text_embed.weight"].shape


def test_the_colours_are_learnt_and_validated(vqa):
    valid = last(vqa[1], "valid")
    assert float(valid["valid_vqa_score"]) == 100 and float(valid["valid_loss"]) < 2
    assert float(valid["valid_moe_gate_loss"]) > 0 and "valid_best_vqa_score" in valid


def test_a_resumed_training_is_the_one_that_never_stopped(tmp_path, data, pretrained, run_cli):
    folders = tmp_path / "whole", tmp_path / "parts"
    words = [*MODEL, *FINETUNING, *VQA, "--finetune-from-model", pretrained, "--disable-validation"]
    words += "--lr-scheduler polynomial_decay --warmup-updates 2 --total-num-update 9".split()
    for folder, stops in zip(folders, ([5], [2, 5]), strict=True):
        for stop in stops:  # an epoch has three updates
            run_cli("fairseq-train", data["vqa"], *words, "--max-update", stop, "--save-dir", folder)
    whole, parts = (load(folder / "checkpoint_last.pt")["model"] for folder in folders)
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def test_answers_in_the_official_format(vqa, data, tmp_path, capsys):
    checkpoint, _ = vqa
    words = [str(checkpoint), str(data["vqa"]), "--output", str(tmp_path), "--cpu", "--num-workers", "0"]
    evaluate_vqa.main([*words, "--split", "test"])
    results = json.loads((tmp_path / "vqa_test_results.json").read_text())
    assert [each["question_id"] for each in results] == list(range(1030, 1036))
    assert [each["answer"] for each in results] == ["red", "green", "blue"] * 2
    assert json.loads((tmp_path / "vqa_test_scores.json").read_text())["metrics"] == {}

    def annotation(number):
        people = [["red", "green", "blue"][(number - 1000) % 3]] * (2 if number == 1024 else 10)
        return {"question_id": number, "answers": [{"answer": a} for a in people + ["?"] * (10 - len(people))]}

    official = tmp_path / "annotations.json"
    official.write_text(json.dumps({"annotations": [annotation(number) for number in range(1024, 1030)]}))
    capsys.readouterr()
    evaluate_vqa.main([*words, "--split", "valid", "--annotations", str(official), "--batch-size", "4"])
    scores = json.loads((tmp_path / "vqa_valid_scores.json").read_text())
    assert scores["metrics"]["vqa_score"] == 100 and scores["examples"] == 6
    assert scores["metrics"]["vqa_accuracy"] == pytest.approx(100 * 5.6 / 6)
    printed = capsys.readouterr().out
    assert "vqa_accuracy" in printed and "93.33" in printed
    finetuning_table.main([str(tmp_path / f"vqa_{split}_scores.json") for split in ("valid", "test")])
    assert "by_answer_type: unknown" in capsys.readouterr().out


def test_statements_about_two_images(tmp_path, data, pretrained, run_cli, capsys):
    words = [*MODEL, *FINETUNING, *NLVR2, "--finetune-from-model", pretrained, "--max-update", 3]
    done = run_cli("fairseq-train", data["nlvr2"], *words, "--save-dir", tmp_path)
    accuracy = float(last(done.stdout, "valid")["valid_accuracy"])
    words = [tmp_path / "checkpoint_last.pt", data["nlvr2"], "--split", "valid", "--cpu", "--num-workers", 0]
    evaluate_nlvr2.main(list(map(str, words)))
    lines = (tmp_path / "nlvr2_valid_predictions.csv").read_text().splitlines()
    assert len(lines) == 6 and {line.split(",")[1] for line in lines} <= {"True", "False"}
    assert all(line.startswith("dev-") for line in lines)
    scores = json.loads((tmp_path / "nlvr2_valid_scores.json").read_text())
    assert scores["metrics"]["accuracy"] == pytest.approx(accuracy, abs=0.01)
    assert "consistency" in capsys.readouterr().out


def test_a_checkpoint_of_another_task_is_refused(vqa, pretrained, data):
    for program, checkpoint, words in (
        (evaluate_nlvr2, vqa[0], "was trained for task vqa, expected nlvr2"),
        (evaluate_vqa, vqa[0].with_name("none.pt"), "no checkpoint"),
    ):
        with pytest.raises(SystemExit, match=f"error: .*{words}"):
            program.main([str(checkpoint), str(data["vqa"]), "--cpu"])
    with pytest.raises(SystemExit, match="error: .*no split 'dev'"):
        evaluate_vqa.main([str(vqa[0]), str(data["vqa"]), "--cpu", "--split", "dev"])
