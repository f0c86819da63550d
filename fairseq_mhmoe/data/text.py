"""Text in and out of token ids with the data's tokenizer, in the form that fairseq's programs call a BPE."""

from collections.abc import Iterable
from pathlib import Path

import sentencepiece
from fairseq.data import Dictionary

from data_prep.tokenizers.dictionary import FAIRSEQ_SPECIALS, symbol_of
from data_prep.tokenizers.ranks import RankEncoding, load_ranks

UNKNOWN = "\ufffd".encode()
# SentencePiece's mark for a space
BOUNDARY = "\u2581"


class SentencePieceText:
    """Encode text to pieces and decode pieces to text, byte pieces included.

    Raises:
        ValueError: the file is no SentencePiece model, or has pieces that the dictionary lacks.
    """

    def __init__(self, path: Path, dictionary: Dictionary):
        if not path.is_file():
            raise ValueError(f"no SentencePiece model {path}; check --spm-model")
        self.processor = sentencepiece.SentencePieceProcessor()
        try:
            self.processor.Load(str(path))
        except (RuntimeError, OSError) as error:
            raise ValueError(f"{path} is no SentencePiece model: {error}") from None
        pieces = [
            self.processor.IdToPiece(index)
            for index in range(len(self.processor))
            if not (self.processor.IsControl(index) or self.processor.IsUnknown(index))
        ]
        _check(map(symbol_of, pieces), dictionary, path)
        # the few that dict.txt writes in another way
        self._symbols = {piece: symbol_of(piece) for piece in pieces if symbol_of(piece) != piece}
        self._pieces = {symbol: piece for piece, symbol in self._symbols.items()}

    def encode(self, text: str) -> str:
        """Symbols of a text's pieces, with spaces between."""
        return " ".join(self._symbols.get(piece, piece) for piece in self.processor.EncodeAsPieces(text))

    def decode(self, symbols: str) -> str:
        """Text of such symbols."""
        return self.processor.DecodePieces([self._pieces.get(symbol, symbol) for symbol in symbols.split(" ")])

    def bytes_of(self, symbol: str) -> bytes:
        """UTF-8 of one symbol where it stands in a text, word boundaries as spaces; byte pieces may be parts of one."""
        number = self.processor.PieceToId(self._pieces.get(symbol, symbol))
        if self.processor.IsUnknown(number):
            return b"" if symbol in FAIRSEQ_SPECIALS and symbol != "<unk>" else UNKNOWN
        if self.processor.IsControl(number):
            return b""
        piece = self.processor.IdToPiece(number)
        return bytes([int(piece[3:-1], 16)]) if self.processor.IsByte(number) else piece.replace(BOUNDARY, " ").encode()


class TiktokenText:
    """Encode text to ranks of tiktoken's cl100k_base, or of a .tiktoken file, and decode ranks to text.

    The dictionary's symbols are the ranks as decimal numbers. Unknown symbols, and ranks that are only a part of a
    character, decode to U+FFFD; fairseq's other special symbols to nothing.

    Raises:
        ValueError: no such file, it can't be had without a network, or it has ranks that the dictionary lacks.
    """

    def __init__(self, name_or_path: str | Path, dictionary: Dictionary):
        ranks, _ = load_ranks(name_or_path)
        self._ranks = set(map(str, ranks.values()))
        _check(self._ranks, dictionary, name_or_path)
        self._encoding = RankEncoding(ranks)

    def encode(self, text: str) -> str:
        """Ranks of a text, with spaces between."""
        return " ".join(map(str, self._encoding.encode(text).tolist()))

    def decode(self, symbols: str) -> str:
        """Text of such ranks."""
        return b"".join(map(self.bytes_of, symbols.split())).decode("utf-8", errors="replace")

    def bytes_of(self, symbol: str) -> bytes:
        """Bytes of one symbol; they may be a part of a character."""
        if symbol in self._ranks:
            return self._encoding.decode([int(symbol)])
        return b"" if symbol in FAIRSEQ_SPECIALS and symbol != "<unk>" else UNKNOWN


def _check(symbols: Iterable[str], dictionary: Dictionary, tokenizer: str | Path) -> None:
    missing = [symbol for symbol in symbols if symbol not in dictionary]
    if missing:
        raise ValueError(
            f"wrong vocabulary: the dictionary lacks {len(missing)} pieces of {tokenizer}, for example {missing[0]!r}; "
            "use the model that the data was prepared with"
        )
