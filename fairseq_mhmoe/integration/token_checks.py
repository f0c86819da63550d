"""Refuses a batch with token numbers that the dictionary does not have, before fairseq 0.12.3.1 moves it to a GPU.

There, such a number ends in a device-side assertion that names neither token nor rank, at some later operation. The
batch is still in the host's memory here, so looking at it waits for nothing.
"""

from fairseq.trainer import Trainer

from fairseq_mhmoe.integration.hooks import wrap


def install():
    """Installs the hook of this file."""
    wrap(Trainer, "_prepare_sample", prepare_checked_sample)


def prepare_checked_sample(original, trainer, sample, *args, **kwargs):
    """Prepares a batch whose tokens are all in the dictionary.

    Raises:
        ValueError: with the first token that is not.
    """
    if isinstance(sample, dict) and "net_input" in sample:
        check_tokens(sample["net_input"].get("src_tokens"), dictionary_of(trainer.task, "source_dictionary"), sample)
        check_tokens(sample.get("target"), dictionary_of(trainer.task, "target_dictionary"), sample)
        check_streams(sample, dictionary_of(trainer.task, "source_dictionary"))
    return original(trainer, sample, *args, **kwargs)


def check_streams(sample, dictionary):
    """Raises ValueError unless the texts of a batch of streams, whose rows have their ids in order, are in it."""
    ids, targets = sample.get("id"), sample.get("targets")
    for name, stream in sample["net_input"].items():
        if not isinstance(stream, dict):
            continue
        rows = next((len(stream[part]) for part in ("images", "tokens") if part in stream), 0)
        known = {} if ids is None else {"id": ids[:rows]}
        ids = None if ids is None else ids[rows:]
        check_tokens(stream.get("tokens"), dictionary, known)
        if isinstance(targets, dict) and name in targets:
            # not rows: a masked token belongs to some row
            check_tokens(targets[name].get("text"), dictionary, {})


def dictionary_of(task, name):
    """A task's dictionary, None when it has none."""
    try:
        return getattr(task, name, None)
    except NotImplementedError:
        return None


def check_tokens(tokens, dictionary, sample):
    """Raises ValueError unless tokens [B, T] in the host's memory are numbers of the dictionary's."""
    if tokens is None or dictionary is None or tokens.device.type != "cpu" or tokens.is_floating_point():
        return
    if tokens.numel() == 0:
        return
    low, high = (int(value) for value in tokens.aminmax())
    if low >= 0 and high < len(dictionary):
        return
    wrong = low if low < 0 else high
    row = int((tokens == wrong).flatten(1).any(dim=1).nonzero()[0]) if tokens.dim() > 1 else 0
    number = sample["id"].flatten()[row].item() if row < len(sample.get("id", ())) else "unknown"
    raise ValueError(
        f"invalid batch: token {wrong} in sample {number}, expected 0 to {len(dictionary) - 1}: the data was prepared "
        "with another dictionary; prepare it again, or name the folder with its own dict.txt"
    )
