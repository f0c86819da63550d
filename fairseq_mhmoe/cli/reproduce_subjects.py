"""What is compared: language models or multimodal ones. A subject is a module; all of them have the same names.

ARCH, SIDE: architectures and what their options begin with. task_settings(scale), shape_words(scale): options.
prepare(request), read_data(folder): the data. evaluation_command(run, rows), read_scores(path), nll_of(split),
figures(splits): the scores. picture_commands(runs, place): further analyses.
"""

from types import ModuleType

from fairseq_mhmoe.cli import reproduce_multimodal, reproduce_text
from fairseq_mhmoe.cli.reproduce_settings import Scale


def subject_of(scale: Scale) -> ModuleType:
    """The subject of these settings."""
    return reproduce_text if scale.pictures is None else reproduce_multimodal
