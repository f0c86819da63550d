"""Everything that touches fairseq's inside: one file per concern, each says what, why, and for which version.

Hooks replace module attributes or methods, never classes (fairseq's programs import those by name), and each may be
installed twice without harm.
"""

from fairseq_mhmoe.integration import (
    batches,
    compat,
    distributed,
    empty_batches,
    errors,
    gradients,
    precision,
    progress,
    user_dir,
)


def install():
    """Installs every hook; the package's __init__ calls it before it imports models and tasks."""
    # errors wraps what distributed has wrapped
    for concern in (
        batches,
        compat,
        distributed,
        empty_batches,
        gradients,
        precision,
        progress,
        user_dir,
        errors,
    ):
        concern.install()
