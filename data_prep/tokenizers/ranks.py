"""Byte-level BPE of tiktoken's files with the rules of cl100k_base: text <-> ranks, offline."""

import base64
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.tokenizers.dictionary import FAIRSEQ_SPECIALS
from data_prep.tokenizers.windows import windows

logger = logging.getLogger(__name__)

CL100K = "cl100k_base"
CL100K_SHA256 = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
# the name under which tiktoken looks for cl100k's file in its cache folder
CL100K_IN_CACHE = "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"
# How cl100k_base cuts text before it merges bytes: contractions, words with one sign before them, up to three digits,
# signs with the line ends after them, line ends, white space. A file of ranks doesn't tell it.
CL100K_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)


def load_ranks(name_or_path: str | Path) -> tuple[dict[bytes, int], bytes]:
    """Ranks of the byte sequences, and the content of the file that they are from.

    Args:
        name_or_path: a .tiktoken file, or "cl100k_base": from tiktoken's cache (TIKTOKEN_CACHE_DIR), else tiktoken
            tries to fetch it.
    Raises:
        ValueError: no such file, it can't be fetched, or it is no such file.
    """
    if str(name_or_path) == CL100K:
        ranks = _published_ranks()
        return ranks, _file_content(ranks)
    path = Path(name_or_path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"no tiktoken file {path} ({error.strerror}); give a .tiktoken file or {CL100K}") from None
    ranks = _parse(path, content)
    if not is_cl100k(content):
        logger.warning(f"{path} is not the published {CL100K}; its text is cut by the rules of {CL100K} nevertheless")
    return ranks, content


def is_cl100k(content: bytes) -> bool:
    """Whether a file's content is the published one of cl100k_base."""
    return hashlib.sha256(content).hexdigest() == CL100K_SHA256


class RankEncoding:
    """Text to ranks and back, with cl100k's pattern; its special tokens are ordinary text."""

    def __init__(self, ranks: dict[bytes, int]):
        self._encoding = _tiktoken().Encoding(CL100K, pat_str=CL100K_PATTERN, mergeable_ranks=ranks, special_tokens={})

    def encode(self, text: str) -> np.ndarray:
        """Ranks of a text, an integer type."""
        parts = [self._encoding.encode_to_numpy(window) for window in windows(text)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def decode(self, ranks: Sequence[int]) -> bytes:
        """Bytes that the ranks stand for; KeyError for one that is none."""
        return self._encoding.decode_bytes(ranks)


class TiktokenTokenizer:
    """tiktoken's cl100k_base, or a file of ranks of the same kind, that gives fairseq's ids.

    kind: "tiktoken". file_name: in a prepared folder. content: of the file. vocab_size: number of ranks.
    symbols: of dict.txt in order, the ranks as decimal numbers.
    """

    kind = "tiktoken"
    file_name = "tokenizer.tiktoken"

    def __init__(self, name_or_path: str | Path):
        ranks, self.content = load_ranks(name_or_path)
        in_order = sorted(ranks.values())
        self.symbols = [str(rank) for rank in in_order]
        self.vocab_size = len(in_order)
        self._ids = np.full(in_order[-1] + 1, -1, dtype=np.int64)
        self._ids[in_order] = len(FAIRSEQ_SPECIALS) + np.arange(len(in_order))
        self._encoding = RankEncoding(ranks)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """fairseq's ids of each text, int64, without eos."""
        return [self._ids[self._encoding.encode(text)] for text in texts]


def _tiktoken():
    try:
        import tiktoken
    except ImportError:
        raise ValueError("tiktoken is not installed; pip install 'fairseq-mhmoe[data]'") from None
    return tiktoken


def _published_ranks() -> dict[bytes, int]:
    _tiktoken()
    from tiktoken_ext import openai_public

    try:
        return openai_public.cl100k_base()["mergeable_ranks"]
    except Exception as error:  # whatever the HTTP library raises without a network, and a wrong hash
        raise ValueError(
            f"tiktoken has no {CL100K} in its cache and could not fetch it ({type(error).__name__}: {error}); get "
            f"{CL100K}.tiktoken by hand (its address stands in tiktoken's {openai_public.__name__}) and give its path, "
            f"or put it into the folder TIKTOKEN_CACHE_DIR under the name {CL100K_IN_CACHE}"
        ) from None


def _parse(path: Path, content: bytes) -> dict[bytes, int]:
    ranks = {}
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            token, rank = line.split()
            token, rank = base64.b64decode(token, validate=True), int(rank)
        except ValueError:
            raise ValueError(f"{path}, line {number}: expected base64 and a number, found {line[:60]!r}") from None
        if token in ranks or rank < 0 or not token:
            raise ValueError(f"{path}, line {number}: an empty or repeated token, or a negative rank: {line[:60]!r}")
        ranks[token] = rank
    if len(set(ranks.values())) != len(ranks):
        raise ValueError(f"{path} gives one rank to several tokens; get the file again")
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise ValueError(
            f"{path} is no complete tiktoken file: {len(missing)} of the 256 single bytes have no rank; get it again"
        )
    return ranks


def _file_content(ranks: dict[bytes, int]) -> bytes:
    in_order = sorted(ranks.items(), key=lambda item: item[1])
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in in_order)
