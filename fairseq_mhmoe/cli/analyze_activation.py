"""Which experts are in use: selections of each MoE layer's experts over a text (MH-MoE v1, figures 1a and 5).

    mhmoe-analyze activation runs/mhmoe/checkpoint_best.pt data/wiki
    mhmoe-analyze activation runs/{smoe,mhmoe}/checkpoint_best.pt data/wiki --labels SMoE MH-MoE --by-source
    mhmoe-analyze activation runs/multimodal/checkpoint_best.pt data/multimodal --streams pair --max-records 1000

Multimodal models read the images, texts and pairs of their data; images and texts are counted apart, as sources.
Writes activation.json (all figures), activation.png (heat maps layers x experts, one colour scale for all models),
activation-thresholds.png (the share of activated experts for any threshold), and with --by-source
activation-by-source.png. Checkpoints of any number of ranks are read in one process. docs/analysis.md explains.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from fairseq_mhmoe.analysis.activation import DEFINITION, THRESHOLDS
from fairseq_mhmoe.analysis.activation_pictures import (
    COLOUR_SCALES,
    models_picture,
    source_pictures,
    thresholds_picture,
)
from fairseq_mhmoe.analysis.activation_run import count, figures_by_source, progress
from fairseq_mhmoe.analysis.activation_streams import count_streams
from fairseq_mhmoe.analysis.pictures import save_png
from fairseq_mhmoe.cli.analyze_streams import add_stream_arguments, check_streams, load_any, stream_batches_of
from fairseq_mhmoe.cli.analyze_text import add_text_arguments, batches_of, check_text, named
from fairseq_mhmoe.cli.files import write_json
from fairseq_mhmoe.cli.text_table import text_table

COLUMNS = {
    "activated by token": lambda model: f"{model['activated_experts']['per_token']:.1%}",
    "by sub-token": lambda model: f"{model['activated_experts']['per_sub_token']:.1%}",
    "threshold": lambda model: f"{model['activated_experts']['threshold']:.4g}",
    "load entropy": lambda model: f"{model['load_entropy']:.3f}",
    "load CV": lambda model: f"{model['load_variation']:.3f}",
    "top share": lambda model: f"{model['top_share']:.1%}",
    "dropped": lambda model: f"{model['dropped_share']:.1%}",
    "gate entropy": lambda model: f"{model['gate_entropy']:.3f}",
    "dead": lambda model: f"{sum(len(layer['dead']) for layer in model['layers'])}",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `mhmoe-analyze activation`."""
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="of one or more models")
    add_text_arguments(parser)
    add_stream_arguments(parser)
    parser.add_argument("--labels", nargs="+", metavar="NAME", help="of the models (default: the checkpoints' folders)")
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="X",
        help="selection frequency above which an expert counts as activated (default: K / (2 N) of each model, half of "
        "what each expert has under an even load)",
    )
    parser.add_argument(
        "--thresholds",
        metavar="X,...",
        help=f"others for the curve in the JSON file (default: {','.join(map(str, THRESHOLDS))})",
    )
    parser.add_argument("--by-source", action="store_true", help="draw a row of heat maps for each source, too")
    parser.add_argument(
        "--colours",
        choices=COLOUR_SCALES,
        default="relative",
        help="what the colours mean: selections relative to an even load (default), per token or per sub-token",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("runs/analysis"), metavar="FOLDER", help="default: runs/analysis"
    )


def run(arguments: argparse.Namespace) -> None:
    """Count, write the figures and draw.

    Raises:
        ValueError: options that don't go together, a file that is not there, or no model has experts.
    """
    check(arguments)
    thresholds = parse_thresholds(arguments.thresholds)
    labels = arguments.labels or default_labels(arguments.checkpoints)
    models = []
    for label, checkpoint in zip(labels, arguments.checkpoints, strict=True):
        models.append({"label": label, "checkpoint": str(checkpoint), **measure(label, checkpoint, arguments)})
        if models[-1]["experts"]:
            models[-1].update(figures_by_source(models[-1].pop("counts"), arguments.threshold, thresholds))
    with_experts = [model for model in models if model["experts"]]
    if not with_experts:
        raise ValueError(
            f"{', '.join(labels)}: no experts; "
            + ("these are dense models" if len(labels) > 1 else "this is a dense model")
            + ", name a checkpoint of a model with MoE layers"
        )
    if arguments.by_source and all(len(model["sources"]) < 2 for model in with_experts):
        print("--by-source: the text has one source, so its picture shows the same as activation.png")
    write(arguments, models)


def check(arguments: argparse.Namespace) -> None:
    """ValueError for options that can't be."""
    check_text(arguments)
    check_streams(arguments)
    if arguments.threshold is not None and not 0 <= arguments.threshold < float("inf"):
        raise ValueError(f"--threshold is {arguments.threshold}; expected a selection frequency, 0 or more")
    check_labels(arguments.labels, arguments.checkpoints)


def check_labels(labels: Sequence[str] | None, checkpoints: Sequence[Path]) -> None:
    """ValueError for --labels that are not one each, or equal."""
    if labels and len(labels) != len(checkpoints):
        raise ValueError(f"--labels: {len(labels)} names for {len(checkpoints)} checkpoints; expected one each")
    doubled = [label for label in labels or () if labels.count(label) > 1]
    if doubled:
        raise ValueError(f"--labels: {doubled[0]!r} names several checkpoints; give each its own, as in {doubled[0]}-1")


def parse_thresholds(words: str | None) -> list[float]:
    """Numbers of "0.01,0.1", in order; THRESHOLDS without any. ValueError for what is no frequency."""
    if words is None:
        return list(THRESHOLDS)
    found = []
    for word in words.split(","):
        try:
            found.append(float(word))
        except ValueError:
            raise ValueError(f"--thresholds {words}: {word!r} is no number; expected for example 0.01,0.1") from None
        if not 0 <= found[-1] < float("inf"):
            raise ValueError(f"--thresholds {words}: {word} is no selection frequency; expected 0 or more")
    return sorted(set(found))


def default_labels(checkpoints: Sequence[Path]) -> list[str]:
    """Names of the checkpoints' folders, with the files' names or whole paths where those do not tell them apart."""
    for name in (
        lambda path: path.absolute().parent.name,
        lambda path: f"{path.absolute().parent.name}/{path.stem}",
        str,
    ):
        labels = [name(path) for path in checkpoints]
        if len(set(labels)) == len(labels):
            break
    return labels


def measure(label: str, checkpoint: Path, arguments: argparse.Namespace) -> dict:
    """What is known of one checkpoint, and "counts" of each source; a dense model has "experts" None and no counts."""
    loaded = load_any(checkpoint, arguments)
    layers = loaded.moe_layers()
    if not layers:
        print(f"{label}: a dense model, it has no experts to look at", flush=True)
        return {"experts": None}
    config = layers[0][1].config
    names, batches = stream_batches_of(loaded, arguments) if loaded.multimodal else batches_of(loaded, arguments)
    torch.manual_seed(arguments.seed)
    counts = (count_streams if loaded.multimodal else count)(loaded, names, progress(label, batches))
    return {
        "experts": config.num_experts,
        "top_k": config.top_k,
        "heads": config.heads,
        "tokens_per_sample": loaded.task.args.tokens_per_sample,
        "capacity_factor": config.capacity_factor,
        "counts": counts,
    }


def write(arguments: argparse.Namespace, models: list[dict]) -> None:
    """activation.json and the pictures, and a table to read."""
    folder = arguments.output
    text = {"data": str(arguments.data), "max_tokens": arguments.max_tokens, "batch_size": arguments.batch_size}
    text |= named(arguments) | {"streams": arguments.streams, "max_records": arguments.max_records}
    stated = "K / (2 N) of each model" if arguments.threshold is None else arguments.threshold
    content = {**text, "threshold": stated, "definition": DEFINITION, "models": models}
    pictures = {
        "activation.png": models_picture(models, arguments.colours),
        "activation-thresholds.png": thresholds_picture(models),
    }
    if arguments.by_source:
        found = source_pictures(models, arguments.colours)
        for number, figure in enumerate(found, 1):
            pictures[f"activation-by-source{f'-{number}' if len(found) > 1 else ''}.png"] = figure
    write_json(folder / "activation.json", content)
    for name, figure in pictures.items():
        save_png(figure, folder / name)
    print(table(models))
    print(f"written: {', '.join(str(folder / name) for name in ('activation.json', *pictures))}")


def table(models: Sequence[dict]) -> str:
    """One line a model: figures averaged over layers; dead experts of all layers."""
    rows = []
    for model in models:
        cells = [cell(model) for cell in COLUMNS.values()] if model["experts"] else ["no experts"]
        rows.append([model["label"], *cells, *[""] * (len(COLUMNS) - len(cells))])
    return text_table(["model", *COLUMNS], rows)
