"""What a fine-tuned model answers to every example of a split."""

import logging

import torch
from fairseq import utils
from fairseq.logging import progress_bar

from fairseq_mhmoe.evaluation.loading import Loaded

logger = logging.getLogger(__name__)


def predict(loaded: Loaded, split: str, batch_size: int, workers: int = 0, log_format: str | None = None):
    """The class with the largest logit of every example.

    Args:
        loaded: a model of task vqa or nlvr2.
        log_format: of fairseq's progress bar; None: a bar on a terminal.
    Returns:
        (int64 [N] in the order of the index, the split's Examples).
    Raises:
        ValueError: the split has no index, its index has bad lines, or an image is missing.
    """
    task = loaded.task
    task.load_dataset(split)
    dataset = task.dataset(split)
    if dataset.records.bad_lines:
        raise ValueError(
            f"{dataset.records.bad_lines} lines of split {split} are bad (see the log): a result needs every example; "
            "repair the index"
        )
    batches = task.get_batch_iterator(dataset, max_sentences=batch_size, num_workers=workers)
    batches = progress_bar.progress_bar(
        batches.next_epoch_itr(shuffle=False), log_format=log_format, default_log_format="tqdm", prefix=f"{split} "
    )
    found = torch.full((len(dataset),), -1, dtype=torch.int64, device=loaded.device)
    with torch.inference_mode():
        for sample in batches:
            sample = utils.move_to_cuda(sample, loaded.device) if loaded.device.type == "cuda" else sample
            logits, _ = loaded.model(**sample["net_input"])
            found[sample["id"]] = logits.argmax(dim=1)
    assert int(found.min()) >= 0, "every example is answered once"
    return found.cpu(), dataset
