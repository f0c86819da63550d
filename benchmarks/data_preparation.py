"""Throughput per core and memory of every stage of the corpus preparation, at several corpus sizes.

    python benchmarks/data_preparation.py --json figures.json
    python benchmarks/data_preparation.py --text FILE... --tokenizers train cl100k_base --json figures.json

A corpus of JSON lines in four files is made of the text given, over and over, or else of made-up words as frequent as
in a language. Each stage runs alone in a process of its own, all tasks one after the other in one thread but for the
training of the vocabulary, which has two. Seconds are CPU time, so rates are per core; peak_mib is the process's
resident memory at its highest, Python and libraries included, base_mib that before it began. growth is peak_mib at the
largest corpus over that at the smallest.
"""

import argparse
import itertools
import multiprocessing
import os
import random
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Dict, Iterator, List, Optional

import orjson
from datatrove.executor.local import LocalPipelineExecutor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.executors import Stage
from data_prep.files import write_text
from data_prep.recipe import InputFile, Recipe, Settings
from data_prep.stages import make_stages
from data_prep.tokenizers import load_tokenizer, save_tokenizer

FULL = dict(megabytes=[40, 160], spm_characters=30_000_000, vocab_size=8000)
QUICK = dict(megabytes=[2, 8], spm_characters=1_000_000, vocab_size=4000)
TRAIN = "train"  # a SentencePiece model of the corpus, instead of a tokenizer that exists
FILES = 4
SPLITS = ("train", "valid", "test")
PARAGRAPH_CHARACTERS = 400
DOCUMENT_PARAGRAPHS = 8
SYLLABLES = [start + vowel + end for start in "bdfgklmnprst" for vowel in "aeiou" for end in ("", "n", "r", "s")]


def made_up_paragraphs(words: int = 30_000) -> Iterator[str]:
    """Paragraphs without end; the n-th word is drawn about 1/n times as often as the first."""
    generator = random.Random(0)
    vocabulary = ["".join(generator.choices(SYLLABLES, k=generator.choice((1, 2, 2, 3, 4)))) for _ in range(words)]
    weights = list(itertools.accumulate(1 / rank for rank in range(1, words + 1)))
    while True:
        yield " ".join(generator.choices(vocabulary, cum_weights=weights, k=PARAGRAPH_CHARACTERS // 6)) + "."


def given_paragraphs(files: List[Path]) -> Iterator[str]:
    """Paragraphs of text files, again from the start after the last one."""
    while True:
        for path in files:
            lines = path.read_text(encoding="utf-8").splitlines()
            for start in range(0, len(lines), DOCUMENT_PARAGRAPHS):
                if paragraph := "\n".join(lines[start : start + DOCUMENT_PARAGRAPHS]).strip():
                    yield paragraph


def write_corpus(folder: Path, megabytes: int, paragraphs: Iterator[str]) -> List[InputFile]:
    """JSON lines with so many megabytes of text, in four files."""
    inputs = []
    for number in range(FILES):
        path = folder / f"{number}.jsonl"
        written = 0
        with open(path, "wb") as file:
            while written < megabytes * 10**6 / FILES:
                text = "\n\n".join(itertools.islice(paragraphs, DOCUMENT_PARAGRAPHS))
                written += len(text.encode())
                file.write(orjson.dumps({"text": text}, option=orjson.OPT_APPEND_NEWLINE))
        inputs.append(InputFile(path, "jsonl", "corpus"))
    return inputs


def run_stage(stage: Stage, logs: Path) -> Dict[str, float]:
    """Run all tasks of a stage in this process -> CPU seconds, seconds, base_mib and peak_mib."""
    executor = LocalPipelineExecutor(
        list(stage.steps), tasks=stage.tasks, workers=1, logging_dir=str(logs / stage.name), skip_completed=False
    )
    base, clock, start = resident_mib("VmRSS"), time.process_time(), time.monotonic()
    executor.run()
    return {
        "cpu_s": time.process_time() - clock,
        "s": time.monotonic() - start,
        "base_mib": base,
        "peak_mib": resident_mib("VmHWM"),
    }


def resident_mib(field: str) -> float:
    """This process's resident memory, now (VmRSS) or at its highest (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise OSError(f"the system doesn't tell {field} of a process")


def measure(tokenizer: str, megabytes: int, options: argparse.Namespace) -> List[Dict]:
    """The rows of one corpus: a stage each."""
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        paragraphs = given_paragraphs(options.text) if options.text else made_up_paragraphs()
        inputs = write_corpus(folder, megabytes, paragraphs)
        settings = Settings(
            vocab_size=options.vocab_size,
            spm_characters=options.spm_characters,
            exact_dedup=options.dedup,
            near_dedup=options.dedup,
        )
        work, output = folder / "work", folder / "output"
        model = None if tokenizer == TRAIN else save_tokenizer(load_tokenizer(tokenizer), work)
        stages = make_stages(Recipe("benchmark", tuple(inputs)), settings, output, work, model, "")
        text_mb = sum(path.stat().st_size for path in folder.glob("*.jsonl")) / 1e6
        rows = []
        for stage in stages:
            # forked by a server that has imported all this and done nothing
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as pool:
                row = pool.submit(run_stage, stage, work / "logs").result()
            rows.append({"tokenizer": tokenizer, "megabytes": megabytes, "stage": stage.name, **row})
            rows[-1]["mb_per_s"] = text_mb / row["cpu_s"]
        counts = orjson.loads((output / "manifest.json").read_bytes())
        tokens, documents = (sum(counts["splits"][split][what] for split in SPLITS) for what in ("tokens", "documents"))
        for row in rows:
            row["documents_per_s"] = documents / row["cpu_s"]
            row["tokens_per_s"] = tokens / row["cpu_s"] if row["stage"] in ("index", "publish") else None
        return rows


def growth(rows: List[Dict]) -> Dict[str, float]:
    """ "TOKENIZER STAGE" -> peak memory at the largest corpus over that at the smallest."""
    found = {}
    for row in rows:
        found.setdefault(f"{row['tokenizer']} {row['stage']}", {})[row["megabytes"]] = row["peak_mib"]
    return {key: peaks[max(peaks)] / peaks[min(peaks)] for key, peaks in found.items()}


def table(rows: List[Dict]) -> str:
    """The rows as text."""
    lines = ["| tokenizer | MB | stage | CPU s | MB/s | documents/s | tokens/s | base MiB | peak MiB |"]
    lines.append("|---|---:|---|" + "---:|" * 6)
    for row in rows:
        tokens = "" if row["tokens_per_s"] is None else f"{row['tokens_per_s']:,.0f}"
        lines.append(
            f"| {row['tokenizer']} | {row['megabytes']} | {row['stage']} | {row['cpu_s']:.1f} | {row['mb_per_s']:.1f} "
            f"| {row['documents_per_s']:,.0f} | {tokens} | {row['base_mib']:.0f} | {row['peak_mib']:.0f} |"
        )
    return "\n".join(lines)


def parse(words: List[str]) -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="small corpora, in less than a minute")
    add("--megabytes", type=int, nargs="+", help="sizes of the corpus's text (default: 40 160, --quick 2 8)")
    add("--text", type=Path, nargs="+", help="UTF-8 text files to make the corpus of (default: made-up words)")
    add(
        "--tokenizers",
        nargs="+",
        default=[TRAIN],
        help="train, or what --tokenizer of data_prep takes (default: train)",
    )
    add("--vocab-size", type=int, help="of a trained one (default: 8000, --quick 4000)")
    add("--spm-characters", type=int, help="sample to train on (default: 30000000, --quick 1000000)")
    add("--dedup", action="store_true", help="drop exact and near duplicates too")
    add("--folder", type=Path, help="for the corpora, which are removed (default: the system's temporary folder)")
    add("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args(words)
    for name, value in (QUICK if options.quick else FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    for number in [*options.megabytes, options.spm_characters, options.vocab_size]:
        if number < 1:
            parser.error(f"{number}: expected 1 or more")
    for path in options.text or ():
        if not path.is_file() or not path.read_text(encoding="utf-8", errors="replace").strip():
            parser.error(f"--text {path}: expected a file with text")
    return options


def main(words: Optional[List[str]] = None) -> None:
    """Measures and prints."""
    words = sys.argv[1:] if words is None else words
    options = parse(words)
    rows = []
    for tokenizer, megabytes in itertools.product(options.tokenizers, options.megabytes):
        rows += measure(tokenizer, megabytes, options)
    print(table(rows))
    if options.json is not None:
        from machine import commit, describe

        figures = {"rows": rows, "growth": growth(rows), "machine": describe()}
        # the folders of one machine tell nobody else anything
        command = [Path(word).name if os.sep in word else word for word in words]
        figures.update(command=["benchmarks/data_preparation.py", *command], commit=commit())
        write_text(options.json, orjson.dumps(figures, option=orjson.OPT_INDENT_2).decode() + "\n")


if __name__ == "__main__":
    main()
