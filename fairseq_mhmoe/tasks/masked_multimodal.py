"""Task `masked_multimodal`: masked images, texts and image-text pairs in every batch, as BEiT-3 is pre-trained."""

import logging
from pathlib import Path

import torch
from fairseq.data import Dictionary
from fairseq.tasks import FairseqTask, register_task

from fairseq_mhmoe.data.batches import all_indices
from fairseq_mhmoe.data.checks import DICTIONARY, load_dictionary
from fairseq_mhmoe.data.multimodal_batches import MultimodalDataset, Symbols
from fairseq_mhmoe.data.multimodal_streams import InOrder, Passes, StreamsIterator
from fairseq_mhmoe.tasks.masked_multimodal_data import StreamFolders
from fairseq_mhmoe.tasks.masked_multimodal_options import (
    MaskedMultimodalConfig,
    check_options,
    codes_wanted,
    streams_on,
    without_effect,
)
from fairseq_mhmoe.tasks.vocabulary import KEY, check_vocabulary, digest_of

logger = logging.getLogger(__name__)

MASK = "<mask>"
TOKENIZER = "image_tokenizer.pt"
# masks of validation are the same for all trainings, so that models can be compared
VALIDATION_SEED = 0


@register_task("masked_multimodal", dataclass=MaskedMultimodalConfig)
class MaskedMultimodalTask(FairseqTask):
    """Prediction of masked tokens, and of visual tokens of masked patches, in up to three streams at once.

    A batch has rows of each stream, in fixed numbers. An epoch is one pass over the stream that needs most batches; the
    others go on where they stopped. Crops and masks are functions of (seed, stream, pass, record) alone; validation
    reads every record once, uncropped, with masks that do not depend on the seed either.

    The visual tokenizer belongs to the task, not to the model: checkpoints hold only its hash.
    """

    def __init__(self, args, dictionary: Dictionary, dictionary_path: Path):
        super().__init__(args)
        self.args = args
        self.dictionary = dictionary
        symbols = (dictionary.bos(), dictionary.pad(), dictionary.eos(), dictionary.index(MASK))
        self.symbols = Symbols(*symbols, first=dictionary.nspecial, end=len(dictionary) - 1)
        self._folders = StreamFolders(args, dictionary, dictionary_path, self.symbols)
        self._tokenizer = self._load_tokenizer() if codes_wanted(args) else None
        self.state.merge_state_dict({"batch_sizes": self.batch_sizes(args.batch_size), KEY: digest_of(dictionary)})

    @classmethod
    def setup_task(cls, args, **kwargs):
        """Check the options and build the task; ValueError names the option that is wrong."""
        check_options(args)
        for message in without_effect(args):
            logger.warning(f"no effect: {message}")
        path = dictionary_path(args)
        dictionary = load_dictionary(path.parent)
        if MASK in dictionary:
            raise ValueError(f"{path} has a symbol {MASK}, which this task adds itself; prepare the text without it")
        dictionary.add_symbol(MASK)
        logger.info(f"dictionary: {len(dictionary):,} types with {MASK}")
        return cls(args, dictionary, path)

    @property
    def source_dictionary(self) -> Dictionary:
        """Of all text, with the mask as its last symbol."""
        return self.dictionary

    @property
    def target_dictionary(self) -> Dictionary:
        """The same."""
        return self.dictionary

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return self.args.image_size

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.args.patch_size

    @property
    def max_text_positions(self) -> int:
        """Length of the longest text, <s> and </s> among its tokens."""
        lengths = {"text": self.args.tokens_per_sample, "pair": self.args.caption_length}
        return max((lengths[name] for name in streams_on(self.args) if name in lengths), default=3)

    def max_positions(self) -> int:
        """As `max_text_positions`."""
        return self.max_text_positions

    def model_heads(self) -> dict[str, dict]:
        """What a model for this task predicts: {"image": codes, "text": symbols}, of these what any stream needs."""
        heads = {}
        if self._tokenizer is not None:
            heads["image"] = {"kind": "codes", "classes": self._tokenizer.num_codes}
        if set(streams_on(self.args)) & {"text", "pair"}:
            heads["text"] = {"kind": "text"}
        return heads

    def cost_options(self) -> MaskedMultimodalConfig:
        """Sizes of images and texts, and what of a pair is masked: what a model's cost depends on."""
        return self.args

    def _load_tokenizer(self):
        from fairseq_mhmoe.vision import load_tokenizer

        path = Path(self.args.image_tokenizer or Path(self.args.data) / TOKENIZER)
        if not path.is_file():
            raise ValueError(
                f"no visual tokenizer {path}; train one with scripts/train_image_tokenizer.sh, or name a file with "
                "--image-tokenizer"
            )
        tokenizer = load_tokenizer(path)
        if tokenizer.patch_size != self.args.patch_size:
            raise ValueError(
                f"{path} has patches of {tokenizer.patch_size} pixels, --patch-size is {self.args.patch_size}; they "
                "must be equal"
            )
        if self.args.num_codes not in (None, tokenizer.num_codes):
            raise ValueError(f"{path} has {tokenizer.num_codes} codes, --num-codes is {self.args.num_codes}")
        self.state.merge_state_dict({"image_tokenizer": tokenizer.fingerprint()})
        logger.info(f"visual tokenizer: {path}, {tokenizer.num_codes:,} codes, {self.state.image_tokenizer}")
        return tokenizer

    def load_state_dict(self, state_dict: dict) -> None:
        """Look at the state in a checkpoint, of which nothing is taken over.

        Raises:
            ValueError: the training that left this state had another visual tokenizer or dictionary.
        """
        check_vocabulary(state_dict, self.state_dict())
        before, now = state_dict.get("image_tokenizer"), self.state_dict().get("image_tokenizer")
        if None not in (before, now) and before != now:
            raise ValueError(
                f"the checkpoint was trained with another visual tokenizer (hash {before[:12]}, now {now[:12]}), whose "
                "codes have other meanings; name that one with --image-tokenizer, or take the weights alone with "
                "--finetune-from-model"
            )

    def check_pretrained(self, state: dict) -> None:
        """Look at the state that a training left whose weights a new one starts with; ValueError: other symbols."""
        check_vocabulary(state, self.state_dict())

    def check_state(self, state: dict) -> None:
        """Look at the state that a training which is to go on left; ValueError as `load_state_dict`."""
        self.load_state_dict(state)
        before, now = state.get("batch_sizes"), self.state.batch_sizes
        if before is not None and dict(before) != now:
            logger.warning(
                f"the checkpoint was trained with {_sizes(before)} per batch, now {_sizes(now)}: the place in the data "
                "is counted in batches, so that some records come again or are left out in this pass"
            )

    def load_dataset(self, split, combine=False, **kwargs):
        """Load a split of all streams, after checking its files (ValueError)."""
        self.dataset_to_epoch_iter.pop(self.datasets.pop(split, None), None)
        training = split == self.args.train_subset
        fingerprint = self.state.image_tokenizer if self._tokenizer is not None and self.args.image_codes else None
        streams = self._folders.load(split, training, combine, fingerprint)
        seed = self.args.seed if training else VALIDATION_SEED
        self.datasets[split] = MultimodalDataset(streams, self.symbols, seed, training)

    def get_batch_iterator(
        self,
        dataset,
        max_tokens=None,
        max_sentences=None,
        max_positions=None,
        ignore_invalid_inputs=False,
        required_batch_size_multiple=1,
        data_buffer_size=0,
        disable_iterator_cache=False,
        grouped_shuffling=False,
        update_epoch_batch_itr=False,
        **kwargs,
    ):
        """An iterator over batches with so many rows of each stream; arguments of fairseq's get_batch_iterator."""
        if grouped_shuffling:
            logger.warning("--grouped-shuffling has no effect: records are shuffled, and batches are alike in size")
        cached = not (disable_iterator_cache or update_epoch_batch_itr)
        if cached and dataset in self.dataset_to_epoch_iter:
            return self.dataset_to_epoch_iter[dataset]
        sizes = self.batch_sizes(max_sentences)
        if None in sizes.values():
            raise ValueError("--batch-size is missing; give the number of rows per stream, batch and process")
        iterator = StreamsIterator(
            dataset,
            self._orders(dataset),
            sizes,
            buffer_size=data_buffer_size,
            reuse_dataloader=True,
            **kwargs,
        )
        if cached:
            self.dataset_to_epoch_iter[dataset] = iterator
        return iterator

    def batch_sizes(self, default: int | None) -> dict[str, int | None]:
        """Rows per batch of each stream that is on."""
        return {name: getattr(self.args, f"{name}_batch_size") or default for name in streams_on(self.args)}

    def _orders(self, dataset: MultimodalDataset) -> dict[str, Passes | InOrder]:
        if not dataset.training:
            return {name: InOrder(name, stream.length) for name, stream in dataset.streams.items()}
        return {
            name: Passes(name, stream.length, self.args.seed, stream.mixture)
            for name, stream in dataset.streams.items()
        }

    def filter_indices_by_size(self, indices, dataset, max_positions=None, ignore_invalid_inputs=False):
        """All indices; texts are cut to their lengths when they are read."""
        return all_indices(indices, dataset, max_positions)

    def train_step(self, sample, model, criterion, optimizer, update_num, ignore_grad=False):
        """fairseq's training step, with the codes of masked patches as targets."""
        self.add_codes(sample)
        return super().train_step(sample, model, criterion, optimizer, update_num, ignore_grad)

    def valid_step(self, sample, model, criterion):
        """fairseq's validation step, with the codes of masked patches as targets."""
        if sample:  # fairseq-validate has none where a rank has no batch
            self.add_codes(sample)
        return super().valid_step(sample, model, criterion)

    @torch.no_grad()
    def add_codes(self, sample: dict) -> None:
        """Add the codes of masked patches to a batch's targets, in place, on the batch's device."""
        for name, inputs in sample["net_input"].items():
            if inputs is None or inputs.get("image_positions") is None or "image" in sample["targets"][name]:
                continue
            images, positions = inputs["images"], inputs["image_positions"]
            codes = self._tokenizer.to(images.device)(images)
            sample["targets"][name]["image"] = codes.flatten()[positions]


def dictionary_path(args) -> Path:
    """DATA/dict.txt, or else that of the text folder."""
    folders = [Path(args.data)]
    if args.text_data is not None or (Path(args.data) / "text").is_dir():
        folders.append(Path(args.text_data or Path(args.data) / "text"))
    return next((folder / DICTIONARY for folder in folders if (folder / DICTIONARY).is_file()), folders[0] / DICTIONARY)


def _sizes(batch_sizes: dict[str, int]) -> str:
    return ", ".join(f"{rows} {name}" for name, rows in batch_sizes.items())
