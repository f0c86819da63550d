"""The papers' figures of a comparison: 1a and 5 (experts in use), 4 (curves), by the programs of mhmoe-analyze."""

import shlex
from collections.abc import Sequence

from fairseq_mhmoe.cli.demo_programs import program, run, shorten, show
from fairseq_mhmoe.cli.reproduce_runs import Place, Run
from fairseq_mhmoe.cli.reproduce_subjects import subject_of

ANALYZE = ("-m", "fairseq_mhmoe.cli.analyze")


def commands(runs: Sequence[Run], place: Place) -> dict[str, list[str]]:
    """The command of each analysis; experts are drawn of the first seed of each model that has some."""
    first = {}
    for run_ in runs:
        if run_.model.shape.moe is not None:
            first.setdefault(run_.model.name, run_)
    start = [program("python"), *ANALYZE]
    found = {}
    if first:
        checkpoints = [shorten(run_.folder / "checkpoint_last.pt") for run_ in first.values()]
        labels = [run_.model.spec.title for run_ in first.values()]
        found["activation"] = [*start, "activation", *checkpoints, shorten(place.data), "--split", "valid"]
        found["activation"] += ["--labels", *labels, "--device", place.device]
    found["curves"] = [*start, "curves", *(shorten(run_.folder) for run_ in runs)]
    found["curves"] += ["--labels", *(run_.model.spec.title for run_ in runs), "--log-y"]
    found |= subject_of(runs[0].scale).picture_commands(list(runs), place)
    return {name: [*words, "--output", shorten(place.output / name)] for name, words in found.items()}


def draw(runs: Sequence[Run], place: Place) -> dict[str, dict]:
    """Run the analyses; what each drew, as paths, and its command.

    Raises:
        StepFailed: one ended with an error.
    """
    drawn = {}
    for name, command in commands(runs, place).items():
        show(command)
        run(command, place.output / name / "log", place.threads)
        pictures = sorted(shorten(path) for path in (place.output / name).glob("*.png"))
        drawn[name] = {"pictures": pictures, "command": shlex.join(command)}
    return drawn
