"""SentencePiece models of any layout, with fairseq's numbering of their pieces."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from data_prep.tokenizers.dictionary import FAIRSEQ_SPECIALS, UNK, symbol_of
from data_prep.tokenizers.windows import windows


def load_sentencepiece(path: Path) -> sentencepiece.SentencePieceProcessor:
    """Open a model file; ValueError when it is none."""
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(Path(path).read_bytes())
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{path} is no SentencePiece model: {error}") from None
    if len(processor) == 0:
        raise ValueError(f"{path} is no SentencePiece model: it has no pieces")
    return processor


def fairseq_ids(processor: sentencepiece.SentencePieceProcessor) -> tuple[list[str], np.ndarray]:
    """How fairseq numbers the pieces of any SentencePiece model.

    Special pieces get fairseq's numbers by their names, the others follow in the model's order: for XLM-R's and
    LLaMA's models, which begin with <unk>, <s>, </s>, that is SentencePiece's number + 1.

    Returns:
        the symbols of dict.txt, in order (the first one gets id 4), and ids [V]: SentencePiece id -> fairseq id.
    Raises:
        ValueError: two pieces would be the same in a dict.txt.
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
            ids[index] = len(FAIRSEQ_SPECIALS) + len(symbols)
            symbols.append(symbol_of(piece))
    if len(set(symbols)) != len(symbols):
        seen = set()
        twice = next(symbol for symbol in symbols if symbol in seen or seen.add(symbol))
        raise ValueError(f"the SentencePiece model has the piece {twice!r} twice; train another")
    return symbols, ids


class SentencePieceTokenizer:
    """A SentencePiece model that gives fairseq's ids.

    kind: "sentencepiece". file_name: in a prepared folder. content: of the model's file. vocab_size: number of pieces.
    symbols: of dict.txt in order, the first gets id 4.
    """

    kind = "sentencepiece"
    file_name = "spm.model"

    def __init__(self, path: Path):
        self._processor = load_sentencepiece(path)
        self.content = Path(path).read_bytes()
        self.symbols, self._ids = fairseq_ids(self._processor)
        self.vocab_size = len(self._processor)
        # what the model makes of a line end at the start of a text, the space that it adds there included
        self._start = self._processor.EncodeAsIds("\n")

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """fairseq's ids of each text, int64, without eos."""
        parts = [list(windows(text)) for text in texts]
        firsts = self._processor.Encode([first for first, *_ in parts], num_threads=1)
        encoded = []
        for first, (_, *others) in zip(firsts, parts, strict=True):
            ids = self._ids[np.array(first, dtype=np.int64)]
            encoded.append(np.concatenate([ids, *map(self._encode_inner, others)]) if others else ids)
        return encoded

    def _encode_inner(self, window: str) -> np.ndarray:
        """Ids of a window that doesn't start a text: without the space that the model adds at a text's start."""
        pieces = self._processor.EncodeAsIds("\n" + window)
        if pieces[: len(self._start)] == self._start:
            pieces = pieces[len(self._start) :]
        else:  # this model joins the line end with what follows
            pieces = self._processor.EncodeAsIds(window)
        return self._ids[np.array(pieces, dtype=np.int64)]
