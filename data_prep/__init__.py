"""Real corpora -> the folders that the tasks read: reader, cleaning, split, tokenizer, fairseq mmap index, manifest."""

import importlib.util
import logging
import os
import sys

# datatrove logs through loguru, which would print the value of every variable (whole articles) with an error
os.environ.setdefault("LOGURU_DIAGNOSE", "NO")
# fairseq turns all loggers to DEBUG when it is imported
logging.getLogger("fsspec").setLevel(logging.WARNING)

# its programs need what the tokenizers, which training imports too, do without
if any(pair[0] == "-m" and pair[1].startswith("data_prep") for pair in zip(sys.orig_argv, sys.orig_argv[1:])):
    if importlib.util.find_spec("datatrove") is None:
        sys.exit("data_prep: error: datatrove is not installed: pip install 'fairseq-mhmoe[data]'")
