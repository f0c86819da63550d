"""fairseq-train with a stopwatch: python benchmarks/step_train.py FIGURES.json ARGUMENTS OF FAIRSEQ-TRAIN

Nothing is changed in what is trained: after every update the times are noted, and written when training ends.
"""

import resource
import sys
import time
from pathlib import Path

import torch
from fairseq_cli.train import Trainer, cli_main  # first of fairseq: it sets up the log

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from malloc import allocator

from fairseq_mhmoe.cli.files import write_json

MIB = 2**20


class Stopwatch:
    """Notes, at the end of every update: CPU seconds of this process, the kernel's part, the clock, page faults."""

    def __init__(self):
        self.marks = []
        self.tokens = []
        self.peak = self.before = 0.0

    def attach(self):
        """Put it around the trainer's step."""
        original = Trainer.train_step
        stopwatch = self

        def train_step(trainer, samples, *args, **kwargs):
            if not stopwatch.marks:
                stopwatch.before = resident_mib("VmRSS")
            output = original(trainer, samples, *args, **kwargs)
            if trainer.cuda:
                torch.cuda.synchronize()
                stopwatch.note_peak()
            usage = resource.getrusage(resource.RUSAGE_SELF)
            stopwatch.marks.append((time.process_time(), time.perf_counter(), usage.ru_stime, usage.ru_minflt))
            stopwatch.tokens.append(sum(sample["ntokens"] for sample in samples if sample))
            return output

        Trainer.train_step = train_step
        reset = torch.cuda.reset_peak_memory_stats

        def note_and_reset(*args):  # the trainer starts the peak anew within its step
            stopwatch.note_peak()
            reset(*args)

        torch.cuda.reset_peak_memory_stats = note_and_reset

    def note_peak(self):
        """Keep the most memory that tensors had on the GPU."""
        self.peak = max(self.peak, torch.cuda.max_memory_allocated() / MIB)

    def figures(self):
        """Of each update but the first milliseconds, tokens and page faults; memory in MiB."""
        pairs = zip(self.marks, self.marks[1:])
        differences = [[after - before for before, after in zip(*pair)] for pair in pairs]
        cpu, wall, system, faults = zip(*differences)
        return {
            "cpu_ms": [1000 * seconds for seconds in cpu],
            "wall_ms": [1000 * seconds for seconds in wall],
            "system_ms": [1000 * seconds for seconds in system],  # of the CPU time
            "page_faults": faults,
            "tokens": [int(tokens) for tokens in self.tokens[1:]],
            "peak_mib": self.peak or resident_mib("VmHWM"),
            "before_mib": self.before,
            "allocator": allocator(),
        }


def resident_mib(field):
    """Resident memory of this process: VmRSS now, VmHWM the most so far.

    Not ru_maxrss where it can be helped: that one starts at what the parent process had.
    """
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    """Train, then write the figures."""
    target = Path(sys.argv.pop(1))
    stopwatch = Stopwatch()
    stopwatch.attach()
    cli_main()
    write_json(target, stopwatch.figures())


if __name__ == "__main__":
    main()
