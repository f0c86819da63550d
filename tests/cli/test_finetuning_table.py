"""One table of the scores of several fine-tuned models."""

import json

import pytest

from fairseq_mhmoe.cli.finetuning_table import main

SCORES = {
    "task": "vqa",
    "split": "valid",
    "checkpoint": "runs/a.pt",
    "examples": 12345,
    "metrics": {"vqa_accuracy": 70.125, "by_answer_type": {"yes/no": 80.0, "other": 60}},
}


def test_a_row_for_each_metric_of_each_file(tmp_path, capsys):
    paths = [tmp_path / name for name in ("a.json", "b.json")]
    for path, task in zip(paths, ("vqa", "nlvr2"), strict=True):
        path.write_text(json.dumps(SCORES | {"task": task}))
    main(list(map(str, paths)))
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["task", "split", "examples", "metric", "value", "checkpoint"]
    assert lines[2] == ["vqa", "valid", "12,345", "vqa_accuracy", "70.12", "runs/a.pt"]
    assert [line[3:5] for line in lines[3:5]] == [["by_answer_type: yes/no", "80.00"], ["by_answer_type: other", "60"]]
    assert lines[5][0] == "nlvr2" and len(lines) == 8


@pytest.mark.parametrize("content", ["{", "[]", '{"task": "vqa"}', json.dumps(SCORES | {"metrics": 3})])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(SystemExit, match="error: .*a.json holds no scores of a fine-tuned model"):
        main([str(path)])
