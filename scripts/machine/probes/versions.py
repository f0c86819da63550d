"""Versions of Python, torch, torchvision and numpy in this environment; JSON. Nothing is imported."""

import json
import platform
from importlib import metadata

found = {"python": platform.python_version()}
for name in ("torch", "torchvision", "numpy"):
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        found[name] = ""
print(json.dumps(found))
