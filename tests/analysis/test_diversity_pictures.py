"""The picture of figure 7, and its figures as text."""

from matplotlib.image import imread

from fairseq_mhmoe.analysis.diversity_pictures import histograms_picture
from fairseq_mhmoe.analysis.diversity_report import printable, printed
from fairseq_mhmoe.analysis.pictures import save_png

TOKENS = {"expected_uniform": 1.9, "expected_independent_heads": 1.7}
EDGES = [0.75, 1.25, 1.75, 2.25]


def words(name, mean=2.0, ratio=3.0):
    return {
        "name": name,
        "words": 4,
        "words_matched": 3,
        "occurrences": 1234,
        "rest_words": 70,
        "rest_occurrences": 5678,
        "all_choices": {
            "mean": mean,
            "rest_mean": 1.5,
            "difference": mean and mean - 1.5,
            "standard_error_of_difference": 0.1,
            "ratio": ratio,
            "verdict": "more experts than the rest" if ratio else "too few words to tell",
        },
        "first_choice": {
            "mean": 1.25,
            "rest_mean": 1.0,
            "difference": 0.25,
            "standard_error_of_difference": 0.5,
            "ratio": 0.5,
            "verdict": "no difference shown",
        },
        "matched": {
            "words": 3,
            "rest_words": 60,
            "difference": -0.125,
            "standard_error_of_difference": 0.25,
            "ratio": -0.5,
            "verdict": "no difference shown",
        },
        "histogram": {
            "edges": EDGES,
            "list": [0.0, 0.25, 0.75] if mean else [0.0, 0.0, 0.0],
            "rest": [0.5, 0.5, 0.0],
        },
    }


def test_each_list_has_a_panel_with_both_histograms_means_and_chance(tmp_path):
    figure = histograms_picture([words("polysemous"), words("false_cognates", mean=1.75)], TOKENS)
    assert len(figure.axes) == 2
    for axis, name, mean in zip(figure.axes, ("polysemous", "false cognates"), (2.0, 1.75), strict=True):
        rest, ours = (patch.get_data() for patch in axis.patches)
        assert list(rest.values) == [0.5, 0.5, 0.0] and list(ours.values) == [0.0, 0.25, 0.75]
        assert list(ours.edges) == EDGES
        assert [line.get_xdata()[0] for line in axis.lines] == [1.5, mean, 1.7, 1.9]
        labels = [text.get_text() for text in axis.get_legend().get_texts()]
        assert labels[0] == "all other words: 5,678 occurrences of 70 words"
        assert labels[2] == f"{name}: 1,234 occurrences of 3 words"
        assert axis.get_title().startswith(f"{name} against the rest: {mean - 1.5:+.3f}, +3.0 standard errors")
        assert "as frequent and long words: -0.125, -0.5 standard errors" in axis.get_title()
        assert axis.get_xlabel() and axis.get_xlim()[0] < 0.75 and axis.get_xlim()[1] > 2.25
        assert axis.get_ylim()[1] > 0.75
    assert figure.axes[0].get_ylabel() == "share of occurrences"
    save_png(figure, tmp_path / "diversity.png")
    pixels = imread(tmp_path / "diversity.png")
    assert pixels.shape[0] > 400 and pixels.shape[1] > 1000
    drawn = (pixels[..., :3] < 0.9).any(-1)
    # each panel has something in it, and nothing is cut off at the borders
    half = pixels.shape[1] // 2
    assert drawn[:, :half].mean() > 0.02 and drawn[:, half:].mean() > 0.02
    assert not drawn[[0, -1]].any() and not drawn[:, [0, -1]].any()


def test_no_text_lies_over_another(tmp_path):
    figure = histograms_picture([words("polysemous"), words("false_cognates")], TOKENS)
    figure.canvas.draw()
    boxes = [axis.title.get_window_extent() for axis in figure.axes]
    boxes += [axis.get_legend().get_window_extent() for axis in figure.axes]
    boxes += [axis.xaxis.label.get_window_extent() for axis in figure.axes]
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])
        assert figure.bbox.containsx(box.x0) and figure.bbox.containsx(box.x1)
        assert figure.bbox.containsy(box.y0) and figure.bbox.containsy(box.y1)


def test_a_list_without_words_in_the_text_is_drawn_without_a_mean():
    figure = histograms_picture([words("rare", mean=None, ratio=None)], TOKENS)
    assert "too few words to tell" in figure.axes[0].get_title()
    assert len(figure.axes[0].lines) == 3


def test_tokens_are_shown_on_one_line():
    assert printable(b" caf\xc3\xa9") == "\u2581caf\u00e9"
    assert printable(b"\xc3") == "\\xc3"
    assert printable("a\n\x1b[31m\u202e".encode()) == "a\\n\\x1b[31m\\u202e"


def content():
    layer = {
        "block": 3,
        **{f"{name}{end}": 2.0 for name in ("mean", "expected_independent_heads") for end in ("", "_first_choice")},
    }
    tokens = {"tokens": 1000, **layer, "expected_uniform": 2.5, "expected_uniform_first_choice": 1.5}
    row = {"text": "x" * 40, "mean": 3.0, "count": 1200}
    return {
        "heads": 2,
        "top_k": 2,
        "experts": 8,
        "tokens": {**tokens, "dropped_share": 0.125, "layers": [layer]},
        "lists": [words("polysemous")],
        "min_count": 10,
        "by_token": {"enough": 7, "top": [row], "bottom": [{**row, "text": "low", "mean": 1.0}]},
        "by_word": {"enough": 1, "top": [], "bottom": []},
    }


def test_figures_as_text():
    text = printed(content())
    assert "1,000 tokens, each of 2 sub-tokens that go to 2 of 8 experts, in 1 MoE layers" in text
    assert "capacity dropped 12.5% of the choices" in text
    assert "polysemous against the rest: 3 of 4 words are in the text (1,234 times), 70 others (5,678 times)" in text
    [line] = [line for line in text.splitlines() if "all choices |" in line and "2.000" in line]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["all choices", "2.000", "1.500", "+0.500", "0.100", "+3.0", "more experts than the rest"]
    [line] = [line for line in text.splitlines() if "\u2026" in line]
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "x" * 23 + "\u2026",
        "3.000",
        "1,200",
        "low",
        "1.000",
        "1,200",
    ]
    assert "words: 1 occur 10 times or more, too few for a table; lower --min-count" in text


def test_nothing_is_said_of_capacity_where_nothing_was_dropped():
    without = content()
    without["tokens"]["dropped_share"] = 0.0
    assert "capacity" not in printed(without)
