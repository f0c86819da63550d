"""A small prepared folder of three sources, each with its own words and its own bytes per token."""

import hashlib
import json

import numpy as np

from data_prep.fairseq_index import IndexWriter

BYTES_PER_TOKEN = {"en": 4.0, "de": 2.5, "sw": 3.0}
# documents of each source; Swahili has none for validation
SPLITS = {"train": {"en": 60, "de": 30, "sw": 10}, "valid": {"en": 12, "de": 5}}


def documents(rng, source, count):
    """Made-up texts: each source uses a third of the 46 symbols, and the end of a document."""
    first = 4 + 15 * list(BYTES_PER_TOKEN).index(source)
    return [np.append(rng.integers(first, first + 15, rng.integers(5, 40)), 2) for _ in range(count)]


def write_sources(folder):
    """Writes indexes, dictionary and manifest; returns the folder."""
    rng = np.random.default_rng(1)
    sources = {name: {"folder": name, "weight": None, "splits": {}} for name in BYTES_PER_TOKEN}
    totals = {split: {"documents": 0, "tokens": 0, "bytes": 0} for split in SPLITS}
    for split, counts in SPLITS.items():
        for name, count in counts.items():
            texts = documents(rng, name, count)
            (folder / name).mkdir(exist_ok=True)
            with IndexWriter(folder / name / split, np.uint16) as writer:
                for text in texts:
                    writer.add(text)
            tokens = sum(map(len, texts))
            counted = {"documents": count, "tokens": tokens, "bytes": round(tokens * BYTES_PER_TOKEN[name])}
            sources[name]["splits"][split] = counted
            totals[split] = {key: total + counted[key] for key, total in totals[split].items()}
    dictionary = "".join(f"w{number} 1\n" for number in range(46))
    (folder / "dict.txt").write_text(dictionary)
    sha256 = hashlib.sha256(dictionary.encode()).hexdigest()
    manifest = {"format": 2, "name": "made up", "dictionary": {"sha256": sha256}, "splits": totals, "sources": sources}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
