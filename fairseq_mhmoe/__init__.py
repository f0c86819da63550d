"""Multi-Head Mixture-of-Experts on fairseq: `--user-dir fairseq_mhmoe`, or an installed package.

fairseq imports a user-dir's tasks and models only when the package is not yet in sys.modules, and never its criterions;
so everything that registers itself is imported here. The hooks go first: what follows may rely on their repairs.
"""

__version__ = "0.1.0"

if __name__ != "fairseq_mhmoe":
    raise ImportError(
        f"this folder must be imported as fairseq_mhmoe, not as {__name__}: name --user-dir .../fairseq_mhmoe, "
        "not a link or copy with another name"
    )

from fairseq_mhmoe import integration

integration.install()

from fairseq_mhmoe import criterions, models, tasks  # noqa: E402, F401
