"""fairseq-generate in several processes writes what one process writes, once."""

import pytest

from .launcher import describe, program_ranks, words_of


@pytest.fixture
def generate(spread_checkpoint, tiny_data_dir):
    """generate(processes, **options) -> list of Ended."""

    def run(processes, **options):
        settings = dict(
            user_dir="fairseq_mhmoe", cpu=True, task="gpt", path=spread_checkpoint, gen_subset="valid", beam=3,
            sample_break_mode="eos", tokens_per_sample=512, max_len_b=8, prefix_size=4, batch_size=6, num_workers=0,
        )  # fmt: skip
        ended = program_ranks("fairseq-generate", [tiny_data_dir, *words_of({**settings, **options})], processes)
        assert all(rank.status == 0 for rank in ended), describe(ended)
        return ended

    return run


def results(text):
    """The lines that do not depend on the time."""
    return [line for line in text.splitlines() if line[:2] in {"S-", "T-", "H-", "D-", "P-"} or "Generate" in line]


@pytest.fixture
def alone(generate):
    return results(generate(1)[0].output)


def test_the_first_rank_prints_everything_in_order(generate, alone):
    first, *others = generate(3)
    assert results(first.output) == alone
    assert [line.split("\t")[0][:2] for line in alone].count("H-") == 23
    assert "Translated 23 sentences" in first.output
    assert not any(results(rank.output) for rank in others)


def test_one_file_holds_the_results(generate, alone, tmp_path):
    ended = generate(2, results_path=tmp_path, batch_size=23)  # a single batch
    assert [path.name for path in tmp_path.iterdir()] == ["generate-valid.txt"]
    found = results((tmp_path / "generate-valid.txt").read_text())
    assert len(found) == len(alone) and found[-1] == alone[-1]
    assert not any(results(rank.output) for rank in ended)
