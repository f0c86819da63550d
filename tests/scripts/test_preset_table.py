"""The sizes that scripts/run.sh checks arguments against are those of the registered architectures."""

import re
from pathlib import Path

from fairseq_mhmoe.models.architectures import ARCHITECTURES

SCRIPT = Path(__file__).parents[2] / "scripts/lib/arguments.sh"


def test_sizes_are_those_of_the_models():
    rows = re.findall(r'^ +([\w| ]+)\) shape="(\d+) (\d+)" ;;', SCRIPT.read_text(), re.MULTILINE)
    table = {name: (int(width), int(layers)) for names, width, layers in rows for name in names.split(" | ")}
    registered = {
        name: (options["decoder_embed_dim"], options["decoder_layers"]) for name, options in ARCHITECTURES.items()
    }
    assert table == registered
