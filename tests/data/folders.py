"""Index files and prepared folders of several sources, for tests of data and tasks."""

import hashlib
import json

import numpy as np

from data_prep.fairseq_index import IndexWriter
from fairseq_mhmoe.data.blocks import TokenFile
from fairseq_mhmoe.data.checks import read_index


def write_files(prefix, *shards, dtype=np.uint16):
    """An index for each shard, a list of documents: PREFIX, PREFIX1, ... -> TokenFiles."""
    files = []
    for number, documents in enumerate(shards):
        name = prefix.with_name(prefix.name + (str(number) if number else ""))
        with IndexWriter(name, dtype) as writer:
            for tokens in documents:
                writer.add(np.array(tokens))
        files.append(TokenFile(name, read_index(name)))
    return files


def write_sources(folder, manifest=True, weights=None, **sources):
    """A folder of the sources en={"train": [shard, ...], ...}, ... -> folder.

    With a manifest of the form that data_prep writes: 4 bytes a token for the first source, 5 for the second, ...;
    weights={"en": 2.0, ...} go into it.
    """
    folder.mkdir(exist_ok=True)
    dictionary = "".join(f"w{number} 1\n" for number in range(46))
    (folder / "dict.txt").write_text(dictionary)
    entries, files, totals = {}, {}, {}
    for number, (name, splits) in enumerate(sources.items()):
        counts = {}
        for split, shards in splits.items():
            for file in write_files(folder / name / split, *shards):
                for ending in (".bin", ".idx"):
                    path = file.prefix.with_suffix(ending)
                    files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": "-"}
            documents = [document for shard in shards for document in shard]
            tokens = sum(map(len, documents))
            counts[split] = {"documents": len(documents), "tokens": tokens, "bytes": tokens * (4 + number)}
            total = totals.setdefault(split, {"documents": 0, "tokens": 0, "bytes": 0, "files": {}})
            for key, value in counts[split].items():
                total[key] += value
        entries[name] = {"folder": name, "weight": (weights or {}).get(name), "splits": counts}
    content = {"format": 2, "name": "test", "sources": entries, "splits": totals, "files": files}
    content["dictionary"] = {"sha256": hashlib.sha256(dictionary.encode()).hexdigest()}
    if manifest:
        (folder / "manifest.json").write_text(json.dumps(content))
    return folder
