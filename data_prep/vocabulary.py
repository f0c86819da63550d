"""SentencePiece vocabulary: training, and its exact translation to fairseq's ids."""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import sentencepiece
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger

from data_prep.files import replacing

# fairseq's Dictionary puts these first, whatever the file says.
FAIRSEQ_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
BOS, PAD, EOS, UNK = range(4)
# The sums of expected counts depend on how sentences are dealt out to threads.
TRAINING_THREADS = 2
CHARACTER_COVERAGE = 0.9995


def train_sentencepiece(lines: Iterable[str], vocab_size: int) -> bytes:
    """Train a unigram model with byte fallback; the same lines give the same bytes.

    The model takes text as it is (no normalization, spaces kept), so that decode(encode(text)) == text; its four
    special pieces have fairseq's ids. Line ends are not learned: they become the byte piece <0x0A>.

    Raises:
        ValueError: the text is too small for, or otherwise does not fit, this vocabulary size.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            character_coverage=CHARACTER_COVERAGE,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            split_digits=True,
            num_threads=TRAINING_THREADS,
            max_sentence_length=1 << 20,
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


def load_sentencepiece(path: Path) -> sentencepiece.SentencePieceProcessor:
    """Open a model file; ValueError when it is none."""
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.Load(str(path))
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{path} is no SentencePiece model: {error}") from None
    return processor


def fairseq_ids(processor: sentencepiece.SentencePieceProcessor) -> tuple[list[str], np.ndarray]:
    """How fairseq numbers the pieces of any SentencePiece model.

    Returns:
        the symbols of dict.txt, in order (the first one gets id 4), and ids [V]: SentencePiece id -> fairseq id.
    Raises:
        ValueError: a piece cannot stand in a dict.txt, because it is there twice or contains white space.
    """
    symbols = []
    ids = np.empty(len(processor), dtype=np.int64)
    for index in range(len(processor)):
        piece = processor.IdToPiece(index)
        if processor.IsUnknown(index):
            ids[index] = UNK
        elif piece in FAIRSEQ_SPECIALS:
            ids[index] = FAIRSEQ_SPECIALS.index(piece)
        else:
            if piece.split() != [piece]:
                raise ValueError(f"piece {index} of the SentencePiece model, {piece!r}, would be split in dict.txt")
            ids[index] = len(FAIRSEQ_SPECIALS) + len(symbols)
            symbols.append(piece)
    if len(set(symbols)) != len(symbols):
        raise ValueError("the SentencePiece model has the same piece twice")
    return symbols, ids


def dictionary_text(symbols: Iterable[str]) -> str:
    """Content of fairseq's dict.txt. Every count is 1: so it depends on the model alone and hashes compare."""
    return "".join(f"{symbol} 1\n" for symbol in symbols)


class SentencePieceTrainer(PipelineStep):
    """datatrove step: train a model on all documents of a pipeline (one task) and write it."""

    name = "🔤 SentencePiece training"
    type = "🔤 - VOCABULARY"

    def __init__(self, model_path: str, vocab_size: int):
        super().__init__()
        self.model_path = model_path
        self.vocab_size = vocab_size

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> None:
        """Consume the documents, line by line."""
        logger.info(f"training a SentencePiece vocabulary of {self.vocab_size:,} pieces")
        with self.track_time("model"):
            model = train_sentencepiece(self._lines(data), self.vocab_size)
        with replacing(Path(self.model_path)) as temporary:
            temporary.write_bytes(model)

    def _lines(self, data: DocumentsPipeline) -> Iterable[str]:
        for document in data:
            self.stat_update("documents")
            yield from document.text.split("\n")
