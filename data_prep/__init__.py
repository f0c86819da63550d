"""Real corpora -> the folders that the tasks read: reader, cleaning, split, tokenizer, fairseq mmap index, manifest."""

import logging
import os

# datatrove logs through loguru, which would print the value of every variable (whole articles) with an error
os.environ.setdefault("LOGURU_DIAGNOSE", "NO")
# fairseq turns all loggers to DEBUG when it is imported
logging.getLogger("fsspec").setLevel(logging.WARNING)
