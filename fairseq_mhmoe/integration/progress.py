"""Keeps the progress line short, for fairseq 0.12.3.1.

The criterion logs several figures per MoE layer. JSON and TensorBoard keep all of them; the `simple` and `tqdm` lines,
which people read, show the averages over layers only.
"""

import re

from fairseq.logging.progress_bar import BaseProgressBar

from fairseq_mhmoe.integration.hooks import wrap

PER_LAYER = re.compile(r"^moe_l\d+_")


def install():
    """Installs the hook of this file; the JSON bar has a method of its own and is not touched."""
    wrap(BaseProgressBar, "_format_stats", leave_out_layers)


def leave_out_layers(original, bar, stats):
    """Formats the statistics of a progress line without those of single layers."""
    return original(bar, {key: value for key, value in stats.items() if not PER_LAYER.match(key)})
