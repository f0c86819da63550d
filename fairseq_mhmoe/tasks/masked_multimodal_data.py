"""The prepared folders behind the streams of task `masked_multimodal`, and a split of each of them."""

import hashlib
import logging
from pathlib import Path

import numpy as np
from fairseq.data import ConcatDataset, Dictionary

from fairseq_mhmoe.data.blocks import Blocks
from fairseq_mhmoe.data.folder import DataFolder, Part
from fairseq_mhmoe.data.image_transforms import ImageTransform
from fairseq_mhmoe.data.mixture import Mixture, shares_by_alpha
from fairseq_mhmoe.data.multimodal_batches import Images, Stream, Symbols, Texts
from fairseq_mhmoe.tasks.masked_multimodal_options import streams_on

logger = logging.getLogger(__name__)

PLACES = {"image": "images", "text": "text", "pair": "pairs"}
ENDS = 2  # <s> and </s>


class StreamFolders:
    """The folders of all streams that are on.

    Args:
        args: options of the task. dictionary: of all text, loaded from dictionary_path. symbols: of the dictionary.
    Raises:
        ValueError: a folder is missing.
    """

    def __init__(self, args, dictionary: Dictionary, dictionary_path: Path, symbols: Symbols):
        self._args = args
        self._dictionary = dictionary
        self._dictionary_path = dictionary_path
        self._symbols = symbols
        self._paths = {name: self._place(name) for name in streams_on(args)}

    def _place(self, name: str) -> Path:
        named = getattr(self._args, f"{name}_data")
        path = Path(named or Path(self._args.data) / PLACES[name])
        if not path.is_dir():
            raise ValueError(
                f"no folder {path} for the {name} stream; prepare it, name another with --{name}-data, or switch the "
                f"stream off with --{name}-batch-size 0"
            )
        return path

    def load(
        self, split: str, training: bool, combine: bool = False, fingerprint: str | None = None
    ) -> dict[str, Stream]:
        """A split of each stream; ValueError where one has no such split, or a file is not what it should be.

        Args:
            training: whether images are cropped at random and sources of text mixed.
            combine: read further shards (train1, ...) of a flat text folder too.
            fingerprint: of the visual tokenizer whose cached codes are wanted, None for none.
        """
        return {
            name: self._text(split, training, combine)
            if name == "text"
            else self._images(name, split, training, fingerprint)
            for name in self._paths
        }

    def _text(self, split: str, training: bool, combine: bool) -> Stream:
        args, symbols = self._args, self._symbols
        folder = DataFolder(self._paths["text"], self._dictionary_path, self._dictionary)
        parts = folder.parts(split, [source.name for source in folder.sources], combine)
        size = args.tokens_per_sample - ENDS
        blocks = [Blocks(part.files, size, "none", symbols.eos, symbols.pad) for part in parts]
        samples = ConcatDataset(blocks) if len(blocks) > 1 else blocks[0]
        texts = Texts(_BlockTokens(samples), args.tokens_per_sample, args.text_mask_ratio, symbols)
        return Stream(len(samples), None, texts, self._mixture(parts, blocks) if training else None)

    def _mixture(self, parts: list[Part], blocks: list[Blocks]) -> Mixture | None:
        if self._args.sampling_alpha == 1:
            return None
        if len(parts) == 1:
            logger.warning(f"--sampling-alpha has no effect: the text has one source, {parts[0].source.name}")
            return None
        shares = shares_by_alpha([part.tokens for part in parts], self._args.sampling_alpha)
        mixture = Mixture([part.source.name for part in parts], [len(each) for each in blocks], shares, self._args.seed)
        for part, length, count in zip(parts, mixture.lengths, mixture.counts, strict=True):
            logger.info(f"text: {part.source.name}: {count / length:.3g} times in a pass")
        return mixture

    def _images(self, name: str, split: str, training: bool, fingerprint: str | None) -> Stream:
        from fairseq_mhmoe.data.image_shards import ImageShards

        args, path = self._args, self._paths[name]
        shards = ImageShards(path, split)
        if len(shards) == 0:
            raise ValueError(f"{path} has no records in its split {split!r}; prepare it with another --valid-share")
        pairs = name == "pair"
        transform = ImageTransform(
            args.image_size,
            args.image_augmentation if training else "none",
            args.pair_scale_min if pairs else args.image_scale_min,
            args.pair_flip if pairs else not args.no_image_flip,
            args.color_jitter,
        )
        ratio = args.pair_image_mask_ratio if pairs else args.image_mask_ratio
        codes = None
        if fingerprint is not None and ratio > 0 and not transform.random:
            from fairseq_mhmoe.data.image_codes import CachedCodes

            codes = CachedCodes(path, split, fingerprint, args.image_size).codes
        images = Images(shards, transform, args.patch_size, ratio, codes)
        logger.info(f"{split}: {len(shards):,} records of the {name} stream")
        return Stream(len(shards), images, self._captions(path, split, shards) if pairs else None, None)

    def _captions(self, path: Path, split: str, shards) -> Texts:
        if not shards.has_captions:
            raise ValueError(f"{path} has images without captions: expected pairs; prepare it with --dictionary")
        digest = hashlib.sha256(self._dictionary_path.read_bytes()).hexdigest()
        if shards.dictionary_sha256 != digest:
            raise ValueError(
                f"wrong vocabulary: the captions of {path} were encoded with another dictionary than "
                f"{self._dictionary_path}; prepare them with the tokenizer of the text"
            )
        cut = int(np.count_nonzero(shards.caption_sizes > self._args.caption_length - ENDS))
        if cut:
            logger.warning(
                f"{split}: {cut:,} of {len(shards):,} captions are cut to --caption-length {self._args.caption_length}"
            )
        return Texts(shards.caption, self._args.caption_length, self._args.pair_text_mask_ratio, self._symbols)


class _BlockTokens:
    """The tokens of a sample of blocks, by its number."""

    def __init__(self, samples):
        self._samples = samples

    def __call__(self, index: int) -> np.ndarray:
        return self._samples[index][1].numpy()
