"""Writes configs/model/<preset>.yaml for every preset of fairseq_mhmoe/models/architectures.py and of its multimodal
neighbour.

Hydra knows nothing of fairseq's architecture functions, so each preset is also a file. Run it after changing the table:

    .venv/bin/python scripts/write_model_configs.py
"""

from pathlib import Path

import yaml

from fairseq_mhmoe.models.architectures import ARCHITECTURES
from fairseq_mhmoe.models.multimodal_architectures import MULTIMODAL_ARCHITECTURES

FOLDER = Path(__file__).resolve().parents[1] / "configs" / "model"
HEADER = "# Written by scripts/write_model_configs.py from fairseq_mhmoe/models/{}.py.\n"


def model_configs():
    """{file name: content} of the whole folder."""
    contents = {}
    for name, options in ARCHITECTURES.items():
        settings = {"_name": "mhmoe_lm", "decoder_normalize_before": True, **options}
        contents[f"{name}.yaml"] = HEADER.format("architectures") + yaml.safe_dump(settings, sort_keys=False)
    for name, options in MULTIMODAL_ARCHITECTURES.items():
        settings = yaml.safe_dump({"_name": "mhmoe_multimodal", **options}, sort_keys=False)
        contents[f"{name}.yaml"] = HEADER.format("multimodal_architectures") + settings
    return contents


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    contents = model_configs()
    for stale in {path.name for path in FOLDER.glob("*.yaml")} - set(contents):
        (FOLDER / stale).unlink()
    for name, content in contents.items():
        (FOLDER / name).write_text(content)
    print(f"{len(contents)} presets in {FOLDER}")


if __name__ == "__main__":
    main()
