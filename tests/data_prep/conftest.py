"""Small corpora of made-up words, and a preparation of them in which nothing takes long."""

import json
import random

import pytest

WORDS = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrst"]


@pytest.fixture(scope="session")
def make_texts():
    """make_texts(count, seed=0, words=40): different texts of these words."""

    def make(count, seed=0, words=40):
        rng = random.Random(seed)
        return [" ".join(rng.choice(WORDS) for _ in range(words)) for _ in range(count)]

    return make


@pytest.fixture(scope="session")
def write_jsonl():
    """write_jsonl(path, entries): one line each, of texts, dictionaries, or bytes as they are."""

    def write(path, entries):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            for entry in entries:
                if isinstance(entry, str):
                    entry = {"text": entry}
                file.write(entry if isinstance(entry, bytes) else json.dumps(entry).encode() + b"\n")
        return path

    return write


@pytest.fixture(scope="session")
def prepare_sources():
    """prepare_sources(output, {"a": [paths], ...}, executor=None, inputs={}, **settings) -> manifest."""
    from data_prep.pipeline import prepare
    from data_prep.recipe import InputFile, Recipe, Settings

    def run(output, sources, executor=None, inputs=None, **settings):
        chosen = {"vocab_size": 320, "min_chars": 10, "valid_share": 0.1, "test_share": 0.1, **settings}
        files = [
            InputFile(path, "jsonl", source, **(inputs or {})) for source, paths in sources.items() for path in paths
        ]
        return prepare(Recipe("small", tuple(files)), Settings(**chosen), output, executor)

    return run


@pytest.fixture(scope="session")
def read_texts():
    """read_texts(output, prefix): the texts of an index."""
    import sentencepiece
    from fairseq.data.indexed_dataset import MMapIndexedDataset

    def read(output, prefix):
        processor = sentencepiece.SentencePieceProcessor(model_file=str(output / "spm.model"))
        dataset = MMapIndexedDataset(str(output / prefix))
        return [processor.DecodeIds(dataset[index].tolist()[:-1]) for index in range(len(dataset))]

    return read
