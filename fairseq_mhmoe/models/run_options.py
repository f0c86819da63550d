"""Options of a training run that hold for every model of ours; integration/ reads them from `cfg.model`."""

from dataclasses import dataclass, field

from fairseq.dataclass import FairseqDataclass


def option(default, text):
    """A field with its help text."""
    return field(default=default, metadata={"help": text})


@dataclass
class RunOptions(FairseqDataclass):
    """How a training behaves when processes, numbers or the machine fail."""

    moe_timeout: float = option(600, "seconds that a process waits for the others before the job ends")
