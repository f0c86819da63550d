"""Keeps the progress line short, for fairseq 0.12.3.1.

Criterions log several figures per MoE layer and per source or stream of the data. JSON and TensorBoard keep all of
them; the `simple` and `tqdm` lines, which people read, show some averages over layers only, and the perplexity of a few
sources.
"""

import re

from fairseq.logging.progress_bar import BaseProgressBar

from fairseq_mhmoe.integration.hooks import wrap

PER_LAYER = re.compile(r"^moe_l\d+_")
PER_STREAM = re.compile(r"^stream_")
PER_SOURCE = re.compile(r"^src_.*_(loss|ppl|tokens|bits_per_byte)$")
SOURCES_IN_A_LINE = 8
CURVES = {"moe_load_entropy", "moe_load_variation"}  # they say much as a curve, little in a line
DETAILS = {"tokens_per_s_device", "run_tokens_per_s", "run_mfu", "gpu_reserved_gb", "ram_gb", "ram_free_gb"}


def install():
    """Installs the hook of this file; the JSON bar has a method of its own and is not touched."""
    wrap(BaseProgressBar, "_format_stats", leave_out_details)


def leave_out_details(original, bar, stats):
    """Formats a progress line's statistics without those of layers and streams, with one of each source if any."""
    sources = [key for key in stats if PER_SOURCE.match(key)]
    shown = {key for key in sources if key.endswith("_ppl") and stats[key] is not None}
    hidden = CURVES | DETAILS | set(sources) - (shown if len(shown) <= SOURCES_IN_A_LINE else set())
    if "mfu" in stats:
        hidden.add("tflops_per_device")
    hidden.update(key for key in stats if PER_LAYER.match(key) or PER_STREAM.match(key))
    return original(bar, {key: value for key, value in stats.items() if key not in hidden})
