"""Half precision with fairseq 0.12.3.1, on GPUs and on the CPU.

* `--bf16` on the command line turns on `tpu`, and the trainer then asks for torch_xla.
* `--fp16` flattens gradients on the current CUDA device, also where there is none.
* To skip a step, after an overflow of float16 for example, the trainer makes a CUDA tensor, which fails without CUDA.
* `--amp` does nothing on the CPU, and says so only through torch's warning about its scaler.
* A batch's counts of bytes become half precision with the rest: rounded, or infinite beyond 65,504.
* Biases that a model goes without are reported as parameters that it shares.
"""

import logging
import sys
from operator import attrgetter

import torch
from fairseq import options, trainer
from fairseq.logging import metrics

from fairseq_mhmoe.integration.hooks import wrap

logger = logging.getLogger(__name__)


def install():
    """Installs the hooks of this file."""
    wrap(options, "parse_args_and_arch", parse_args_for_this_machine)
    wrap(trainer.Trainer, "train_step", skip_without_cuda)
    wrap(trainer.Trainer, "_fp_convert_sample", convert_sample)
    wrap(trainer, "_catalog_shared_params", catalog_shared_params)


def parse_args_for_this_machine(original, parser, input_args=None, *args, **kwargs):
    """Parses the command line; bfloat16 means a TPU only where --tpu is given, float16 is not flattened on the CPU."""
    parsed = original(parser, input_args, *args, **kwargs)
    namespace = parsed[0] if isinstance(parsed, tuple) else parsed
    words = sys.argv[1:] if input_args is None else input_args
    if getattr(namespace, "bf16", False) and "--tpu" not in words:
        namespace.tpu = False
    on_cpu = getattr(namespace, "cpu", False) or not torch.cuda.is_available()
    if getattr(namespace, "fp16", False) and on_cpu:
        namespace.fp16_no_flatten_grads = True
    if getattr(namespace, "amp", False) and on_cpu:
        logger.warning("--amp has no effect: fairseq's mixed precision needs CUDA; use --bf16 on the CPU")
    return parsed


def skip_without_cuda(original, self, samples, raise_oom=False):
    """One update; None when the step was skipped, on the CPU too."""
    try:
        return original(self, samples, raise_oom)
    except (AssertionError, RuntimeError) as error:
        # raised by .cuda() while the trainer, told of an overflow, was about to do what follows here
        if self.cuda or not isinstance(error.__context__, OverflowError):
            raise
    self.zero_grad()
    if self.cfg.common.fp16:
        metrics.log_scalar("loss_scale", self.optimizer.scaler.loss_scale, priority=700, round=4, weight=0)
    metrics.log_stop_time("train_wall")
    return None


def convert_sample(original, self, sample):
    """A batch in the precision of the model, with its counts of bytes as they are."""
    converted = original(self, sample)
    if "nbytes" in sample:
        converted["nbytes"] = sample["nbytes"]
    return converted


def catalog_shared_params(original, module, memo=None, prefix=""):
    """Names of parameters that several modules share, without those that are None."""
    shared = original(module, memo, prefix)
    return shared and [names for names in shared if attrgetter(names[0])(module) is not None]
