"""What pictures share: PNG files that are whole, colours that repeat, one scale for what is compared."""

import numpy as np
import pytest

from fairseq_mhmoe.analysis.pictures import COLOURS, DPI, colour, common_limits, new_figure, plain, save_png


def png_size(path):
    """Width and height in pixels that the file's header says."""
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n" and content[12:16] == b"IHDR"
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


def test_a_figure_becomes_a_png_of_its_size(tmp_path):
    figure = new_figure(3, 2)
    figure.subplots().plot([1, 2], [3, 4])
    save_png(figure, tmp_path / "new" / "picture.png")
    assert png_size(tmp_path / "new" / "picture.png") == (3 * DPI, 2 * DPI)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["picture.png"]


def test_pictures_are_png_files(tmp_path):
    with pytest.raises(ValueError, match="picture.pdf: pictures are PNG files"):
        save_png(new_figure(1, 1), tmp_path / "picture.pdf")
    assert list(tmp_path.iterdir()) == []


def test_colours_differ_and_repeat():
    assert len(set(COLOURS)) == len(COLOURS)
    assert [colour(number) for number in range(len(COLOURS) + 2)] == [*COLOURS, *COLOURS[:2]]


def test_one_scale_for_all_grids():
    assert common_limits([np.array([[1.0, 3.0]]), np.array([[2.0], [0.5]])]) == (0.0, 3.0)
    assert common_limits([np.zeros((2, 2))]) == common_limits([]) == common_limits([np.zeros((0, 3))]) == (0.0, 1.0)


@pytest.mark.parametrize("name", ["$5 and $6", r"a $\frac$ b", "$", "none"])
def test_dollar_signs_of_a_name_are_no_mathematics(name):
    figure = new_figure(3, 1)
    found, expected = figure.text(0, 0, plain(name)), figure.text(0, 0, name, parse_math=False)
    figure.canvas.draw()
    assert found.get_window_extent().bounds == expected.get_window_extent().bounds
