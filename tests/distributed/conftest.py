"""What tests in several processes share."""

import pytest

from .launcher import describe, program_ranks, train_words


@pytest.fixture(scope="session")
def train_ranks(tiny_data_dir):
    """train_ranks(save_dir, processes=2, check=True, **options): fairseq-train in forked ranks -> list of Ended.

    `data`, `before`, `seconds` and `environment` are as in launcher.program_ranks.
    """

    def start(save_dir, processes=2, check=True, data=tiny_data_dir, **options):
        job = {name: options.pop(name) for name in ("before", "seconds", "environment") if name in options}
        ended = program_ranks("fairseq-train", train_words(data, save_dir, **options), processes, **job)
        if check:
            assert all(rank.status == 0 for rank in ended), describe(ended)
        return ended

    return start


@pytest.fixture(scope="session")
def spread_checkpoint(train_ranks, tmp_path_factory):
    """A checkpoint of two processes, which spread the 4 experts; the model takes 512 tokens."""
    folder = tmp_path_factory.mktemp("spread")
    train_ranks(folder, max_update=5, disable_validation=True, max_target_positions=512)
    return folder / "checkpoint_last.pt"
