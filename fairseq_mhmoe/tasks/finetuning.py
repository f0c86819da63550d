"""What fine-tuning tasks share: dictionary, index files, images, batches that a restart repeats, heads."""

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

from fairseq.tasks import FairseqTask

from fairseq_mhmoe.data.batches import MixtureIterator, forget_itself
from fairseq_mhmoe.data.checks import load_dictionary
from fairseq_mhmoe.data.finetuning_examples import Examples, Images
from fairseq_mhmoe.data.image_transforms import ImageTransform
from fairseq_mhmoe.data.index_files import MASK, IndexFiles, RecordText, image_file
from fairseq_mhmoe.tasks.finetuning_options import check_options
from fairseq_mhmoe.tasks.vocabulary import KEY, check_vocabulary, digest_of

SPM_MODEL = "spm.model"

logger = logging.getLogger(__name__)


class FinetuningTask(FairseqTask):
    """A task over index files; a subclass says which files are a split and what an example is.

    A subclass has INDEX, {split: names of index files}, and `make_dataset`, `model_heads`.
    The model asks for image_size, patch_size, max_text_positions, source_dictionary and model_heads().
    """

    INDEX: dict[str, Sequence[str]] = {}

    def __init__(self, cfg, dictionary):
        super().__init__(cfg)
        self.dictionary = dictionary
        self.image_size, self.patch_size = cfg.image_size, cfg.patch_size
        self.max_text_positions = cfg.max_text_length
        self.state.merge_state_dict({KEY: digest_of(dictionary)})

    @classmethod
    def setup_task(cls, cfg, **kwargs):
        """Check the options and load the dictionary; ValueError names what is wrong."""
        check_options(cfg)
        dictionary = load_dictionary(Path(cfg.text_data or cfg.data))
        dictionary.add_symbol(MASK)
        logger.info(f"dictionary: {len(dictionary):,} types, {MASK} among them")
        return cls(cfg, dictionary)

    def load_state_dict(self, state_dict: dict) -> None:
        """Look at the state in a checkpoint, of which nothing is taken over; ValueError: it is of other symbols."""
        check_vocabulary(state_dict, self.state_dict())

    def check_state(self, state: dict) -> None:
        """Look at the state that a training which is to go on left; ValueError as `load_state_dict`."""
        self.load_state_dict(state)

    def check_pretrained(self, state: dict) -> None:
        """Look at the state that a training left whose weights a new one starts with; ValueError: other symbols."""
        check_vocabulary(state, self.state_dict())

    @property
    def source_dictionary(self):
        """Symbols of the texts, <mask> the last."""
        return self.dictionary

    @property
    def target_dictionary(self):
        """Symbols of generated texts."""
        return self.dictionary

    @cached_property
    def text(self) -> RecordText:
        """What makes tokens of a record's text."""
        model = Path(self.cfg.text_data or self.cfg.data) / SPM_MODEL
        return RecordText(self.dictionary, model if model.is_file() else None, self.cfg.max_text_length)

    @property
    def image_root(self) -> Path:
        """Where the paths of images start."""
        return Path(self.cfg.image_root or self.cfg.data)

    def model_heads(self) -> dict[str, dict]:
        """The heads that the model is to have: {name: {"kind", "classes", "inputs"}}."""
        raise NotImplementedError

    def cost_options(self) -> SimpleNamespace:
        """Sizes of images and texts, and what of a text is predicted: what a model's cost depends on."""
        return SimpleNamespace(
            image_size=self.image_size,
            patch_size=self.patch_size,
            tokens_per_sample=self.max_text_positions,
            caption_length=self.max_text_positions,
            pair_image_mask_ratio=0.0,
            pair_text_mask_ratio=getattr(self.cfg, "caption_mask_ratio", 0.0),
        )

    def check_record(self, record: dict) -> None:
        """ValueError with the reason unless a record of an index is what the task needs."""
        raise NotImplementedError

    def make_dataset(self, paths: list[Path], training: bool) -> Examples:
        """The examples of these index files."""
        raise NotImplementedError

    def parts(self, paths: list[Path], head: str, training: bool) -> dict:
        """What Examples are made of; augmentation and a random order in training only."""
        cfg = self.cfg
        crop = None
        if training and cfg.image_augmentation == "crop":
            crop = ImageTransform(cfg.image_size, "crop", cfg.image_scale_min, cfg.horizontal_flip)
        return {
            "records": IndexFiles(paths, self.check_record),
            "text": self.text,
            "images": Images(self.image_root, cfg.image_size, crop),
            "head": head,
            "pad": self.dictionary.pad(),
            "seed": cfg.seed if training else None,
        }

    def index_files(self, split: str) -> list[Path]:
        """The index files of a split; of several spellings the first that is there, ValueError without any."""
        folder = Path(self.cfg.data)
        choices = [*self.INDEX.get(split, ()), (f"{self.cfg._name}.{split}.jsonl",)]
        for names in choices:
            if (folder / names[0]).is_file():
                return [folder / name for name in names if (folder / name).is_file()]
        there = ", ".join(sorted(path.name for path in folder.glob("*.jsonl"))[:20]) or "none"
        wanted = " or ".join(" + ".join(names) for names in choices)
        raise ValueError(f"no split {split!r} in {folder}: expected {wanted}; index files there: {there}")

    def load_dataset(self, split, epoch=1, combine=False, **kwargs):
        """Read the index of a split; ValueError when a file is missing or damaged."""
        self.dataset_to_epoch_iter.pop(self.datasets.pop(split, None), None)
        dataset = self.make_dataset(self.index_files(split), split == self.cfg.train_subset)
        logger.info(f"{split}: {len(dataset):,} examples")
        self.datasets[split] = dataset

    def get_batch_iterator(
        self,
        dataset,
        max_tokens=None,
        max_sentences=None,
        max_positions=None,
        ignore_invalid_inputs=False,
        required_batch_size_multiple=1,
        seed=1,
        epoch=1,
        data_buffer_size=0,
        disable_iterator_cache=False,
        update_epoch_batch_itr=False,
        **kwargs,
    ):
        """Batches of --batch-size examples, the last one smaller; the same in an epoch whenever it starts.

        Raises:
            ValueError: --max-tokens, or no --batch-size.
        """
        if max_tokens is not None or max_sentences is None:
            raise ValueError(
                f"task {self.cfg._name} counts examples, not tokens: give --batch-size instead of --max-tokens"
            )
        cached = not (disable_iterator_cache or update_epoch_batch_itr)
        if cached and dataset in self.dataset_to_epoch_iter:
            return self.dataset_to_epoch_iter[dataset]

        def make_batches(items):
            return [items[start : start + max_sentences] for start in range(0, len(items), max_sentences)]

        iterator = MixtureIterator(
            dataset, make_batches, seed, epoch=epoch, buffer_size=data_buffer_size, reuse_dataloader=True, **kwargs
        )
        forget_itself(iterator)
        if cached:
            self.dataset_to_epoch_iter[dataset] = iterator
        return iterator

    def max_positions(self):
        """Nothing is left out for its length: texts are cut."""
        return None


def check_image(record: dict, key: str) -> None:
    """ValueError unless a record names an image within the folder of images."""
    image_file(Path(), record.get(key))
