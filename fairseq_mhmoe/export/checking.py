"""Is the folder the model? It is loaded as transformers would, and held against fairseq's model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from transformers.utils import logging as transformers_logging

from fairseq_mhmoe.export.source import Source

LIMIT = 1e-5  # of the logits in float32, times the largest one where that is more than 1
TEXTS = ("The history of the", " two  spaces, a tab\tand\nlines\n\n", "</s> <pad> <unk> ▁ 日本語 🙂 e\u0301 \u00a0", "")


class Difference(NamedTuple):
    """The largest difference of two models' logits, and the largest logit."""

    largest: float
    logits: float


def compare_logits(source: Source, folder: Path, batch: int = 2, length: int = 48) -> Difference:
    """Logits of the folder's model, in float32, and of fairseq's on random tokens with padding on both sides."""
    from fairseq_mhmoe.export.modeling_mhmoe import MHMoEForCausalLM

    vocab_size, _ = source.sizes
    length = min(length, source.model.max_positions())
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(min(4, vocab_size - 1), vocab_size, (batch, length), generator=generator)
    real = torch.ones_like(tokens, dtype=torch.bool)
    if length > 4:
        real[0, -2:] = real[-1, :2] = False
        tokens = tokens.masked_fill(~real, 1)
    with _no_progress_bar():
        model = MHMoEForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = source.model(tokens)[0][real]
        found = model(tokens, attention_mask=real.long()).logits[real]
    return Difference(float((found - expected).abs().max()), float(expected.abs().max()))


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def check_logits(source: Source, folder: Path, exact: bool) -> Difference:
    """The difference; a model whose numbers are neither rounded (`exact`) nor quantised must be within LIMIT.

    Raises:
        ValueError: it is not.
    """
    found = compare_logits(source, folder)
    quantised = source.cfg.input_bits == 8 or source.cfg.weight_bits == 1
    if exact and not quantised and not found.largest <= LIMIT * max(1.0, found.logits):
        raise ValueError(
            f"logits of the exported model differ by {found.largest:.2g} from fairseq's (largest logit "
            f"{found.logits:.3g}); expected {LIMIT:g} at most. This is an error of mhmoe-export, please report it; "
            "--no-check writes the folder nevertheless"
        )
    return found


def check_tokenizer(source: Source, folder: Path) -> int:
    """Hold the folder's tokenizer against fairseq's on a few texts; returns how many.

    Raises:
        ValueError: another number for a token.
    """
    from fairseq_mhmoe.export.tokenization_mhmoe import FILES, MHMoETokenizer

    name, _ = source.tokenizer
    kind = next(key for key, file in FILES.items() if file == name)
    tokenizer = MHMoETokenizer(folder / "vocab.json", **{kind: folder / name})
    encode = _fairseq_encoder(source, folder / name)
    for text in TEXTS:
        found, expected = tokenizer(text, add_special_tokens=False)["input_ids"], encode(text)
        if found != expected:
            raise ValueError(
                f"the exported tokenizer gives {found} for {text!r}, fairseq's {expected}; please report it"
            )
    return len(TEXTS)


def _fairseq_encoder(source: Source, path: Path):
    from fairseq_mhmoe.data.text import SentencePieceText, TiktokenText

    text = (SentencePieceText if path.suffix == ".model" else TiktokenText)(path, source.dictionary)
    return lambda words: source.dictionary.encode_line(
        text.encode(words), add_if_not_exist=False, append_eos=False
    ).tolist()
