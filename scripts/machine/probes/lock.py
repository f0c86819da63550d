"""lock.py FOLDER: whether a file there can be locked. Prints {"error": reason or ""}; may hang on a broken NFS."""

import fcntl
import json
import sys
import tempfile

error = ""
try:
    with tempfile.TemporaryFile(dir=sys.argv[1]) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError as refused:
    error = str(refused)
print(json.dumps({"error": error}))
