"""Task `gpt`: fairseq's language modeling on a prepared folder, with checks, text in and out, and no text dropped."""

import itertools
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

import numpy as np
from fairseq import utils
from fairseq.data import TruncatedDictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset
from fairseq.tasks import register_task
from fairseq.tasks.language_modeling import LanguageModelingConfig, LanguageModelingTask

from fairseq_mhmoe.data.checks import check_split, load_dictionary
from fairseq_mhmoe.data.text import SentencePieceText

logger = logging.getLogger(__name__)

MODEL_IN_FOLDER = "spm.model"
# fairseq's TokenBlockDataset keeps the sizes of its samples in 16 bits when blocks are shorter than that
LONGEST_SAMPLE = 65535


@dataclass
class GPTConfig(LanguageModelingConfig):
    """Options of the task, beside those of language_modeling."""

    spm_model: Optional[str] = field(
        default=None,
        metadata={
            "help": "SentencePiece model for text in and out of generation (default: spm.model in the data folder)"
        },
    )
    pad_to_max_len: bool = field(
        default=False, metadata={"help": "pad every sample to --tokens-per-sample, so that all batches have one shape"}
    )
    batch_read_ahead: Optional[int] = field(
        default=None, metadata={"help": "batches that are prepared ahead (default: --data-buffer-size, at most 20)"}
    )


@register_task("gpt", dataclass=GPTConfig)
class GPTTask(LanguageModelingTask):
    """Next-token prediction over documents that are packed into blocks of --tokens-per-sample tokens.

    A document ends in eos and the next one follows in the same block (--sample-break-mode none), so that every token
    of the data is a target exactly once per epoch. Where other settings would leave text out, the task raises.
    """

    @classmethod
    def setup_dictionary(cls, args, **kwargs):
        """Dictionary of the first data folder and, with --output-dictionary-size, its first symbols."""
        if not args.data:
            raise ValueError("task gpt needs a data folder as its first argument")
        dictionary = load_dictionary(Path(utils.split_paths(args.data)[0]))
        logger.info(f"dictionary: {len(dictionary):,} types")
        if args.output_dictionary_size >= 0:
            return dictionary, TruncatedDictionary(dictionary, args.output_dictionary_size)
        return dictionary, dictionary

    @classmethod
    def setup_task(cls, args, **kwargs):
        """Check the options and build the task; ValueError names the option that is wrong."""
        if args.tokens_per_sample < 1:
            raise ValueError(
                f"--tokens-per-sample is {args.tokens_per_sample}, less --context-window where there is one; "
                "expected 1 or more"
            )
        if args.max_target_positions is not None and args.tokens_per_sample > args.max_target_positions:
            raise ValueError(
                f"--tokens-per-sample {args.tokens_per_sample} is more than --max-target-positions "
                f"{args.max_target_positions}; lower the one or raise the other"
            )
        if args.batch_read_ahead is not None and args.batch_read_ahead < 0:
            raise ValueError(f"--batch-read-ahead is {args.batch_read_ahead}; expected 0 or more")
        if args.spm_model is not None and not Path(args.spm_model).is_file():
            raise ValueError(f"--spm-model: no file {args.spm_model}")
        if args.pad_to_max_len:
            args.pad_to_fixed_length = True
        return super().setup_task(args, **kwargs)

    def load_dataset(self, split, epoch=1, combine=False, **kwargs):
        """Load a split, after checking that its files are whole and belong to the dictionary (ValueError)."""
        paths = [Path(path) for path in utils.split_paths(self.args.data)]
        folder = paths[(epoch - 1) % len(paths)]
        if self.args.dataset_impl in (None, "mmap"):
            self._check(folder, split, paths[0])
            # fairseq then reads train, train1, train2, ...
            more = (f"{split}{number}" for number in itertools.count(1)) if combine else ()
            for name in itertools.takewhile(lambda name: MMapIndexedDataset.exists(str(folder / name)), more):
                self._check(folder, name, paths[0])
        super().load_dataset(split, epoch=epoch, combine=combine, **kwargs)

    def _check(self, folder: Path, split: str, first_folder: Path):
        summary = check_split(folder, split, first_folder, self.dictionary)
        logger.info(f"{split}: {summary.documents:,} documents, {summary.tokens:,} tokens")
        if str(self.args.sample_break_mode) != "none" and summary.longest > LONGEST_SAMPLE:
            raise ValueError(
                f"{folder / split} holds a document of {summary.longest} tokens, fairseq counts {LONGEST_SAMPLE} "
                f"in one sample; use --sample-break-mode none instead of {self.args.sample_break_mode}"
            )

    def filter_indices_by_size(self, indices, dataset, max_positions=None, ignore_invalid_inputs=False):
        """All indices; where fairseq would leave out samples that are too long, ValueError."""
        indices, ignored = dataset.filter_indices_by_size(indices, max_positions)
        if len(ignored) > 0:
            longest = max(int(np.max(dataset.size(index))) for index in ignored)
            raise ValueError(
                f"{len(ignored)} samples of up to {longest} tokens are longer than {max_positions}, the smallest of "
                "--max-tokens and the positions of task and model: use --sample-break-mode none with fewer "
                "--tokens-per-sample, or raise that limit"
            )
        return indices

    def get_batch_iterator(
        self, dataset, *, epoch=1, disable_iterator_cache=False, update_epoch_batch_itr=False, **kwargs
    ):
        """fairseq's epoch iterator, with the same batches after a restart, and --batch-read-ahead batches ready."""
        # fairseq forms the batches once and shuffles them for every epoch; but how it forms them depends on the epoch
        # in which it starts, so that a run resumed in its second epoch would go on with other batches
        kept_for_all_epochs = not (disable_iterator_cache or update_epoch_batch_itr)
        is_new = dataset not in self.dataset_to_epoch_iter
        iterator = super().get_batch_iterator(
            dataset,
            epoch=1 if kept_for_all_epochs else epoch,
            disable_iterator_cache=disable_iterator_cache,
            update_epoch_batch_itr=update_epoch_batch_itr,
            **kwargs,
        )
        if kept_for_all_epochs and is_new:
            dataset.set_epoch(epoch)
            iterator.epoch = max(epoch, 1)
        if self.args.batch_read_ahead is not None:
            # not as an argument: fairseq would cut it to 20
            iterator.buffer_size = self.args.batch_read_ahead
        return iterator

    def eval_lm_dataloader(self, dataset, *args, max_positions=None, context_window=0, **kwargs):
        """Batches for fairseq-eval-lm, in blocks that the model can take: shorter ones than asked for, if need be."""
        longest = self.args.tokens_per_sample + context_window
        if max_positions is not None and longest > max_positions:
            if context_window >= max_positions:
                raise ValueError(
                    f"--context-window {context_window} leaves none of the model's {max_positions} positions for "
                    "tokens to score; lower it"
                )
            logger.warning(f"the model has {max_positions} positions: blocks are cut to that from {longest} tokens")
            split = next(name for name, loaded in self.datasets.items() if loaded is dataset)
            self.args.tokens_per_sample = max_positions - context_window
            self.load_dataset(split)
            dataset = self.dataset(split)
        return super().eval_lm_dataloader(
            dataset, *args, max_positions=max_positions, context_window=context_window, **kwargs
        )

    def build_bpe(self, args):
        """What turns text into pieces and back: the one that --bpe names, else --spm-model or the folder's model."""
        bpe = super().build_bpe(args)
        if bpe is not None:
            if self.args.spm_model is not None:
                logger.warning("--spm-model has no effect beside --bpe")
            return bpe
        in_folder = Path(utils.split_paths(self.args.data)[0]) / MODEL_IN_FOLDER
        path = Path(self.args.spm_model) if self.args.spm_model is not None else in_folder
        return SentencePieceText(path, self.dictionary) if path.is_file() else None
