"""SentencePiece vocabulary: a sample of the training text, source by source, and the training."""

import io
import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import sentencepiece
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger

from data_prep.files import replacing
from data_prep.text_files import read_texts, segments_of
from data_prep.tokenizers.dictionary import BOS, EOS, PAD, UNK
from data_prep.tokenizers.windows import windows

# The sums of expected counts depend on how sentences are dealt out to threads.
TRAINING_THREADS = 2
CHARACTER_COVERAGE = 0.9995
# A unigram model's training needs about 21 bytes of memory for each character of the sample.
SAMPLE_CHARACTERS = 30_000_000
# SentencePiece passes over lines of more bytes than the limit; a character has four at most.
LINE_BYTES = 1 << 20
LINE_CHARACTERS = LINE_BYTES // 4 - 16
# Of a large source so much is read to estimate its characters, and so many times the sample to take it from.
COUNTED_SEGMENTS = 256
SPREAD = 20


def train_sentencepiece(
    lines: Iterable[str],
    vocab_size: int,
    model_type: str = "unigram",
    character_coverage: float = CHARACTER_COVERAGE,
    byte_fallback: bool = True,
) -> bytes:
    """Train a model; the same lines give the same bytes.

    The model takes text as it is (no normalization, spaces kept), so that decode(encode(text)) == text with byte
    fallback; its four special pieces have fairseq's ids. Line ends are not learned: they become the byte piece <0x0A>,
    or unknown without byte fallback, as do all characters beyond the coverage.

    Args:
        model_type: "unigram" or "bpe". character_coverage: share of the text's characters that get pieces.
    Raises:
        ValueError: the text is too small for, or otherwise does not fit, this vocabulary size.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(part for line in lines for part in windows(line, LINE_CHARACTERS)),
            model_writer=model,
            model_type=model_type,
            vocab_size=vocab_size,
            character_coverage=character_coverage,
            byte_fallback=byte_fallback,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            split_digits=True,
            num_threads=TRAINING_THREADS,
            max_sentence_length=LINE_BYTES,
            bos_id=BOS,
            pad_id=PAD,
            eos_id=EOS,
            unk_id=UNK,
            minloglevel=1,
        )
    except (RuntimeError, OSError) as error:
        raise ValueError(
            f"SentencePiece trained no vocabulary of {vocab_size} pieces: {error}; "
            "give it another --vocab-size or more text"
        ) from None
    return model.getvalue()


def sampling_rates(characters: Mapping[str, float], alpha: float, budget: int) -> dict[str, float]:
    """How often each source's lines come into the sample: the sources' shares of it are as p^alpha (XLM; XLM-R).

    Args:
        characters: of each source; p is a source's share of their sum.
        alpha: 1 leaves the shares as they are, smaller ones raise those of small sources, 0 makes all equal.
        budget: characters of the sample at most; where there are fewer, it is as large as they are.
    Returns:
        source -> expected copies of a line; all 1.0 with alpha 1 and text within the budget.
    """
    total = sum(characters.values())
    size = min(budget, total)
    powers = {source: (count / total) ** alpha for source, count in characters.items() if count}
    scale = sum(powers.values())
    return {
        # without rounding where nothing is to be sampled
        source: size / total if alpha == 1 else size * power / scale / characters[source]
        for source, power in powers.items()
    }


class VocabularyTrainer(PipelineStep):
    """datatrove step (one task): train a model on a sample of <text_folder>/<source>/train/*.jsonl and write it.

    Lines are drawn at random, as often as `sampling_rates` says: the same ones for the same text, order of files and
    seed. With alpha 1 and a text within the budget they are all lines of all documents, source by source.
    """

    name = "🔤 SentencePiece training"
    type = "🔤 - VOCABULARY"

    def __init__(
        self,
        text_folder: str | Path,
        model_path: str | Path,
        vocab_size: int,
        model_type: str = "unigram",
        character_coverage: float = CHARACTER_COVERAGE,
        byte_fallback: bool = True,
        alpha: float = 1.0,
        characters: int = SAMPLE_CHARACTERS,
        seed: int = 0,
    ):
        super().__init__()
        self.text_folder = str(text_folder)
        self.model_path = str(model_path)
        self.training = dict(
            vocab_size=vocab_size,
            model_type=model_type,
            character_coverage=character_coverage,
            byte_fallback=byte_fallback,
        )
        self.alpha = alpha
        self.characters = characters
        self.seed = seed

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        """Read the text twice, the first time to count it, and train."""
        files = {
            folder.parent.name: sorted(folder.glob("*.jsonl"))
            for folder in sorted(Path(self.text_folder).glob("*/train"))
        }
        counts = {source: count_characters(paths) for source, paths in files.items()}
        if not sum(counts.values()):
            raise ValueError(f"there is no training text in {self.text_folder}; give more text, or filter less of it")
        rates = sampling_rates(counts, self.alpha, self.characters)
        for source, rate in rates.items():
            logger.info(f"{source}: about {counts[source]:,.0f} characters, each line {rate:.4g} times in the sample")
        logger.info(f"training a SentencePiece vocabulary of {self.training['vocab_size']:,} pieces")
        with self.track_time("model"):
            lines = (line for source, rate in rates.items() for line in self._sample(source, files[source], rate))
            model = train_sentencepiece(lines, **self.training)
        with replacing(Path(self.model_path)) as temporary:
            temporary.write_bytes(model)

    def _sample(self, source: str, files: Iterable[Path], rate: float) -> Iterator[str]:
        characters = 0
        for line in sample_lines(files, rate, random.Random(f"{self.seed}\t{source}")):
            characters += len(line)
            yield line
        self.stat_update(f"{source}/characters", value=characters)


def count_characters(files: Iterable[Path], counted_segments: int = COUNTED_SEGMENTS) -> float:
    """Characters of the files' texts: exact up to so many segments, beyond that estimated from evenly spaced ones."""
    files = list(files)
    segments = sum(len(segments_of(path)) for path in files)
    stride = max(1, -(-segments // counted_segments))
    characters = seen = before = 0
    for path in files:
        own = segments_of(path)
        chosen = own[-before % stride :: stride]
        before += len(own)
        seen += len(chosen)
        characters += sum(map(len, read_texts(path, chosen)))
    return characters * segments / seen if seen else 0


def sample_lines(files: Iterable[Path], rate: float, generator: random.Random) -> Iterator[str]:
    """Lines of the files' texts, each `rate` times in expectation (a rate of 2.5: two or three times).

    For a low rate only some segments of the files are read.
    """
    share = min(1.0, rate * SPREAD)
    copies, fraction = divmod(rate / share, 1.0)
    for path in files:
        chosen = (segment for segment in segments_of(path) if share == 1 or generator.random() < share)
        for text in read_texts(path, chosen):
            for line in text.split("\n"):
                for _ in range(int(copies) + (fraction > 0 and generator.random() < fraction)):
                    yield line
