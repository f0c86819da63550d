"""Curves as plain data and as a table."""

from collections.abc import Sequence

from fairseq_mhmoe.analysis.curves import Curve, Group, Run
from fairseq_mhmoe.analysis.logs import TRAIN_INNER


def curve_content(curve: Curve) -> dict:
    """A curve as lists of equal length; standard_error is None for a single run."""
    places = {axis: places.tolist() for axis, places in curve.over.items() if axis != "update"}
    errors = None if curve.errors is None else curve.errors.tolist()
    return {"update": curve.updates.tolist(), **places, "value": curve.values.tolist(), "standard_error": errors}


def point_content(curve: Curve, place: int) -> dict:
    """One point of a curve."""
    return {name: values and values[place] for name, values in curve_content(curve).items()}


def run_content(run: Run, name: str, label: str, subset: str, figure: str, train: bool) -> dict:
    """All that is known of a run; with its training curve if asked and if training logs this figure."""
    content = {
        "name": name,
        "label": label,
        "path": str(run.path),
        "log": str(run.log),
        **vars(run.model),
        "sessions": run.sessions,
        "updates_lost": run.updates_lost,
        "seconds_lost": run.seconds_lost,
        "tokens_may_differ_by": run.tokens[1],
        "broken_lines": [vars(broken) for broken in run.broken],
        "notes": run.notes,
        "valid": curve_content(run.curve(subset, figure)),
    }
    if train:
        content["train"] = curve_content(run.curve(TRAIN_INNER, figure))
    return content


def group_content(group: Group, valid: Curve, train: Curve | None, subset: str, figure: str) -> dict:
    """All that is known of a group: its mean curve, the last point with each run's value there, the lowest point."""
    content = {"label": group.label, "runs": len(group.runs), **vars(group.model), "valid": curve_content(valid)}
    if train is not None:
        content["train"] = curve_content(train)
    if len(valid.updates):
        curves = [run.curve(subset, figure) for run in group.runs]
        values = [float(curve.values[curve.updates == valid.updates[-1]][0]) for curve in curves]
        content["final"] = point_content(valid, -1) | {"values": values}
        content["lowest"] = point_content(valid, int(valid.values.argmin()))
    return content


def table(groups: Sequence[Group], curves: Sequence[Curve], figure: str) -> str:
    """The last point of each group's curve as text; says so when they lie at different updates."""
    rows = [["label", "runs", "experts", "update", "tokens", "FLOPs", "seconds", figure, "std. error"]]
    for group, curve in zip(groups, curves):
        if not len(curve.updates):
            continue
        ends = {axis: f"{places[-1]:.4g}" for axis, places in curve.over.items()}
        places = [ends.get(axis, "?") for axis in ("tokens", "flops", "time")]
        experts = "?" if group.model.experts is None else str(group.model.experts)
        error = "-" if curve.errors is None else f"{curve.errors[-1]:.3g}"
        numbers = [str(curve.updates[-1]), *places, f"{curve.values[-1]:.5g}", error]
        rows.append([group.label, str(len(group.runs)), experts, *numbers])
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    if len({row[3] for row in rows[1:]}) > 1:
        lines.append("The curves end at different updates: these values are not of equal training.")
    return "\n".join(lines)
