"""Everything that touches fairseq's inside: one file per concern, each says what, why, and for which version.

Hooks replace module attributes or methods, never classes (fairseq's programs import those by name), and each may be
installed twice without harm.
"""


def install():
    """Installs every hook; called once by the package's __init__, before models and tasks are imported."""
