"""Fine-tuning for captions through fairseq-train, and captions of its checkpoint: on a few drawn pictures."""

import json
import math

import pytest

from fairseq_mhmoe.cli.evaluate_captions import main

from ..captioning_data import COLORS, captions_of, write_captioning_data

TRAINING = (
    "--user-dir fairseq_mhmoe --cpu --task captioning --criterion captioning --optimizer adam --lr 5e-3 --batch-size 8 "
    "--required-batch-size-multiple 1 --num-workers 0 --no-epoch-checkpoints --arch mhmoe_multimodal_tiny "
    "--encoder-embed-dim 32 --encoder-ffn-embed-dim 64 --encoder-layers 2 --encoder-attention-heads 2 --image-size 16 "
    "--patch-size 8 --moe-freq 2 --moe-expert-count 4 --moe-top-k 2 --mhmoe-heads-number 2 --moe-ffn-dim 32 "
    "--log-format json --log-interval 10 --image-augmentation none --max-text-length 12 "
    "--clip-norm 1 --validate-interval 1000 --save-interval 1000 --no-save-optimizer-state"
).split()


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny_data_dir):
    return write_captioning_data(tmp_path_factory.mktemp("captioning") / "data", tiny_data_dir, ("train", "valid"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data, run_cli):
    """(folder with checkpoint_last.pt, lines of the log)."""
    folder = tmp_path_factory.mktemp("captioning-run")
    output = run_cli("fairseq-train", data, *TRAINING, "--max-update", 60, "--save-dir", folder).stdout
    lines = [line[line.index("{") :] for line in output.splitlines() if '"train_' in line or '"valid_' in line]
    return folder, [json.loads(line) for line in lines]


def caption(trained, data, folder, *options):
    """Runs the program -> (results, scores)."""
    arguments = [trained[0] / "checkpoint_last.pt", data, "--output", folder, "--cpu", "--num-workers", "0", *options]
    main([str(argument) for argument in arguments])
    split = options[options.index("--split") + 1] if "--split" in options else "test"
    files = (folder / f"captioning_{split}_{name}.json" for name in ("results", "scores"))
    return [json.loads(path.read_text()) for path in files]


def test_training_learns_and_logs(trained):
    valid = [line for line in trained[1] if "valid_ppl" in line][-1]
    # of 330 symbols
    assert float(valid["valid_ppl"]) < 6 and float(valid["valid_accuracy_text"]) > 0.5
    # the loss, with smoothed labels, is larger than what is reported as nll
    train = [line for line in trained[1] if "train_ppl" in line][-1]
    assert float(train["train_loss"]) > float(train["train_nll_loss"])
    assert 0 < float(train["train_moe_l1_entropy"]) <= math.log(4) + 0.001


def test_captions_of_pictures_name_what_is_on_them(trained, data, tmp_path, capsys):
    results, scores = caption(trained, data, tmp_path, "--split", "valid", "--no-java")
    assert [result["image_id"] for result in results] == list(range(116, 122))
    expected = [captions_of(list(COLORS)[place % len(COLORS)]) for place in range(6)]
    assert all(result["caption"] in each for result, each in zip(results, expected, strict=True)), results
    assert scores["metrics"]["BLEU@2"] > 99 and scores["examples"] == 6 and scores["references"] == 12
    assert {**scores["generation"], "mean_score": 0} == {
        "beam": 3, "max_length": 10, "length_penalty": 0.6, "mean_score": 0,
    }  # fmt: skip
    assert f"{scores['metrics']['CIDEr']:.1f}" in capsys.readouterr().out


def test_a_split_without_captions_gives_results_and_no_scores(trained, data, tmp_path, capsys):
    results, scores = caption(trained, data, tmp_path, "--beam", "1", "--max-length", "4", "--without-memory")
    assert len(results) == 5 and scores["metrics"] == {}
    assert "no scores" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="--max-length 40: the model takes 10 tokens"):
        caption(trained, data, tmp_path, "--max-length", "40")


@pytest.mark.parametrize(
    "option, words",
    [
        (("--caption-mask-ratio", "0"), "--caption-mask-ratio 0.0: expected more than 0"),
        (("--valid-subset", "test"), '5 of 5 lines are bad: .*no text: expected "text_segment"'),
    ],
)
def test_what_can_not_be_trained_on_is_told(data, option, words):
    import re

    from fairseq import options, tasks
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    import fairseq_mhmoe  # noqa: F401

    args = options.parse_args_and_arch(options.get_training_parser(), [str(data), *TRAINING[2:], *option])
    with pytest.raises(ValueError) as caught:
        cfg = convert_namespace_to_omegaconf(args)
        tasks.setup_task(cfg.task).load_dataset(cfg.dataset.valid_subset)
    assert re.search(words, str(caught.value))
