"""Everything that touches fairseq's inside: one file per concern, each says what, why, and for which version.

Hooks replace module attributes or methods, never classes (fairseq's programs import those by name), and each may be
installed twice without harm.
"""

from fairseq_mhmoe.integration import notices  # noqa: F401, I001  (before anything that imports fairseq)
from fairseq_mhmoe.integration import (
    adam,
    batches,
    checkpoint_damage,
    checkpoint_loading,
    checkpoint_saving,
    compat,
    disk_space,
    distributed,
    empty_batches,
    errors,
    evaluation,
    failures,
    generation,
    gradients,
    layer_decay,
    loss_spikes,
    meters,
    nonfinite,
    precision,
    preemption,
    progress,
    resume,
    routing_reports,
    stop_signals,
    token_checks,
    tracking,
    user_dir,
    weight_decay,
)


def install():
    """Installs every hook; the package's __init__ calls it before it imports models and tasks."""
    # a program starts through errors, distributed, evaluation, preemption and failures, in this order: the last wraps
    # first
    for concern in (
        adam,
        batches,
        checkpoint_saving,
        checkpoint_loading,
        checkpoint_damage,
        disk_space,
        compat,
        tracking,
        failures,
        preemption,
        evaluation,
        distributed,
        empty_batches,
        generation,
        gradients,
        layer_decay,
        meters,
        precision,
        progress,
        resume,
        routing_reports,
        nonfinite,
        loss_spikes,
        stop_signals,
        token_checks,
        user_dir,
        weight_decay,
        errors,
    ):
        concern.install()
