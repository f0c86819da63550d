"""Task `gpt`: fairseq's language modeling on a prepared folder, with checks, text in and out, and no text dropped."""

import logging
from functools import cached_property
from pathlib import Path

import numpy as np
from fairseq import utils
from fairseq.data import TruncatedDictionary
from fairseq.tasks import register_task
from fairseq.tasks.language_modeling import LanguageModelingTask

from fairseq_mhmoe.data import text
from fairseq_mhmoe.data.batches import MixtureIterator, SourcesDataset, all_indices, forget_itself
from fairseq_mhmoe.data.blocks import Blocks
from fairseq_mhmoe.data.checks import DICTIONARY, load_dictionary
from fairseq_mhmoe.data.folder import LOGGED, DataFolder, Part
from fairseq_mhmoe.data.mixture import Mixture, parse_weights, shares_by_alpha, shares_by_weight
from fairseq_mhmoe.data.sources import choose_sources, has_split
from fairseq_mhmoe.tasks.gpt_options import GPTConfig, check_options

logger = logging.getLogger(__name__)

SPM_MODEL = "spm.model"
TIKTOKEN_MODEL = "tokenizer.tiktoken"


@register_task("gpt", dataclass=GPTConfig)
class GPTTask(LanguageModelingTask):
    """Next-token prediction over documents that are packed into blocks of --tokens-per-sample tokens.

    A document ends in eos and the next one of its source follows in the same block (--sample-break-mode none), so that
    every token of the data is a target exactly once per epoch, unless --sampling-alpha or weights mix the sources.
    Where other settings would leave text out, the task raises.
    """

    @classmethod
    def setup_dictionary(cls, args, **kwargs):
        """Dictionary of the first data folder and, with --output-dictionary-size, its first symbols."""
        if not args.data:
            raise ValueError("task gpt needs a data folder as its first argument")
        dictionary = load_dictionary(data_paths(args)[0], Path(args.dict_path) if args.dict_path else None)
        logger.info(f"dictionary: {len(dictionary):,} types")
        if args.output_dictionary_size >= 0:
            return dictionary, TruncatedDictionary(dictionary, args.output_dictionary_size)
        return dictionary, dictionary

    @classmethod
    def setup_task(cls, args, **kwargs):
        """Check the options and build the task; ValueError names the option that is wrong."""
        check_options(args)
        if args.pad_to_max_len:
            args.pad_to_fixed_length = True
        task = super().setup_task(args, **kwargs)
        task.check_sources()
        return task

    @cached_property
    def source_names(self) -> list[str]:
        """The sources that are read, those of all folders together; batches tell a row's source by its number here."""
        found = {}
        for folder in self._folders:
            found.update((source.name, source) for source in folder.sources)
        return [source.name for source in choose_sources(list(found.values()), self.args.sources)]

    def check_sources(self) -> None:
        """ValueError where options name sources that are not there; a warning where they have no effect."""
        names = self.source_names
        weighted = parse_weights(self.args.source_weights) if self.args.source_weights is not None else {}
        unknown = [name for name in weighted if name not in names]
        if unknown:
            raise ValueError(f"--source-weights: no source {unknown[0]!r} is read; those are {', '.join(names[:20])}")
        if len(names) == 1 and (weighted or self.args.sampling_alpha != 1):
            option = "--source-weights" if weighted else "--sampling-alpha"
            logger.warning(f"{option} has no effect: the data have one source, {names[0]}")
        for folder in self._folders:
            if len(self._folders) > 1:
                folder.check_dictionary()
            chosen = [source for source in folder.sources if source.name in names]
            if not chosen:
                there = ", ".join(source.name for source in folder.sources[:20])
                raise ValueError(
                    f"--sources {self.args.sources}: {folder.path} has none of them, but {there}; leave the folder out"
                )
            if weighted:
                trained = [source.name for source in chosen if has_split(source, self.args.train_subset)]
                shares_by_weight(trained, weighted, "--source-weights")
        if self.args.use_plasma_view:
            logger.warning("--use-plasma-view has no effect: samples are read from the files, without lists to share")
        elsewhere = any(
            not source.folder.is_relative_to(folder.path) for folder in self._folders for source in folder.sources
        )
        if self.args.absolute_path and not elsewhere:
            logger.warning("--absolute-path has no effect: no source of the data folder lies elsewhere")

    def load_dataset(self, split, epoch=1, combine=False, **kwargs):
        """Load a split ("valid", or of one source "wikipedia/valid"), after checking its files (ValueError)."""
        paths = data_paths(self.args)
        # one folder at a time: a cached iterator would keep the last one
        self.dataset_to_epoch_iter.pop(self.datasets.pop(split, None), None)
        folder = self._folders[(epoch - 1) % len(paths)]
        if self.args.dataset_impl not in (None, "mmap"):
            self._need_one_source(f"--dataset-impl {self.args.dataset_impl}")
            super().load_dataset(split, epoch=epoch, combine=combine, **kwargs)
            return
        parts = folder.parts(split, self.source_names, combine)
        stock_option = self._stock_option(split)
        if stock_option:
            self._need_one_source(stock_option)
            super().load_dataset(split, epoch=epoch, combine=combine, **kwargs)
        else:
            self.datasets[split] = self._dataset(split, parts, folder, folders=len(paths))

    @cached_property
    def _folders(self) -> list[DataFolder]:
        """All data folders, so that what is wrong with a later one shows before training comes to it."""
        return [self._folder(path) for path in data_paths(self.args)]

    def _folder(self, path: Path) -> DataFolder:
        if not path.is_dir():
            raise ValueError(f"no data folder {path}; check the colon-separated list {self.args.data}")
        dictionary_path = Path(self.args.dict_path or data_paths(self.args)[0] / DICTIONARY)
        return DataFolder(path, dictionary_path, self.dictionary, self.args.absolute_path)

    def _stock_option(self, split: str) -> str | None:
        """The option for which fairseq's own classes read the data, None if there is none."""
        splits = self.args.shorten_data_split_list
        shortened = str(self.args.shorten_method) != "none" and (not splits or split in splits.split(","))
        return f"--shorten-method {self.args.shorten_method}" if shortened else None

    def _need_one_source(self, option: str) -> None:
        if len(self.source_names) > 1:
            raise ValueError(f"{option} works with data of one source, and there are {len(self.source_names)}")

    def _dataset(self, split: str, parts: list[Part], folder: DataFolder, folders: int) -> SourcesDataset:
        args, dictionary = self.args, self.dictionary
        blocks = [
            Blocks(
                part.files,
                block_size=args.tokens_per_sample,
                break_mode=str(args.sample_break_mode or "none"),
                eos=dictionary.eos(),
                pad=dictionary.pad(),
                with_past="past" in self.targets,
            )
            for part in parts
        ]
        ratios = [part.bytes_per_token for part in parts]
        several = len(self.source_names) > 1
        padded_batch = args.batch_size_valid if "valid" in split else args.batch_size
        return SourcesDataset(
            blocks,
            numbers=[self.source_names.index(part.source.name) for part in parts] if several else None,
            bytes_per_token=None if None in ratios else ratios,
            mixture=self._mixture(split, parts, blocks, folder),
            folders=folders,
            src_vocab=dictionary,
            tgt_vocab=self.output_dictionary,
            add_eos_for_other_targets=str(args.sample_break_mode or "none") != "none",
            targets=self.targets,
            add_bos_token=args.add_bos_token,
            fixed_pad_length=args.tokens_per_sample if args.pad_to_fixed_length else None,
            pad_to_bsz=padded_batch if args.pad_to_fixed_bsz else None,
        )

    def _mixture(self, split: str, parts: list[Part], blocks: list[Blocks], folder: DataFolder) -> Mixture | None:
        """How training mixes the sources; None where each sample comes once an epoch."""
        shares = self._shares(parts, folder) if split == self.args.train_subset and len(parts) > 1 else None
        if shares is None:
            return None
        mixture = Mixture([part.source.name for part in parts], [len(each) for each in blocks], shares, self.args.seed)
        for name, length, count in list(zip(mixture.names, mixture.lengths, mixture.counts, strict=True))[:LOGGED]:
            logger.info(
                f"{split}: {name}: {count / sum(mixture.lengths):.2%} of an epoch, {count / length:.3g} times its text"
            )
        return mixture

    def _shares(self, parts: list[Part], folder: DataFolder) -> np.ndarray | None:
        names = [part.source.name for part in parts]
        of_manifest = {part.source.name: part.source.weight for part in parts if part.source.weight is not None}
        if self.args.source_weights is not None:
            return shares_by_weight(names, parse_weights(self.args.source_weights), "--source-weights")
        if self.args.sampling_alpha != 1:
            if of_manifest:
                logger.warning(f"--sampling-alpha takes the place of the weights in {folder.path}'s manifest")
            return shares_by_alpha([part.tokens for part in parts], self.args.sampling_alpha)
        return shares_by_weight(names, of_manifest, f"{folder.path}'s manifest") if of_manifest else None

    def filter_indices_by_size(self, indices, dataset, max_positions=None, ignore_invalid_inputs=False):
        """All indices; where fairseq would leave out samples that are too long, ValueError."""
        return all_indices(indices, dataset, max_positions)

    def get_batch_iterator(
        self, dataset, *, epoch=1, disable_iterator_cache=False, update_epoch_batch_itr=False, **kwargs
    ):
        """fairseq's epoch iterator, with the same batches after a restart, and --batch-read-ahead batches ready."""
        if isinstance(dataset, SourcesDataset) and dataset.mixture is not None:
            cached = not (disable_iterator_cache or update_epoch_batch_itr)
            iterator = self._mixture_iterator(dataset, epoch, cached, **kwargs)
            return self._prepared(iterator)
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
        return self._prepared(iterator)

    def _prepared(self, iterator):
        forget_itself(iterator)
        if self.args.batch_read_ahead is not None:
            # not as an argument: fairseq would cut it to 20
            iterator.buffer_size = self.args.batch_read_ahead
        return iterator

    def _mixture_iterator(
        self,
        dataset,
        epoch,
        cached,
        *,
        max_tokens=None,
        max_sentences=None,
        max_positions=None,
        required_batch_size_multiple=1,
        ignore_invalid_inputs=False,
        data_buffer_size=0,
        seed=1,
        **kwargs,
    ):
        """An iterator whose epochs differ in their samples; arguments of fairseq's get_batch_iterator."""

        def make_batches(indices):
            if max_positions is not None:
                indices = all_indices(indices, dataset, max_positions)
            return dataset.batch_by_size(
                indices,
                max_tokens=max_tokens,
                max_sentences=max_sentences,
                required_batch_size_multiple=required_batch_size_multiple,
            )

        if cached and dataset in self.dataset_to_epoch_iter:
            return self.dataset_to_epoch_iter[dataset]
        iterator = MixtureIterator(
            dataset, make_batches, seed, epoch=epoch, buffer_size=data_buffer_size, reuse_dataloader=True, **kwargs
        )
        if cached:
            self.dataset_to_epoch_iter[dataset] = iterator
        return iterator

    def eval_lm_dataloader(self, dataset, *args, max_positions=None, context_window=0, **kwargs):
        """Batches for fairseq-eval-lm, in blocks that the model can take: shorter ones than asked for, if need be."""
        mixing = {"--sampling-alpha": self.args.sampling_alpha != 1, "--source-weights": self.args.source_weights}
        for option in [option for option, given in mixing.items() if given]:
            logger.warning(f"{option} has no effect in evaluation: each token is scored once")
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
        """What turns text into pieces and back: the one that --bpe names, else the task's option or the folder's."""
        bpe = super().build_bpe(args)
        spm_model, tiktoken_model = self.args.spm_model, self.args.tiktoken_model
        if bpe is not None:
            for option, value in {"--spm-model": spm_model, "--tiktoken-model": tiktoken_model}.items():
                if value is not None:
                    logger.warning(f"{option} has no effect beside --bpe")
            return bpe
        if spm_model is not None:
            return text.SentencePieceText(Path(spm_model), self.dictionary)
        if tiktoken_model is not None:
            return text.TiktokenText(tiktoken_model, self.dictionary)
        folder = data_paths(self.args)[0]
        if (folder / SPM_MODEL).is_file():
            return text.SentencePieceText(folder / SPM_MODEL, self.dictionary)
        if (folder / TIKTOKEN_MODEL).is_file():
            return text.TiktokenText(folder / TIKTOKEN_MODEL, self.dictionary)
        return None


def data_paths(args) -> list[Path]:
    """The data folders, one an epoch, separated by colons on the command line."""
    return [Path(path) for path in utils.split_paths(args.data)]
