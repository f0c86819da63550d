"""The picture of figure 7: how the words of a list and the others are spread over numbers of experts."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fairseq_mhmoe.analysis.pictures import colour, new_figure, plain

# share that is higher than a line of the picture
SEEN = 0.002
UNIFORM_COLOUR, INDEPENDENT_COLOUR = "#444444", "#999999"


def histograms_picture(lists: Sequence[dict], tokens: dict) -> Figure:
    """A histogram for each list of words against the rest, with both means and what chance would give.

    Args:
        lists: of `WordTally.compare`. tokens: of `Counter.report`.
    """
    figure = new_figure(max(5.5 * len(lists), 6.5), 5.2)
    axes = figure.subplots(1, len(lists), sharex=True, sharey=True, squeeze=False)[0]
    for axis, words in zip(axes, lists, strict=True):
        _draw(axis, words, tokens)
    axes[0].set_ylabel("share of occurrences")
    low, high = _limits(lists, tokens)
    axes[0].set_xlim(low, high)
    top = max(max(words["histogram"][side], default=0.0) for words in lists for side in ("list", "rest"))
    axes[0].set_ylim(0, (top or 1.0) * 1.08)
    return figure


def _draw(axis: Axes, words: dict, tokens: dict) -> None:
    edges = words["histogram"]["edges"]
    shown, list_name = words["all_choices"], plain(words["name"].replace("_", " "))
    for number, side, mean, occurrences, kinds in (
        (0, "rest", shown["rest_mean"], words["rest_occurrences"], words["rest_words"]),
        (1, "list", shown["mean"], words["occurrences"], words["words_matched"]),
    ):
        name = "all other words" if side == "rest" else list_name
        label = f"{name}: {occurrences:,} occurrences of {kinds:,} words"
        style = {"alpha": 0.4, "fill": True} if side == "rest" else {"linewidth": 2}
        axis.stairs(words["histogram"][side], edges, color=colour(number), label=label, **style)
        if mean is not None:
            axis.axvline(mean, color=colour(number), linestyle="--", label=f"their mean {mean:.3f}")
    for line, name, line_colour in (
        (tokens["expected_independent_heads"], "heads independent", INDEPENDENT_COLOUR),
        (tokens["expected_uniform"], "uniform random routing", UNIFORM_COLOUR),
    ):
        axis.axvline(line, color=line_colour, linestyle=":", linewidth=2, label=f"{name} {line:.3f}")
    matched = _found(words["matched"])
    axis.set_title(
        f"{list_name} against the rest: {_found(shown)}\nas frequent and long words: {matched}",
        fontsize=9.5,
    )
    axis.set_xlabel("different experts of a word's sub-tokens, mean over layers", fontsize=9)
    axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False)


def _found(figures: dict) -> str:
    if figures["ratio"] is None:
        return figures["verdict"]
    return f"{figures['difference']:+.3f}, {figures['ratio']:+.1f} standard errors"


def _limits(lists: Sequence[dict], tokens: dict) -> tuple[float, float]:
    """From the first to the last bin that one can see, the lines of chance included."""
    edges = lists[0]["histogram"]["edges"]
    filled = [
        place
        for words in lists
        for side in ("list", "rest")
        for place, share in enumerate(words["histogram"][side])
        if share > SEEN
    ] or [0, len(edges) - 2]
    chance = [tokens["expected_uniform"], tokens["expected_independent_heads"]]
    width = edges[1] - edges[0]
    return min(edges[min(filled)], *chance) - width, max(edges[max(filled) + 1], *chance) + width
