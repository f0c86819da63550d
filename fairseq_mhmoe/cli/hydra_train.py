"""fairseq-hydra-train with this package imported first, so that it also joins launchers and ends together.

Stock fairseq-hydra-train imports a user-dir after its processes have met; `launch=torchrun` must then tell it its rank,
a rank that fails is noticed late, and --moe-timeout is unknown. Options are the same:

    torchrun --nproc-per-node 8 -m fairseq_mhmoe.cli.hydra_train --config-dir configs --config-name english_mhmoe_tiny
"""

from fairseq_cli.hydra_train import cli_main

import fairseq_mhmoe  # noqa: F401

if __name__ == "__main__":
    cli_main()
