"""Keeps what fairseq's imports say about themselves out of our programs: nobody who runs a model can act on it.

* fairscale, and fairseq's calls of `torch.jit.script`, warn that torch has deprecated what they use.
* fairseq's speech tasks ask for tensorboardX, which is another package than the tensorboard that trainings write with.
* hydra tells each job's name at level DEBUG, which something that fairseq imports has switched on.

Must be imported before fairseq. Under fairseq's own programs it comes too late for the first two, and changes nothing.
"""

import logging
import sys
import warnings

LOUD = ("fairseq.tasks.text_to_speech", "fairseq.tasks.frm_text_to_speech", "hydra.core.utils")

if not sys.warnoptions:  # -W and PYTHONWARNINGS say what the user wants to see
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"fairscale(\.|$)")
    warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", FutureWarning)
    warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
for name in LOUD:
    logging.getLogger(name).setLevel(logging.WARNING)
