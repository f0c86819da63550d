"""Tokenizers that give fairseq's ids: SentencePiece models and tiktoken's files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from data_prep.files import replacing
from data_prep.tokenizers.pieces import SentencePieceTokenizer
from data_prep.tokenizers.ranks import CL100K, TiktokenTokenizer


class Tokenizer(Protocol):
    """What the pipeline asks of a tokenizer.

    kind: "sentencepiece" or "tiktoken". symbols: of dict.txt in order, the first gets fairseq's id 4. vocab_size: how
    many tokens of its own it has. file_name: of its file in a prepared folder. content: of that file.
    """

    kind: str
    symbols: list[str]
    vocab_size: int
    file_name: str
    content: bytes

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """fairseq's ids of each text, int64, without eos."""
        ...


def load_tokenizer(name_or_path: str | Path) -> Tokenizer:
    """A SentencePiece model (*.model), a file of ranks (*.tiktoken) or tiktoken's "cl100k_base".

    Raises:
        ValueError: none of these, no such file, damaged, or not to be had without a network.
    """
    name = str(name_or_path)
    if name == CL100K or name.endswith(".tiktoken"):
        return TiktokenTokenizer(name_or_path)
    if name.endswith(".model"):
        return SentencePieceTokenizer(Path(name_or_path))
    raise ValueError(f"tokenizer {name!r}: expected a SentencePiece file *.model, a file *.tiktoken, or {CL100K}")


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> Path:
    """Write the tokenizer's file, byte by byte what was loaded, into a prepared folder; its path."""
    path = folder / tokenizer.file_name
    with replacing(path) as temporary:
        temporary.write_bytes(tokenizer.content)
    return path
