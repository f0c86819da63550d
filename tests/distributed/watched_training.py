"""fairseq-train in forked ranks, with exact numbers of every update, or with a file-size limit on one rank."""

import hashlib
import json
import os
import resource
import sys

import torch
from fairseq import checkpoint_utils
from fairseq.trainer import Trainer
from fairseq_cli.train import cli_main

from ..forks import ROOT
from .launcher import describe, fork_ranks, torchrun_environment, train_words


def train_watched(data, save_dir, processes, check=True, seconds=120, watch=None, **options):
    """Trains a tiny model -> list of Ended.

    Args:
        watch: {"numbers": file to which rank 0 appends [update, loss, gradient norm] as JSON, a line each;
            "limit": [rank, bytes, update], what one rank can write into a file when it saves after that update}.
    """
    words = train_words(data, save_dir, **options)
    call = (_train, ([str(word) for word in words], watch or {}))
    ended = fork_ranks(call, processes, seconds, lambda rank, port: torchrun_environment(rank, processes, port), True)
    if check:
        assert all(rank.status == 0 for rank in ended), describe(ended)
    return ended


def numbers(path):
    """{update: (loss, gradient norm)} from what was appended."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({update for update, _, _ in lines}) == len(lines), "an update was made twice"
    return {update: (loss, norm) for update, loss, norm in lines}


def digest(value):
    """{path: hash of the bytes} of every tensor and number in a nested state."""
    if isinstance(value, dict):
        return {f"{key}.{path}": h for key, item in value.items() for path, h in digest(item).items()}
    if isinstance(value, list | tuple):
        return digest(dict(enumerate(value)))
    if torch.is_tensor(value):
        content = value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    else:
        content = repr(value).encode()
    return {"": hashlib.sha256(content).hexdigest()}


def _train(words, watch):
    if "numbers" in watch and os.environ["RANK"] == "0":
        _append_numbers(watch["numbers"])
    if "limit" in watch and os.environ["RANK"] == str(watch["limit"][0]):
        _limit_saving(*watch["limit"][1:])
    os.chdir(ROOT)
    sys.argv = ["fairseq-train", *words]
    cli_main()


def _append_numbers(path):
    reduce_and_log = Trainer._reduce_and_log_stats

    def append(trainer, logging_outputs, sample_size, grad_norm=None):
        if grad_norm is not None:
            loss = sum(float(output["loss"]) for output in logging_outputs) / float(sample_size)
            with open(path, "a") as file:
                file.write(json.dumps([trainer.get_num_updates(), loss, float(grad_norm)]) + "\n")
        return reduce_and_log(trainer, logging_outputs, sample_size, grad_norm)

    Trainer._reduce_and_log_stats = append


def _limit_saving(size, update):
    save_checkpoint = checkpoint_utils.save_checkpoint

    def save_within_limit(cfg, trainer, *args, **kwargs):
        if trainer.get_num_updates() < update:
            return save_checkpoint(cfg, trainer, *args, **kwargs)
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
        try:
            return save_checkpoint(cfg, trainer, *args, **kwargs)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    checkpoint_utils.save_checkpoint = save_within_limit
