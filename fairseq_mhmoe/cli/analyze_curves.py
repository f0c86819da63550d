"""Validation curves of trainings, by update, tokens, training FLOPs and wall clock (MH-MoE v1, figures 4, 6 and 9).

RUN is a folder with train.log, or a log of fairseq-train (--log-format json or simple, captured or from --log-file).
Runs of equal label are seeds of one model: their mean is drawn, with a band of one standard error. Writes curves.json
and curves.png, and scaling.png when models of one kind differ in the number of experts.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from fairseq_mhmoe.analysis.curves import AXES, Curve, Group, Run, group, names_of, read_run
from fairseq_mhmoe.analysis.curves_picture import FIGURE_NAMES, Line, draw_curves
from fairseq_mhmoe.analysis.curves_report import group_content, run_content, table
from fairseq_mhmoe.analysis.logs import TRAIN_INNER
from fairseq_mhmoe.analysis.pictures import save_png
from fairseq_mhmoe.analysis.scaling import Point, can_scale, draw_scaling, lines_of
from fairseq_mhmoe.cli.files import write_json

SHOWN_BROKEN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder with train.log, or a log")
    parser.add_argument("--labels", nargs="+", metavar="L", help="one per run; equal ones make a group of seeds")
    default = Path("runs/analysis")
    parser.add_argument("--output", type=Path, default=default, metavar="FOLDER", help="results (default: %(default)s)")
    parser.add_argument("--figure", default="ppl", help="which of the logged figures (default: %(default)s)")
    subset = "which validation subset, such as wikipedia/valid (default: the only one); or train_inner"
    parser.add_argument("--subset", help=subset)
    parser.add_argument("--x", nargs="+", choices=AXES, help="panels (default: all that can be had)")
    parser.add_argument("--train", action="store_true", help="draw the training curve, too (thin)")
    parser.add_argument("--log-x", action="store_true", help="logarithmic axes of updates, tokens, FLOPs, time")
    parser.add_argument(
        "--log-y",
        action=argparse.BooleanOptionalAction,
        help="logarithmic axis of the figure (default: if its values span more than a factor of ten)",
    )
    parser.add_argument("--y-limits", nargs=2, type=float, metavar=("LOW", "HIGH"), help="what to show of the figure")
    several = "one for all runs, or one per run, instead of what the checkpoint says"
    parser.add_argument("--flops-per-token", nargs="+", type=float, metavar="F", help=f"of training: {several}")
    parser.add_argument("--experts", nargs="+", type=int, metavar="N", help=f"per MoE layer, 0: dense; {several}")
    parser.add_argument("--kinds", nargs="+", metavar="K", help=f"dense, smoe, xmoe, mhmoe or any name; {several}")


def run(arguments: argparse.Namespace) -> None:
    """Read the runs, write the figures and the pictures.

    Raises:
        ValueError: a run, a figure or a subset that is not there, or options that don't go together.
    """
    check(arguments)
    count = len(arguments.runs)
    said = {
        "flops_per_token": one_each(arguments.flops_per_token, "--flops-per-token", count),
        "experts": one_each(arguments.experts, "--experts", count),
        "kind": one_each(arguments.kinds, "--kinds", count),
    }
    runs = []
    for number, path in enumerate(arguments.runs):
        found = read_run(path, **{name: values[number] for name, values in said.items()})
        runs.append(found)
        say_troubles(found)
    groups = group(runs, arguments.labels)
    subset = choose_subset(runs, arguments.subset, arguments.train)
    figure, output = arguments.figure, arguments.output
    valid = [found.curve(subset, figure) for found in groups]
    train = [training_curve(found, figure) if arguments.train else None for found in groups]
    if not any(len(curve.updates) for curve in [*valid, *filter(None, train)]):
        raise ValueError(f"no update at which {figure} of {subset} is known of all runs of a label")
    check_logarithms([curve for curve in [*valid, *train] if curve is not None], arguments)
    axes = choose_axes(arguments.x, groups, [curve for curve in [*valid, *train] if curve is not None])
    points = [point_of(found, curve) for found, curve in zip(groups, valid) if len(curve.updates)]
    with_train = arguments.train and None not in train
    same_end = len({int(curve.updates[-1]) for curve in valid if len(curve.updates)}) == 1
    named = zip(runs, names_of(runs), labels_of(runs, groups))
    content = {
        "figure": figure,
        "subset": subset,
        "runs": [run_content(*item, subset, figure, with_train) for item in named],
        "groups": [group_content(*item, subset, figure) for item in zip(groups, valid, train)],
    }
    lines = [Line(legend(found, curve, same_end), curve, extra) for found, curve, extra in zip(groups, valid, train)]
    title = f"{FIGURE_NAMES.get(figure, figure)}, {subset}" + (" (thin: training)" if with_train else "")
    title = title if subset == TRAIN_INNER else f"validation {title}"
    picture = draw_curves(lines, axes, title, figure, arguments.log_x, arguments.log_y, arguments.y_limits)
    write_json(output / "curves.json", content)
    save_png(picture, output / "curves.png")
    written = ["curves.json", "curves.png"]
    if can_scale(points):
        try:
            kinds = lines_of(points)
        except ValueError as error:
            print(f"scaling.png is left out: {error}")
        else:
            save_png(draw_scaling(kinds, f"{subset}, at each model's last validation", figure), output / "scaling.png")
            written.append("scaling.png")
    print(table(groups, valid, figure))
    print(f"written: {', '.join(str(output / name) for name in written)}")


def check(arguments: argparse.Namespace) -> None:
    """Raises ValueError for numbers that make no picture."""
    for flops in arguments.flops_per_token or ():
        if not (math.isfinite(flops) and flops > 0):
            raise ValueError(f"--flops-per-token {flops}: expected a number above 0")
    for experts in arguments.experts or ():
        if experts < 0:
            raise ValueError(f"--experts {experts}: expected 0 (dense) or more")
    if arguments.y_limits is not None:
        low, high = arguments.y_limits
        if not low < high or (arguments.log_y and low <= 0):
            raise ValueError(f"--y-limits {low:g} {high:g}: expected LOW below HIGH, and above 0 with --log-y")
    if arguments.x and len(set(arguments.x)) < len(arguments.x):
        raise ValueError(f"--x {' '.join(arguments.x)}: a panel is named twice")


def check_logarithms(curves: Sequence[Curve], arguments: argparse.Namespace) -> None:
    """Raises ValueError for --log-y with values of 0 or less; says which points --log-x can't show."""
    lowest = min(curve.values.min() for curve in curves if len(curve.values))
    if arguments.log_y and lowest <= 0:
        raise ValueError(f"--log-y: {arguments.figure} goes down to {lowest:g}; leave the option out")
    for axis in (arguments.x or AXES) if arguments.log_x else ():
        hidden = sum(int((curve.over[axis] <= 0).sum()) for curve in curves if axis in curve.over)
        if hidden:
            print(f"{axis}: {hidden} points at 0 are not shown on a logarithmic axis")


def one_each(values: Sequence | None, option: str, count: int) -> list:
    """One value per run. Raises ValueError for another number than 1 or one per run."""
    values = [None] if values is None else list(values)
    if len(values) not in (1, count):
        raise ValueError(f"{option}: {len(values)} values for {count} runs; expected one for all, or one for each")
    return values * count if len(values) == 1 else values


def choose_subset(runs: Sequence[Run], asked: str | None, train: bool) -> str:
    """The subset that was asked for, else the only one, else "valid".

    Raises:
        ValueError: not validated by every run (unless the training curve is asked for), or several to choose from.
    """
    if asked == TRAIN_INNER:  # figures that training alone logs, as its speed
        return asked
    names = list(dict.fromkeys(name for found in runs for name in found.subsets))
    if asked is None and len(names) > 1 and "valid" not in names:
        raise ValueError(f"several validation subsets: {', '.join(names)}; choose one with --subset")
    chosen = asked or ("valid" if "valid" in names or not names else names[0])
    for found in runs:
        if chosen not in found.subsets and not train:
            has = f"it has {', '.join(found.subsets)}" if found.subsets else "it has none"
            raise ValueError(f"{found.log}: no validation of {chosen}; {has} (--train draws the training curve)")
    return chosen


def training_curve(found: Group, figure: str) -> Curve | None:
    """The training figure of a group; None, and said, where training logs no such figure."""
    try:
        return found.curve(TRAIN_INNER, figure)
    except ValueError as error:
        print(f"no training curve: {error}")
        return None


def choose_axes(asked: Sequence[str] | None, groups: Sequence[Group], curves: Sequence[Curve]) -> list[str]:
    """The panels: those asked for, else all that some group has; says which groups are missing from one.

    Raises:
        ValueError: asked for, and no group has it.
    """
    axes = [axis for axis in asked or AXES if any(axis in curve.over for curve in curves)]
    lacking = [axis for axis in asked or () if axis not in axes]
    if lacking:
        raise ValueError(f"--x {' '.join(lacking)}: not known of any run (notes above say why)")
    for axis in AXES if asked is None else asked:
        names = [found.label for found in groups if any(run.over(axis, []) is None for run in found.runs)]
        if names:
            where = "no panel" if axis not in axes else "missing from the panel"
            print(f"{axis}: {where}, unknown of {', '.join(names)}")
    return axes


def say_troubles(found: Run) -> None:
    """Prints what a reader of the curves should know about a log."""
    for note in found.notes:
        print(f"{found.path}: {note}")
    for broken in found.broken[:SHOWN_BROKEN]:
        print(f"{broken.file}, line {broken.line}: left out: {broken.reason}")
    if len(found.broken) > SHOWN_BROKEN:
        print(f"{found.log}: {len(found.broken)} broken lines in all")
    if found.updates_lost:
        print(
            f"{found.log}: {found.sessions} sessions; {found.updates_lost} updates were trained twice, the later count"
        )


def labels_of(runs: Sequence[Run], groups: Sequence[Group]) -> list[str]:
    """The label of each run."""
    return [next(found.label for found in groups if any(one is run for one in found.runs)) for run in runs]


def point_of(found: Group, curve: Curve) -> Point:
    """The end of a group's curve."""
    error = None if curve.errors is None else float(curve.errors[-1])
    return Point(found.label, found.model.kind, found.model.experts, float(curve.values[-1]), error)


def legend(found: Group, curve: Curve, same_end: bool) -> str:
    """The label, and the last value with its standard error; where the curves end apart, with its update."""
    if not len(curve.values):
        return found.label
    value = f"{found.label}: {curve.values[-1]:.5g}"
    value += "" if curve.errors is None else f" ± {curve.errors[-1]:.2g}"
    return value if same_end else f"{value} at {curve.updates[-1]}"
