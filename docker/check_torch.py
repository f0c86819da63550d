"""Ends an image's build when the torch in it has no kernels for the GPUs that the image is for.

pip takes the build of another index without a word when the intended one has no such version; the image would be found
out only on the GPU, by "no kernel image is available".
"""

import sys

import torch


def problem(wanted: list[str]) -> str | None:
    """What is wrong with this torch for GPUs such as sm_70, None when nothing is."""
    compiled = torch.cuda.get_arch_list()
    missing = [name for name in wanted if name not in compiled]
    if not missing:
        return None
    return (
        f"torch {torch.__version__} has no kernels for {' '.join(missing)}, only for {' '.join(compiled) or 'CPUs'}; "
        "give an index that has a build with them (PIP_EXTRA_INDEX_URL), and its version (TORCH_SPEC)"
    )


if __name__ == "__main__":
    sys.exit(problem(sys.argv[1:]))
