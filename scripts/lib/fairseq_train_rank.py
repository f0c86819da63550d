"""fairseq-train as one of several CPU processes started by torchrun.

Stock fairseq takes the rank from torchrun's variables only where there are GPUs; here it is handed over as an option.
"""

import os
import sys

from fairseq_cli.train import cli_main

if __name__ == "__main__":
    sys.argv += ["--distributed-rank", os.environ["RANK"]]
    cli_main()
