"""The table of scores: splits, sources, and files that hold none."""

import json

import pytest

from fairseq_mhmoe.cli.score_table import main

FIGURES = {"documents": 8, "tokens": 1234, "perplexity": 281.04, "perplexity_95": [240.1, 300.24], "bits_per_byte": 2.4}


def test_every_split_and_source_has_a_row(tmp_path, capsys):
    valid = FIGURES | {"sources": {"de": FIGURES, "fr": FIGURES | {"bits_per_byte": None}}}
    (tmp_path / "scores.json").write_text(json.dumps({"valid": valid, "test": FIGURES}))
    main([str(tmp_path / "scores.json")])
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]
    assert [row[:2] for row in rows[2:]] == [["valid", "all"], ["valid", "de"], ["valid", "fr"], ["test", "all"]]
    assert rows[2][2:] == ["8", "1,234", "281.0", "240.1-300.2", "2.400"]
    assert rows[4][-1] == "-"


@pytest.mark.parametrize("content", ["", "[1]", '{"valid": {}}', '{"valid": 3}'])
def test_a_file_without_scores_is_one_line(tmp_path, content):
    (tmp_path / "scores.json").write_text(content)
    with pytest.raises(SystemExit, match="holds no scores .*evaluate again"):
        main([str(tmp_path / "scores.json")])
