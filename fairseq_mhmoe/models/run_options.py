"""Options of a training run that hold for every model of ours; integration/ reads them from `cfg.model`."""

from dataclasses import dataclass, field
from typing import Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass


def option(default, text):
    """A field with its help text."""
    return field(default=default, metadata={"help": text})


@dataclass
class RunOptions(FairseqDataclass):
    """How a training behaves when processes, numbers or the machine fail."""

    moe_timeout: float = option(600, "seconds that a process waits for the others before the job ends")
    on_nonfinite: ChoiceEnum(["stop", "skip"]) = option(
        "stop", "an update whose loss or gradients are NaN or infinite ends the training, or is left out"
    )
    max_nonfinite: int = option(10, "with --on-nonfinite skip: the training ends after so many such updates in a row")
    on_loss_spike: ChoiceEnum(["off", "log", "rewind"]) = option(
        "log", "a loss above its usual range: not looked for, logged, or, if it lasts, undone with the last checkpoint"
    )
    loss_spike_window: int = option(128, "number of updates whose losses make the usual range")
    loss_spike_threshold: float = option(
        6.0, "a spike is so many times the usual scatter (1.48 median deviations, 1 percent at least) above the median"
    )
    loss_spike_updates: int = option(10, "a spike lasts when so many updates in a row are above the range")
    max_rewinds: int = option(3, "so many rewinds within 10 windows of updates; the next one ends the training")
    disk_reserve: float = option(0.0, "GB that a checkpoint has to leave free on its disk; below 0: not looked at")
    peak_tflops: Optional[float] = option(
        None, "peak TFLOP/s of one device in the training's precision, for mfu in the log; default: by the GPU's name"
    )
    stop_signals: str = option("SIGTERM,SIGUSR1", "signals after which a training saves and ends early; none: at once")
