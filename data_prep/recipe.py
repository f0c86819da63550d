"""What to prepare and how: the input files of each source, and the settings that decide the output's bytes."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SPLITS = ("train", "valid", "test")
MODEL_TYPES = ("unigram", "bpe")
# folders of the output that are no source's
RESERVED = frozenset({"work"})
SOURCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


@dataclass(frozen=True)
class InputFile:
    """One file to read, and so one task of every stage.

    path: the file. format: a name out of `data_prep.formats.FORMATS`. source: the folder of the output that its
    documents go to. language: of its documents, for the manifest. weight: of its source when training mixes sources.
    split: where all of its documents go; None for the shares of the settings.
    """

    path: Path
    format: str
    source: str
    language: str | None = None
    weight: float | None = None
    split: str | None = None

    def __post_init__(self):
        check_source_name(self.source)
        if self.split is not None and self.split not in SPLITS:
            raise ValueError(f"{self.path}: split is {self.split!r}; expected one of {', '.join(SPLITS)}")
        if self.weight is not None and not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"{self.source}: weight is {self.weight}; expected a number, 0 or more")


@dataclass(frozen=True)
class SourceInfo:
    """What the manifest says about a source beside its counts."""

    license: str = "unknown"
    attribution: str = ""


@dataclass(frozen=True)
class Recipe:
    """What to prepare.

    name: of the corpus. inputs: in the order in which their documents will stand in the indexes. info: source -> its
    licence and attribution. flat: the one source's indexes lie in the output folder itself, not in one of their own.
    """

    name: str
    inputs: tuple[InputFile, ...]
    info: Mapping[str, SourceInfo] = field(default_factory=dict)
    flat: bool = False

    def __post_init__(self):
        if not self.inputs:
            raise ValueError(f"recipe {self.name!r} has no input files; name some")
        sources = self.sources()
        if self.flat and len(sources) > 1:
            raise ValueError(f"recipe {self.name!r} is flat, but has the sources {', '.join(sources)}; expected one")
        if unknown := sorted(set(self.info) - set(sources)):
            raise ValueError(f"no input file belongs to {', '.join(unknown)}; the sources are {', '.join(sources)}")
        for source in sources:
            for what in ("language", "weight"):
                values = {getattr(file, what) for file in self.inputs if file.source == source}
                if len(values) > 1:
                    raise ValueError(f"the files of {source} have several values of {what}: {values}; expected one")

    def sources(self) -> list[str]:
        """Names of the sources in the order of their first files."""
        return list(dict.fromkeys(file.source for file in self.inputs))

    def info_of(self, source: str) -> SourceInfo:
        """Licence and attribution of a source; "unknown" when nobody said."""
        return self.info.get(source, SourceInfo())


@dataclass(frozen=True)
class Settings:
    """What decides the output beside the inputs.

    vocab_size: pieces of the vocabulary, special ones included. model_type, character_coverage, byte_fallback: of
    SentencePiece's training. spm_alpha: sources are sampled for it by p^alpha, p their share of the text; with 1 and
    less text than spm_characters, all of it is taken. tokenizer: a file or name to load instead of training one.
    seed: of split and samples. valid_share, test_share: expected shares of the documents.
    min_chars, max_chars: shorter and longer documents are rejected. exact_dedup, near_dedup: drop duplicates.
    sample: expected share of the documents to keep. split_subsets: subsets named inside a file become sources.
    allow_damaged_files: take what can be read of a damaged file instead of stopping.
    shard_tokens: a split is cut into indexes of about so many tokens, between input files.
    """

    vocab_size: int = 8000
    model_type: str = "unigram"
    character_coverage: float = 0.9995
    byte_fallback: bool = True
    spm_alpha: float = 1.0
    spm_characters: int = 30_000_000
    tokenizer: Path | str | None = None
    seed: int = 0
    valid_share: float = 0.05
    test_share: float = 0.05
    min_chars: int = 200
    max_chars: int | None = None
    exact_dedup: bool = False
    near_dedup: bool = False
    sample: float = 1.0
    split_subsets: bool = True
    allow_damaged_files: bool = False
    shard_tokens: int = 2**30

    def __post_init__(self):
        if self.byte_fallback and self.tokenizer is None and self.vocab_size < 300:
            raise ValueError(
                f"vocab_size is {self.vocab_size}; expected 300 or more: 4 special and 256 byte pieces are always there"
            )
        if min(self.valid_share, self.test_share) < 0 or self.valid_share + self.test_share >= 1:
            raise ValueError(
                f"valid_share {self.valid_share} and test_share {self.test_share} must be 0 or more and leave a rest "
                "for training"
            )
        if self.model_type not in MODEL_TYPES:
            raise ValueError(f"model_type is {self.model_type!r}; expected one of {', '.join(MODEL_TYPES)}")
        if self.max_chars is not None and self.max_chars < self.min_chars:
            raise ValueError(f"max_chars is {self.max_chars}; expected min_chars ({self.min_chars}) or more")
        for name, low_is_fine in (("sample", False), ("character_coverage", False), ("spm_alpha", True)):
            value = getattr(self, name)
            if not (0 <= value if low_is_fine else 0 < value) or value > 1:
                raise ValueError(f"{name} is {value}; expected a number {'from' if low_is_fine else 'above'} 0 to 1")
        for name in ("vocab_size", "spm_characters", "shard_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more")


def check_source_name(name: str) -> None:
    """ValueError unless a source may have this name: it becomes a folder, and a part of options."""
    if not SOURCE_NAME.fullmatch(name) or name in RESERVED:
        raise ValueError(
            f"source name {name!r}; expected letters, digits, '.', '_', '+', '-' (at most 100, the first a letter or "
            f"digit), and none of {', '.join(sorted(RESERVED))}"
        )
