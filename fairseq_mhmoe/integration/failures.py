"""One rank's failure ends the whole job, with a message that names rank, layer and cause; for fairseq 0.12.3.1.

There, a rank that raises leaves the others in a collective, silently and for as long as the time-out. Here it writes a
line into the job's store; a thread of every other rank reads it within a second, repeats it and ends its process, even
while the main thread waits. An exception remembers the layer that it came from, so that every message can say where.
"""

import re
import uuid
from pathlib import Path

import torch.distributed as dist
from fairseq import models
from fairseq.distributed import utils as distributed_utils

from fairseq_mhmoe.integration.distributed import timeout_of
from fairseq_mhmoe.integration.hooks import wrap
from fairseq_mhmoe.integration.together import of_all_ranks
from fairseq_mhmoe.integration.watch import Watch, connect
from fairseq_mhmoe.moe import MoELayer

BLOCK = re.compile(r"(^|\.)layers\.\d+$")  # fairseq's name for the blocks of encoders and decoders
COLLECTIVE = re.compile(r"\bgloo/|\bNCCL\b|exchange with the other ranks failed")
PACKAGES = {"fairseq", "fairseq_cli", "fairseq_mhmoe"}
GRACE = 3  # seconds in which the cause of a broken connection may still be reported by the rank that broke it


def install():
    """Installs the hooks of this file."""
    wrap(distributed_utils, "call_main", call_main)
    wrap(models, "build_model", build_model)


def call_main(original, cfg, main, **kwargs):
    """Runs a program whose ranks end together."""
    return original(cfg, EndTogether(main), **kwargs)


class EndTogether:
    """A program's main function, watched while it runs; it pickles, for processes that fairseq spawns itself."""

    def __init__(self, main):
        self.main = main

    def __call__(self, cfg, **kwargs):
        """Runs the program on this rank.

        Raises:
            SystemExit: status 1, after a line on standard error, when other ranks are the reason.
        """
        if not (dist.is_initialized() and dist.get_world_size() > 1):
            return self.main(cfg, **kwargs)
        store = connect(cfg.distributed_training.distributed_init_method, of_all_ranks(uuid.uuid4().hex)[0])
        watch = Watch(dist.get_rank(), dist.get_world_size(), store)
        try:
            result = self.main(cfg, **kwargs)
            meet_at_the_end()
        except BaseException as error:
            self.fail(error, watch, timeout_of(cfg))
            raise
        watch.end()
        return result

    def fail(self, error, watch, seconds):
        """Tells the other ranks, or learns from them why this one can't go on."""
        if isinstance(error, SystemExit) and not error.code:
            return watch.end()
        broken = is_broken_collective(error)
        reason = watch.reason(GRACE if broken else 0)
        if broken and reason is not None:
            watch.leave(reason)
        if broken:
            watch.leave(explain_broken(error, seconds), tell=True)
        if reason is not None:
            watch.acknowledge()
        watch.report(describe(error))


def meet_at_the_end():
    """Waits for the ranks that are still at work, and may fail."""
    dist.barrier()


def build_model(original, *args, **kwargs):
    """Builds a model whose layers know their names."""
    model = original(*args, **kwargs)
    for name, module in model.named_modules():
        if isinstance(module, MoELayer) or BLOCK.search(name):
            module.name_in_model = name
            wrap(type(module), "forward", forward_of_named_layer)
    return model


def forward_of_named_layer(original, module, *args, **kwargs):
    """Runs a layer; an exception that leaves it remembers the innermost layer it came from."""
    try:
        return original(module, *args, **kwargs)
    except Exception as error:
        if not hasattr(error, "layer"):
            error.layer = getattr(module, "name_in_model", "")
        raise


def is_broken_collective(error):
    """Whether an exception says that other ranks do not answer, not that something is wrong on this one."""
    return any(
        isinstance(link, dist.DistError) or (isinstance(link, RuntimeError) and COLLECTIVE.search(str(link)))
        for link in causes(error)
    )


def causes(error):
    """An exception, and those that it was raised from."""
    chain = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__
    return chain


def explain_broken(error, seconds):
    """Where this rank waited for others in vain, and what that may mean."""
    cause = re.sub(r"^\[[^]]*\] ", "", first_line(causes(error)[-1]))  # without the line of gloo's source
    if re.search("timed out|timeout", cause, re.I):
        return (
            f"waited longer than --moe-timeout {seconds:g} seconds for the other ranks in {place_of(error)}: "
            f"one of them hangs or is slow ({cause})"
        )
    return (
        f"lost contact to the other ranks in {place_of(error)}: a process was killed or its machine failed; "
        f"see what the others and the launcher say ({cause})"
    )


def describe(error):
    """One line: layer, or function where it is in none, kind and text of an exception."""
    where = f"{error.layer}: " if getattr(error, "layer", "") else ""
    if not where and isinstance(error, OSError):
        where = f"in {place_of(error)}: "  # the system's words alone say little
    return f"{where}{type(error).__name__}: {first_line(error)}"


def first_line(error):
    """The first line of an exception's text."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def place_of(error):
    """The layer that an exception came from, else the innermost function of fairseq or this package."""
    if getattr(error, "layer", ""):
        return f"layer {error.layer}"
    place, frame = "an unknown place", error.__traceback__
    while frame is not None:
        path = Path(frame.tb_frame.f_code.co_filename)
        if PACKAGES & set(path.parts[-4:]):
            place = f"{frame.tb_frame.f_code.co_name} ({path.name})"
        frame = frame.tb_next
    return place
