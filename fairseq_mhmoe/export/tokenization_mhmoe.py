"""Tokenizer of MH-MoE language models for transformers: a SentencePiece model, or tiktoken's ranks, with fairseq's ids.

vocab.json has fairseq's dictionary. A text gets exactly the ids that it has in the training data; what looks like a
special token in it ("</s>") is ordinary text. What stands before a document, `bos_token`, is put before a text.
"""

import base64
import json
import shutil
from pathlib import Path

from transformers import PreTrainedTokenizer

FILES = {"vocab_file": "vocab.json", "spm_file": "spm.model", "ranks_file": "tokenizer.tiktoken"}
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # fairseq's, in their order
# A longer text is cut before a line end or space in the last quarter of each window, as for the training data.
WINDOW = 1 << 20
# How cl100k_base cuts text before it merges bytes; a file of ranks does not tell it.
PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)


class MHMoETokenizer(PreTrainedTokenizer):
    """Text to ids and back.

    Args:
        vocab_file: vocab.json, symbol -> id.
        spm_file, ranks_file: spm.model or tokenizer.tiktoken, one of them.
        add_bos_token: whether bos_token stands before every text.
    """

    vocab_files_names = FILES
    model_input_names = ["input_ids", "attention_mask"]

    def __init__(
        self,
        vocab_file,
        spm_file=None,
        ranks_file=None,
        add_bos_token=True,
        bos_token="</s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        **kwargs,
    ):
        if (spm_file is None) == (ranks_file is None):
            raise ValueError(f"expected one of {FILES['spm_file']} and {FILES['ranks_file']} beside {vocab_file}")
        self.vocab_file, self.text_file, self.add_bos_token = vocab_file, spm_file or ranks_file, add_bos_token
        self._ids = json.loads(Path(vocab_file).read_text(encoding="utf-8"))
        self._symbols = {number: symbol for symbol, number in self._ids.items()}
        self._text = Pieces(spm_file) if spm_file else Ranks(ranks_file)
        missing = [symbol for symbol in self._text.symbols if symbol not in self._ids]
        if missing:
            raise ValueError(f"{vocab_file} lacks {len(missing)} symbols of {self.text_file}, such as {missing[0]!r}")
        # text is text: special tokens are recognised in it only if a user says split_special_tokens=False
        kwargs.setdefault("split_special_tokens", True)
        kwargs.setdefault("padding_side", "left")
        kwargs["clean_up_tokenization_spaces"] = False  # it would change the text
        super().__init__(
            bos_token=bos_token,
            eos_token=eos_token,
            unk_token=unk_token,
            pad_token=pad_token,
            add_bos_token=add_bos_token,
            **kwargs,
        )

    @property
    def vocab_size(self):
        """Symbols of the dictionary."""
        return len(self._ids)

    def get_vocab(self):
        """Symbol -> id, added tokens included."""
        return {**self._ids, **self._added_tokens_encoder}

    def _tokenize(self, text, **kwargs):
        return self._text.encode(text)

    def _convert_token_to_id(self, token):
        return self._ids.get(token, self._ids["<unk>"])

    def _convert_id_to_token(self, index):
        return self._symbols.get(index, "<unk>")

    def convert_tokens_to_string(self, tokens):
        """Text of tokens; special and added tokens stand in it as they are."""
        parts, run = [], []
        for token in tokens:
            if token in SPECIAL or token in self._added_tokens_encoder:
                parts += [self._text.decode(run), token]
                run = []
            else:
                run.append(token)
        return "".join([*parts, self._text.decode(run)])

    def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
        """bos_token before the first text; a second one follows as it is."""
        first = [self.bos_token_id] if self.add_bos_token else []
        return first + token_ids_0 + (token_ids_1 or [])

    def get_special_tokens_mask(self, token_ids_0, token_ids_1=None, already_has_special_tokens=False):
        """1 for special tokens."""
        if already_has_special_tokens:
            special = set(self.all_special_ids)
            return [int(number in special) for number in token_ids_0]
        return [1] * self.add_bos_token + [0] * (len(token_ids_0) + len(token_ids_1 or []))

    def save_vocabulary(self, save_directory, filename_prefix=None):
        """Copy both files; their paths."""
        targets = []
        for source, name in ((self.vocab_file, FILES["vocab_file"]), (self.text_file, self._text.file_name)):
            target = Path(save_directory) / (f"{filename_prefix}-{name}" if filename_prefix else name)
            if target.resolve() != Path(source).resolve():
                shutil.copyfile(source, target)
            targets.append(str(target))
        return tuple(targets)


class Pieces:
    """A SentencePiece model, and how its pieces stand in fairseq's dictionary."""

    file_name = FILES["spm_file"]

    def __init__(self, path):
        try:
            import sentencepiece
        except ImportError:
            raise ImportError("this tokenizer needs SentencePiece: pip install sentencepiece") from None
        self._processor = model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        pieces = [model.IdToPiece(number) for number in range(len(model))]
        self._names = [
            "<unk>" if model.IsUnknown(number) else piece if piece in SPECIAL else symbol_of(piece)
            for number, piece in enumerate(pieces)
        ]
        self.symbols = [
            name for number, name in enumerate(self._names) if not (model.IsControl(number) or model.IsUnknown(number))
        ]
        self._pieces = {name: piece for name, piece in zip(self._names, pieces) if name != piece and name != "<unk>"}
        # what the model makes of a line end at the start of a text, the space that it adds there included
        self._start = model.EncodeAsIds("\n")

    def encode(self, text):
        """Symbols of a text."""
        first, *others = windows(text)
        ids = self._processor.EncodeAsIds(first)
        for window in others:
            ids += self._encode_inner(window)
        return [self._names[number] for number in ids]

    def _encode_inner(self, window):
        """Without the space that the model adds at the start of a text."""
        ids = self._processor.EncodeAsIds("\n" + window)
        if ids[: len(self._start)] == self._start:
            return ids[len(self._start) :]
        return self._processor.EncodeAsIds(window)  # this model joins the line end with what follows

    def decode(self, symbols):
        """Text of symbols."""
        return self._processor.DecodePieces([self._pieces.get(symbol, symbol) for symbol in symbols])


class Ranks:
    """Byte-level BPE of a .tiktoken file; its symbols are the ranks as decimal numbers."""

    file_name = FILES["ranks_file"]

    def __init__(self, path):
        try:
            import tiktoken
        except ImportError:
            raise ImportError("this tokenizer needs tiktoken: pip install tiktoken") from None
        lines = [line.split() for line in Path(path).read_bytes().splitlines()]
        ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
        self._encoding = tiktoken.Encoding("mhmoe", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
        self.symbols = [str(rank) for rank in ranks.values()]
        self._known = set(self.symbols)

    def encode(self, text):
        """Symbols of a text."""
        return [str(rank) for window in windows(text) for rank in self._encoding.encode_ordinary(window)]

    def decode(self, symbols):
        """Text of symbols; bytes that are no UTF-8, and unknown symbols, become U+FFFD."""
        unknown = "\ufffd".encode()
        parts = [
            self._encoding.decode_single_token_bytes(int(symbol)) if symbol in self._known else unknown
            for symbol in symbols
        ]
        return b"".join(parts).decode("utf-8", errors="replace")


def symbol_of(piece):
    """How a piece stands in fairseq's dictionary: white space as <U+00A0>."""
    return "".join(f"<U+{ord(character):04X}>" if character.isspace() else character for character in piece)


def windows(text):
    """The parts of a text, at most WINDOW characters each."""
    start, parts = 0, []
    while len(text) - start > WINDOW:
        end = start + WINDOW
        cuts = (text.rfind(mark, end - WINDOW // 4, end) for mark in ("\n", " "))
        end = next((cut for cut in cuts if cut > start), end)
        parts.append(text[start:end])
        start = end
    return [*parts, text[start:]]
