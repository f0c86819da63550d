"""Text in and out of token ids with a SentencePiece model, in the form that fairseq's programs call a BPE."""

from pathlib import Path

import sentencepiece
from fairseq.data import Dictionary


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
        pieces = (
            self.processor.IdToPiece(index)
            for index in range(len(self.processor))
            if not (self.processor.IsControl(index) or self.processor.IsUnknown(index))
        )
        missing = [piece for piece in pieces if piece not in dictionary]
        if missing:
            raise ValueError(
                f"wrong vocabulary: the dictionary lacks {len(missing)} pieces of {path}, {missing[0]!r} the first; "
                "use the model that the data was prepared with"
            )

    def encode(self, text: str) -> str:
        """Pieces of a text, with spaces between."""
        return " ".join(self.processor.EncodeAsPieces(text))

    def decode(self, pieces: str) -> str:
        """Text of such pieces."""
        return self.processor.DecodePieces(pieces.split(" "))
