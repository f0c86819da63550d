"""Tasks built from command-line words, and folders with chosen documents."""

from copy import deepcopy
from functools import lru_cache

import numpy as np
import pytest
from fairseq import options
from fairseq import tasks as fairseq_tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

import fairseq_mhmoe  # noqa: F401  registers the task
from data_prep.fairseq_index import IndexWriter
from tests.data import folders


@pytest.fixture(scope="session")
def make_task():
    """make_task(folder, "--add-bos-token", ..., tokens_per_sample=8): the task as fairseq-train would build it.

    The words are a command line's; keywords change the configuration that comes out, which is faster.
    """

    @lru_cache
    def parse(*words):
        words = ["FOLDER", "--task", "gpt", "--arch", "transformer_lm", *words]
        parsed = options.parse_args_and_arch(options.get_training_parser(), words)
        return convert_namespace_to_omegaconf(parsed).task

    def make(folder, *words, **fields):
        config = deepcopy(parse(*map(str, words)))
        for name, value in {"data": str(folder), **fields}.items():
            config[name] = value
        return fairseq_tasks.setup_task(config)

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


@pytest.fixture(scope="session")
def write_sources():
    """write_sources(folder, manifest=True, weights=None, en={"train": [shard, ...]}, ...): see data/folders.py."""
    return folders.write_sources
