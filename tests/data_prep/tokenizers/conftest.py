"""A small file of tiktoken's kind, and models in the layouts of others."""

import base64

import pytest
import sentencepiece

MERGES = ["th", "the", " t", " the", "in", "er", "an", " a", " an", "12", "\n\n", "    ", "é"]


@pytest.fixture(scope="session")
def rank_file(tmp_path_factory):
    """tiny.tiktoken: 256 bytes in another order than their values, then a few merges."""
    tokens = [bytes([(byte + 33) % 256]) for byte in range(256)] + [merge.encode() for merge in MERGES]
    path = tmp_path_factory.mktemp("ranks") / "tiny.tiktoken"
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)))
    return path


@pytest.fixture(scope="session")
def lines(write_articles):
    """Lines of made-up prose, some with white space that isn't a space."""
    prose = [line for _, _, markup in write_articles(60) for line in markup.split("\n")]
    return [*prose, *["a\u00a0b\tc\u3000d\u2028e"] * 40]


@pytest.fixture(scope="session")
def train_model(lines, tmp_path_factory):
    """train_model(name, **options): path of a model that SentencePiece trains with these options."""

    def train(name, **options):
        prefix = tmp_path_factory.mktemp("models") / name
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_prefix=str(prefix), num_threads=2, minloglevel=2, **options
        )
        return prefix.with_suffix(".model")

    return train


@pytest.fixture(scope="session")
def xlmr_model(train_model):
    """XLM-R's layout: <unk>, <s>, </s>, no byte pieces; NFKC, line ends are spaces."""
    return train_model("xlmr", vocab_size=150, model_type="unigram", character_coverage=0.9995)


@pytest.fixture(scope="session")
def llama_model(train_model):
    """LLaMA's layout: <unk>, <s>, </s>, 256 byte pieces, BPE; text as it is, white space has pieces."""
    return train_model(
        "llama", vocab_size=420, model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, split_digits=True, character_coverage=1.0,
    )  # fmt: skip
