"""Memory and speed of reading a large index: task gpt beside fairseq's own language_modeling, each in a fresh process.

    python benchmarks/data_reading.py --tokens 1e9 --workers 4 --json data_reading.json

A folder of random tokens is written (2 bytes a token; --folder keeps it), loaded, batched for an epoch, and read: first
in this process, then with --workers workers, from the page cache. Memory is what Linux counts as resident, mapped files
included. Speed is tokens per second of the wall clock, which other programs disturb (see the load), and of the CPU time
of all processes together, with what that allows on the cores at hand.
"""

import argparse
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from machine import commit, describe

from fairseq_mhmoe.cli.files import write_json

SYMBOLS = 50000
TASKS = ("gpt", "language_modeling")
CHUNK = 1 << 24
UINT16 = 8  # fairseq's number for the type


def write_index(prefix: Path, tokens: int, document_tokens: int, seed: int) -> None:
    """A mmap index of documents of random lengths, `document_tokens` in the mean, that end in eos."""
    from fairseq_mhmoe.data.checks import HEADER, MAGIC

    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 2 * document_tokens, size=tokens // document_tokens + 1, dtype=np.int32)
    sizes = sizes[np.cumsum(sizes, dtype=np.int64) < tokens]
    sizes = np.append(sizes, np.int32(tokens - sizes.sum(dtype=np.int64)))
    ends = np.cumsum(sizes, dtype=np.int64)
    noise = rng.integers(4, SYMBOLS, size=CHUNK, dtype=np.uint16)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with open(prefix.with_suffix(".bin"), "wb") as file:
        for start in range(0, int(ends[-1]), CHUNK):
            part = noise[: int(ends[-1]) - start].copy()
            inside = ends[np.searchsorted(ends, start, "right") : np.searchsorted(ends, start + len(part), "right")]
            part[inside - 1 - start] = 2
            part.tofile(file)
    with open(prefix.with_suffix(".idx"), "wb") as file:
        file.write(HEADER.pack(MAGIC, 1, UINT16, len(sizes)))
        sizes.tofile(file)
        (2 * (ends - sizes)).tofile(file)


def write_folder(folder: Path, options) -> None:
    """The data folder, unless it is there: flat, or with several sources, each twice as large as the next."""
    marker = folder / "complete"
    asked = f"{options.tokens:.0f} {options.document_tokens} {options.sources}"
    if marker.is_file() and marker.read_text() == asked:
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dict.txt").write_text("".join(f"w{number} 1\n" for number in range(SYMBOLS - 4)))
    shares = 0.5 ** np.arange(options.sources)
    for number, share in enumerate(shares / shares.sum()):
        place = folder if options.sources == 1 else folder / f"source{number}"
        write_index(place / "train", round(options.tokens * share), options.document_tokens, seed=number)
    marker.write_text(asked)


def resident(process="self", field="VmRSS") -> float:
    """MiB of a process."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    return 0.0


def cpu_seconds() -> float:
    """Of this process and of those that it started and that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def make_iterator(name: str, folder: Path, options, workers: int):
    """(task, iterator over epochs), and the memory after each step in MiB."""
    from fairseq import options as fairseq_options
    from fairseq import tasks
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    import fairseq_mhmoe  # noqa: F401  registers the task

    memory = {"imports": resident()}
    words = [folder, "--task", name, "--arch", "transformer_lm", "--tokens-per-sample", options.tokens_per_sample]
    words += ["--sample-break-mode", options.break_mode]
    words += ["--sampling-alpha", options.alpha] if name == "gpt" else []
    words = [str(word) for word in words]
    parsed = fairseq_options.parse_args_and_arch(fairseq_options.get_training_parser(), words)
    task = tasks.setup_task(convert_namespace_to_omegaconf(parsed).task)
    memory["dictionary"] = resident()
    task.load_dataset("train", combine=True)
    memory["load"] = resident()
    iterator = task.get_batch_iterator(task.dataset("train"), max_sentences=options.batch_size, num_workers=workers)
    memory["batches"] = resident()
    return iterator, memory


def read(epoch, batches: int) -> dict:
    """Take batches; seconds count from the second one on, when the workers are at work."""
    next(epoch)
    started, cpu, tokens = time.perf_counter(), time.process_time(), 0
    for _, batch in zip(range(batches), epoch):
        tokens += batch["ntokens"]
    seconds = time.perf_counter() - started
    return {"tokens": tokens, "wall_s": seconds, "own_cpu_s": time.process_time() - cpu}


def measure(name: str, options) -> dict:
    """Memory and speed of one task."""
    torch.set_num_threads(1)
    started = time.process_time()
    iterator, memory = make_iterator(name, options.folder, options, workers=0)
    epoch = iterator.next_epoch_itr()
    memory["epoch"] = resident()
    setup = time.process_time() - started
    alone = read(epoch, options.batches)
    memory["read"] = resident()
    memory["peak"] = resident(field="VmHWM")
    del epoch, iterator
    found = {"task": name, "memory_mib": memory, "setup_cpu_s": setup}
    found["alone"] = {**alone, "tokens_per_s": alone["tokens"] / alone["own_cpu_s"]}
    if options.workers:
        found["workers"] = measure_workers(name, options)
    return found


def measure_workers(name: str, options) -> dict:
    """Speed with worker processes, and their largest memory."""
    iterator, _ = make_iterator(name, options.folder, options, options.workers)
    before = cpu_seconds()
    epoch = iterator.next_epoch_itr()
    figures = read(epoch, options.batches)
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    worker_memory = max((resident(child) for child in children), default=0.0)
    # the workers' time is counted once they have ended; stock iterators wait for the collector
    del epoch, iterator
    gc.collect()
    cpu = cpu_seconds() - before
    cores = describe()["cores"]
    return {
        **figures,
        "workers": options.workers,
        "cpu_s": cpu,
        "worker_mib": worker_memory,
        "tokens_per_s": figures["tokens"] / figures["wall_s"],
        "tokens_per_cpu_s": figures["tokens"] / cpu,
        "tokens_per_s_of_all_cores": figures["tokens"] / cpu * min(cores, options.workers + 1),
    }


def parse(words):
    """The options; exits with a message for impossible ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=float, default=1e9, help="of all sources together (default: 1e9)")
    parser.add_argument("--document-tokens", type=int, default=500, help="mean length of a document (default: 500)")
    parser.add_argument("--sources", type=int, default=1, help="each half as large as the one before (default: 1)")
    parser.add_argument("--alpha", type=float, default=1.0, help="--sampling-alpha of task gpt (default: 1)")
    parser.add_argument("--tokens-per-sample", type=int, default=2048)
    parser.add_argument("--break-mode", default="none", help="--sample-break-mode (default: none)")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--batches", type=int, default=2000, help="to read in each measurement (default: 2000)")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["gpt"], help="default: gpt")
    parser.add_argument("--folder", type=Path, help="where the index is written and kept (default: a temporary one)")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--measure", action="store_true", help="measure an existing --folder in this very process")
    options = parser.parse_args(words)
    for name in ("tokens", "document_tokens", "sources", "tokens_per_sample", "batch_size", "batches"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(options, name)}: expected 1 or more")
    if options.sources > 1 and "language_modeling" in options.tasks:
        parser.error("--tasks language_modeling reads one source; leave --sources out")
    return options


def main(words=None) -> None:
    """Writes the folder, measures and prints."""
    words = sys.argv[1:] if words is None else [str(word) for word in words]
    options = parse(words)
    if options.measure:
        print(json.dumps(measure(options.tasks[0], options)))
        return
    rows = []
    with tempfile.TemporaryDirectory(prefix="data_reading") as temporary:
        folder = options.folder or Path(temporary)
        write_folder(folder, options)
        for name in options.tasks:
            command = [sys.executable, __file__, *words, "--folder", str(folder), "--measure", "--tasks", name]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            rows.append(json.loads(output.splitlines()[-1]))
    for row in rows:
        memory = " ".join(f"{stage} {mib:.0f}" for stage, mib in row["memory_mib"].items())
        print(
            f"{row['task']:<18} MiB: {memory}; alone {row['alone']['tokens_per_s'] / 1e6:.2f} M tokens per CPU second"
        )
        if "workers" in row:
            several = row["workers"]
            clock, cpu = (several[key] / 1e6 for key in ("tokens_per_s", "tokens_per_s_of_all_cores"))
            print(
                f"{row['task']:<18} {several['workers']} workers: {clock:.2f} M tokens/s by the clock, {cpu:.2f} M by "
                f"CPU time; {several['worker_mib']:.0f} MiB each"
            )
    if options.json is not None:
        content = {"rows": rows, "machine": describe(), "load": os.getloadavg(), "torch": torch.__version__}
        write_json(options.json, {**content, "command": ["benchmarks/data_reading.py", *words], "commit": commit()})


if __name__ == "__main__":
    main()
