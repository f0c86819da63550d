"""Tasks built from command-line words, and folders with chosen documents."""

import numpy as np
import pytest
from fairseq import options
from fairseq import tasks as fairseq_tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

import fairseq_mhmoe  # noqa: F401  registers the task
from data_prep.fairseq_index import IndexWriter


@pytest.fixture(scope="session")
def make_task():
    """make_task(folder, "--tokens-per-sample", "8", ...): the task as fairseq-train would build it."""

    def make(folder, *words, task="gpt"):
        words = [str(folder), "--task", task, "--arch", "transformer_lm", *map(str, words)]
        parsed = options.parse_args_and_arch(options.get_training_parser(), words)
        return fairseq_tasks.setup_task(convert_namespace_to_omegaconf(parsed).task)

    return make


@pytest.fixture(scope="session")
def write_folder():
    """write_folder(folder, train=[[5, 6, 2], ...], ...): a data folder with a dictionary of 50 symbols, no manifest."""

    def write(folder, **splits):
        folder.mkdir(exist_ok=True)
        (folder / "dict.txt").write_text("".join(f"w{number} 1\n" for number in range(46)))
        for split, documents in splits.items():
            with IndexWriter(folder / split, np.uint16) as writer:
                for tokens in documents:
                    writer.add(np.array(tokens))
        return folder

    return write
