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
    distributed,
    empty_batches,
    errors,
    evaluation,
    failures,
    generation,
    gradients,
    layer_decay,
    precision,
    progress,
    resume,
    routing_reports,
    token_checks,
    user_dir,
    weight_decay,
)


def install():
    """Installs every hook; the package's __init__ calls it before it imports models and tasks."""
    # a program starts through errors, distributed, evaluation and failures, in this order: the last wraps first
    for concern in (
        adam,
        batches,
        checkpoint_saving,
        checkpoint_loading,
        checkpoint_damage,
        compat,
        failures,
        evaluation,
        distributed,
        empty_batches,
        generation,
        gradients,
        layer_decay,
        precision,
        progress,
        resume,
        routing_reports,
        token_checks,
        user_dir,
        weight_decay,
        errors,
    ):
        concern.install()
