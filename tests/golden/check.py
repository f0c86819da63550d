"""Compare our layers, gates and language models with recorded runs of the published code.

    python tests/golden/check.py FILE...

Each .npz file holds settings (meta), inputs, parameters, outputs, routing and gradients. The model that its meta
describes is built from our public classes in the compat mode of its code base. Outputs must agree to 1e-5 of the
array's largest value, routing exactly, gradients to 1e-4. A file that can't be checked is a failure.
"""

import json
import sys
from pathlib import Path
from typing import Callable, Dict

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from checks import CannotCheck, Checker
from language_models import check_language_model, check_language_model_gradients
from layers import check_gate, check_layer

KINDS: Dict[str, Callable[[Checker], None]] = {
    "mhmoe_layer": check_layer,
    "smoe_layer": check_layer,
    "torchscale_0.3.0_xmoe_layer": check_layer,
    "gate_only_xmoe_cosine": check_gate,
    "gate_only_softmax": check_gate,
    "language_model": check_language_model,
}


def check_file(path: Path) -> Checker:
    """Run all comparisons that a file allows; the result says what differed.

    Raises:
        CannotCheck: the file's settings are not supported, or it is no such file.
    """
    try:
        with np.load(path) as data:
            arrays = {name: data[name] for name in data.files}
        meta = json.loads(str(arrays.pop("meta")))
        checker = Checker(path, meta, arrays)
    except CannotCheck:
        raise
    except Exception as error:  # whatever a damaged archive makes numpy, zipfile or json raise
        raise CannotCheck(f"not a golden file: {error}") from error
    run = KINDS.get(meta.get("kind")) or (check_language_model_gradients if "of" in meta else None)
    if run is None:
        raise CannotCheck(f"unknown kind {meta.get('kind')!r}; known: {', '.join(sorted(KINDS))}")
    try:
        run(checker)
    except CannotCheck:
        raise
    except KeyError as error:
        raise CannotCheck(f"the file has no {error}") from error
    except Exception as error:  # arrays that do not fit the settings: the files after this one are still to be checked
        raise CannotCheck(f"{type(error).__name__}: {error}") from error
    checker.require_all()
    return checker


def main(files) -> int:
    """Print one line a file; the exit status is 1 when any differs or can't be checked, 2 without files."""
    if not files:
        print(__doc__)
        return 2
    failed = 0
    for name in files:
        try:
            checker = check_file(Path(name))
            failed += not checker.passed
            print(checker.summary())
        except CannotCheck as error:
            failed += 1
            print(f"FAIL {Path(name).name}: can't check: {error}")
    print(f"{len(files) - failed} of {len(files)} files agree")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
