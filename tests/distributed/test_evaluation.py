"""fairseq-eval-lm and fairseq-validate print what one process prints, however many there are."""

import re
import shutil

import pytest

from .launcher import describe, program_ranks

EVALUATION = ["--user-dir", "fairseq_mhmoe", "--cpu", "--num-workers", "0"]


@pytest.fixture
def evaluate(spread_checkpoint, tiny_data_dir):
    def run(program, *words, processes):
        words = [tiny_data_dir, *EVALUATION, "--task", "gpt", "--path", spread_checkpoint, *words]
        return program_ranks(program, words, processes)

    return run


def result_of(ended):
    """Loss and perplexity that exactly one rank, the first, has printed."""
    assert all(rank.status == 0 for rank in ended), describe(ended)
    printed = [re.findall(r"Loss \(base 2\): ([\d.]+), Perplexity: ([\d.]+)", rank.output) for rank in ended]
    assert [len(lines) for lines in printed] == [1] + [0] * (len(ended) - 1)
    [tokens] = re.findall(r"Evaluated ([\d,]+) tokens", ended[0].output)
    return *printed[0][0], tokens


@pytest.mark.parametrize(
    "words, processes",
    [
        (["--tokens-per-sample", 64, "--batch-size", 8], [2, 3]),
        (["--tokens-per-sample", 64, "--batch-size", 8, "--context-window", 32, "--softmax-batch", 40], [2]),
        (["--sample-break-mode", "eos", "--tokens-per-sample", 512, "--batch-size", 12], [4]),  # 3 batches
    ],
)
def test_eval_lm_prints_the_result_of_one_process(words, processes, evaluate):
    expected = result_of(evaluate("fairseq-eval-lm", *words, processes=1))
    for count in processes:
        assert result_of(evaluate("fairseq-eval-lm", *words, processes=count)) == expected


def test_the_experts_are_spread(evaluate):
    def parameters(processes):
        ended = evaluate("fairseq-eval-lm", "--tokens-per-sample", 512, processes=processes)
        return int(re.search(r"num. model params: ([\d,]+)", ended[0].output)[1].replace(",", ""))

    assert parameters(2) < parameters(1)


def test_eval_lm_refuses_what_one_process_only_can_do(evaluate):
    ended = evaluate("fairseq-eval-lm", "--output-word-probs", processes=2)
    assert all(rank.status != 0 for rank in ended)
    assert "fairseq-eval-lm with --output-word-probs works in one process, and there are 2: start" in ended[0].output


@pytest.mark.parametrize("processes", [1, 2])
def test_a_bit_flipped_in_a_shard_is_refused(processes, spread_checkpoint, tiny_data_dir, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(spread_checkpoint.parent, folder)
    shard = max(folder.glob("experts/*/experts-00001-of-00002.pt"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    words = [tiny_data_dir, *EVALUATION, "--task", "gpt", "--path", folder / spread_checkpoint.name]
    ended = program_ranks("fairseq-eval-lm", words, processes)
    assert all(rank.status == 1 for rank in ended), describe(ended)
    assert any(f"{shard}: was changed or is of another checkpoint" in rank.output for rank in ended)
    assert not any("Perplexity" in rank.output for rank in ended)


def test_validate_prints_the_numbers_of_one_process(spread_checkpoint, tiny_data_dir):
    def validate(processes):
        words = [
            tiny_data_dir,
            *EVALUATION,
            "--task",
            "gpt",
            "--path",
            spread_checkpoint,
            "--batch-size",
            40,
            "--log-format",
            "json",
        ]
        ended = program_ranks("fairseq-validate", words, processes)
        assert all(rank.status == 0 for rank in ended), describe(ended)
        printed = [re.findall(r"^.*\| valid \| (\{.*\})$", rank.output, re.MULTILINE) for rank in ended]
        assert [len(lines) for lines in printed] == [1] + [0] * (processes - 1)
        return printed[0]

    assert validate(2) == validate(1)
