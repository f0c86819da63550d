"""packages.py ROOT VENV: what is installed, beside what setup.py asks for and constraints.txt pins; JSON. No torch."""

import json
import os
import re
import sys
from importlib import metadata
from pathlib import Path

try:
    from packaging.requirements import Requirement
except ImportError:
    from pip._vendor.packaging.requirements import Requirement

PACKAGE = "fairseq-mhmoe"


def plain(name):
    """A distribution's name as all spellings of it have in common."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed():
    """Name -> version of every distribution; the first on the path counts, as for imports."""
    found = {}
    for distribution in metadata.distributions():
        if distribution.metadata["Name"]:
            found.setdefault(plain(distribution.metadata["Name"]), distribution.version)
    return found


def outside(found, extra):
    """Own requirements that are not met: (name, version or None, what is asked for); of an extra, or all the rest."""
    try:
        lines = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return []
    rows = []
    for requirement in map(Requirement, lines):
        optional = requirement.marker is not None and "extra" in str(requirement.marker)
        if optional != bool(extra) or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        version = found.get(plain(requirement.name))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            rows.append((requirement.name, version, str(requirement.specifier)))
    return sorted(set(rows))


def pins(path):
    """Name -> version of the pins that hold for this Python."""
    lines = [line.partition(" #")[0].strip() for line in path.read_text().splitlines()]
    requirements = [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]
    return {
        plain(one.name): str(one.specifier).replace("==", "")
        for one in requirements
        if one.marker is None or one.marker.evaluate()
    }


def same(version, pinned):
    """Equal, but for the build: 2.8.0+cu126 is 2.8.0."""
    return version == pinned or version.partition("+")[0] == pinned


def copies(root):
    """Folders of fairseq_mhmoe that an import could find, links resolved; a program is started in ROOT or elsewhere."""
    places = {os.path.realpath(os.path.join(place, "fairseq_mhmoe")) for place in sys.path[1:] if place}
    found = {place for place in places if os.path.exists(os.path.join(place, "__init__.py"))}
    try:
        direct = metadata.distribution(PACKAGE).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return sorted(found)
    editable = json.loads(direct or "{}")
    if editable.get("dir_info", {}).get("editable"):
        found.add(os.path.realpath(os.path.join(editable["url"].replace("file://", "", 1), "fairseq_mhmoe")))
    return sorted(found)


def main(root, venv):
    """Prints the facts."""
    found = installed()
    used = Path(venv, "constraints.txt")  # with the torch that TORCH_SPEC asked for
    pinned = pins(used if used.exists() else Path(root, "constraints.txt"))
    facts = {
        "outside": outside(found, ""),
        "optional": outside(found, "dev"),
        "other": [(name, found[name], pin) for name, pin in pinned.items() if not same(found.get(name, pin), pin)],
        "pinned": sum(name in found for name in pinned),
        "fairseq": sorted(name for name in found if name in ("fairseq", "fairseq-fixed")),
        "ours": copies(root),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main(*sys.argv[1:])
