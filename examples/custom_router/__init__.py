"""A router of one's own: `--user-dir examples/custom_router --moe-router headwise`."""

import fairseq_mhmoe  # noqa: F401  models, tasks and criterions

from . import router  # noqa: F401  registers the router
