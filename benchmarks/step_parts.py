"""Which part of a training step an operation belongs to: ranges around modules and functions, put on from outside.

In the forward pass an operation belongs to the innermost range around it. In the backward pass it belongs to where its
autograd node was made: both carry the same sequence number.
"""

import inspect
import re
from collections import Counter, defaultdict
from contextlib import ExitStack, contextmanager

from fairseq.trainer import Trainer
from torch.profiler import record_function

from fairseq_mhmoe.moe import layer as moe_layer
from fairseq_mhmoe.moe import stats

EMBEDDING = "embedding"
ATTENTION = "attention"
NORMS = "norms and residuals"
DENSE = "dense feed-forward"
HEAD = "head and merge layers"
ROUTER = "router and selection"
DISPATCH = "dispatch and combine"
PRODUCTS = "experts: matrix products"
ACTIVATION = "experts: activation and biases"
BALANCE = "balance losses and statistics"
OUTPUT = "output layer and loss"
CLIPPING = "gradient norm and scaling"
OPTIMIZER = "optimizer"
REST = "data, logging and the rest"
PARTS = [EMBEDDING, ATTENTION, NORMS, DENSE, HEAD, ROUTER, DISPATCH, PRODUCTS, ACTIVATION, BALANCE, OUTPUT]
PARTS += [CLIPPING, OPTIMIZER, REST]

PREFIX = "part: "
EXPERTS = "experts"  # becomes PRODUCTS, DISPATCH or ACTIVATION, by operation
PRODUCT_NAMES = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::_grouped_mm")
GATHER_NAMES = ("aten::index_select", "aten::embedding_bag", "aten::_embedding_bag")
BACKWARD = "autograd::engine::evaluate_function: "
GRADIENT_SUM = BACKWARD + "torch::autograd::AccumulateGrad"

# Modules by their names, in our models and in torchscale's.
MODULES = {
    r"decoder": NORMS,
    r".*\.(embed_tokens|embed_positions|layernorm_embedding)": EMBEDDING,
    r".*\.self_attn": ATTENTION,
    r".*\.layers\.\d+\.ffn": DENSE,
    r".*\.moe_layer": DISPATCH,
    r".*\.moe_layer\.(head|merge)\.\d+": HEAD,
    r".*\.moe_layer\.(router|gate)": ROUTER,
    r".*\.moe_layer\.(experts|shared)(\.\d+)?": EXPERTS,
}
# Functions that our MoE layer calls, by the file that they come from.
FILES = {"dispatch": DISPATCH, "selection": ROUTER, "losses": BALANCE}
TRAINER = {"train_step": REST, "clip_grad_norm": CLIPPING}
# Ranges that fairseq's trainer has itself.
FAIRSEQ = {"reduce-grads": CLIPPING, "multiply-grads": CLIPPING, "clip-grads": CLIPPING, "optimizer": OPTIMIZER}


@contextmanager
def ranges(trainer):
    """Inside it, the trainer's steps carry ranges named PREFIX + part."""
    with ExitStack() as stack:
        for name, module in trainer.model.named_modules():
            part = next((part for pattern, part in MODULES.items() if re.fullmatch(pattern, name)), None)
            if part is not None:
                stack.enter_context(module_range(module, part))
        stack.enter_context(module_range(trainer.criterion, OUTPUT))
        decoder = trainer.model.decoder
        stack.enter_context(function_range(decoder, "output_layer", OUTPUT))
        for name, function in vars(moe_layer).copy().items():
            part = FILES.get(getattr(function, "__module__", "").rpartition(".")[2])
            if inspect.isfunction(function) and part is not None:
                stack.enter_context(function_range(moe_layer, name, part))
        stack.enter_context(function_range(stats, "pack", BALANCE))
        for name, part in TRAINER.items():
            stack.enter_context(function_range(Trainer, name, part))
        yield


@contextmanager
def module_range(module, part):
    """A range around every forward of a module."""
    opened = []

    def enter(*_):
        opened.append(record_function(PREFIX + part))
        opened[-1].__enter__()

    def leave(*_):
        opened.pop().__exit__(None, None, None)

    handles = [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def function_range(owner, name, part):
    """A range around every call of owner.name."""
    original, own = getattr(owner, name), name in vars(owner)

    def ranged(*args, **kwargs):
        with record_function(PREFIX + part):
            return original(*args, **kwargs)

    setattr(owner, name, ranged)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, original)
        else:  # a method of the class, which shows again
            delattr(owner, name)


def milliseconds_by_part(events, on_device: bool) -> dict[str, float]:
    """Self time of all operations by part.

    Args:
        events: of a profiler that saw steps within `ranges`.
        on_device: count the time on the GPU instead of the CPU's.
    """
    finder, times = PartFinder(events), Counter()
    for event in events:
        times[finder.part_of(event)] += self_time(event, on_device) / 1000
    return {part: times[part] for part in PARTS}


def milliseconds_by_name(events, on_device: bool) -> list[tuple[str, float, int]]:
    """(operation, self time, calls), longest first; the ranges' own time is Python's."""
    finder, times, calls = PartFinder(events), Counter(), Counter()
    for event in events:
        if finder.part_of(event) is not None:
            name = "(Python between operations)" if is_range(event) else event.name
            times[name] += self_time(event, on_device) / 1000
            calls[name] += 1
    return [(name, ms, calls[name]) for name, ms in times.most_common()]


def self_time(event, on_device: bool) -> float:
    """Microseconds of an event without those inside it."""
    return event.self_device_time_total if on_device else event.self_cpu_time_total


def is_range(event) -> bool:
    """Whether an event is no operation."""
    return event.name.startswith((PREFIX, "ProfilerStep")) or event.name in FAIRSEQ


class PartFinder:
    """Finds the part of each event of a profile."""

    def __init__(self, events):
        self.found = {}
        forward = defaultdict(list)
        for event in events:
            if event.sequence_nr >= 0 and not event.name.startswith(BACKWARD) and not self._in_backward(event):
                forward[event.sequence_nr].append(event)
        # Operations without a gradient carry the number of the next node too, so the last one has made it.
        self.makers = {number: max(group, key=lambda e: e.time_range.start) for number, group in forward.items()}

    def part_of(self, event) -> str | None:
        """The part; None for what is outside of the steps."""
        region = self._region(event)
        if region != EXPERTS:
            return region
        if event.name in PRODUCT_NAMES:
            return PRODUCTS
        return DISPATCH if event.name in GATHER_NAMES else ACTIVATION

    def _region(self, event):
        if event.id not in self.found:
            self.found[event.id] = self._look_up(event)
        return self.found[event.id]

    def _look_up(self, event):
        name = event.name
        if name.startswith(PREFIX):
            return name.removeprefix(PREFIX)
        if name in FAIRSEQ:
            return FAIRSEQ[name]
        if name.startswith(GRADIENT_SUM):
            return CLIPPING
        if name.startswith(BACKWARD) and event.sequence_nr in self.makers:
            return self._region(self.makers[event.sequence_nr])
        return None if event.cpu_parent is None else self._region(event.cpu_parent)

    @staticmethod
    def _in_backward(event) -> bool:
        while event is not None:
            if event.name.startswith(BACKWARD):
                return True
            event = event.cpu_parent
        return False
