"""The official tasks on local records: what the model is asked, and what is said of data that are not there."""

import json
import time
from pathlib import Path

import pytest
import yaml

from fairseq_mhmoe.evaluation import harness_tasks
from fairseq_mhmoe.evaluation.harness_run import Questions, choose_examples
from fairseq_mhmoe.evaluation.harness_tasks import FOLDERS, GROUPS, OFFICIAL, hub_is_away, load_tasks

CHOICES = {"text": ["a rock", "the sun"], "label": ["A", "B"]}
# Task -> split, a record as the hub has it, contexts and continuations that the harness makes of it, and the answer.
RECORDS = {
    "openbookqa": (
        "test",
        {"id": "1", "question_stem": "What shines?", "choices": CHOICES, "answerKey": "B"},
        [("What shines?", " a rock"), ("What shines?", " the sun")],
        1,
    ),
    "arc_easy": (
        "test",
        {"id": "1", "question": "What shines?", "choices": CHOICES, "answerKey": "B"},
        [("Question: What shines?\nAnswer:", " a rock"), ("Question: What shines?\nAnswer:", " the sun")],
        1,
    ),
    "piqa": (
        "validation",
        {"goal": "dry hands", "sol1": "use a towel", "sol2": "use a rock", "label": 0},
        [("Question: dry hands\nAnswer:", " use a towel"), ("Question: dry hands\nAnswer:", " use a rock")],
        0,
    ),
    "boolq": (
        "validation",
        {"question": "is it far", "passage": "Sun -- It is far.", "idx": 0, "label": 1},
        [
            ("Sun -- It is far.\nQuestion: is it far?\nAnswer:", " no"),
            ("Sun -- It is far.\nQuestion: is it far?\nAnswer:", " yes"),
        ],
        1,
    ),
    "rte": (
        "validation",
        {"sentence1": "It rains.", "sentence2": "It is wet.", "label": 0, "idx": 0},
        [
            ("It rains.\nQuestion: It is wet. True or False?\nAnswer:", " True"),
            ("It rains.\nQuestion: It is wet. True or False?\nAnswer:", " False"),
        ],
        0,
    ),
    "winogrande": (
        "validation",
        {
            "sentence": "The cup hit the mat, and _ broke.",
            "option1": "the cup",
            "option2": "the mat",
            "answer": "1",
        },
        [
            ("The cup hit the mat, and the cup", " broke."),
            ("The cup hit the mat, and the mat", " broke."),
        ],
        0,
    ),
    "hellaswag": (
        "validation",
        {
            "ind": 0,
            "activity_label": "Washing",
            "ctx_a": "A man takes soap.",
            "ctx_b": "he",
            "ctx": "A man takes soap. he",
            "endings": ["washes.", "flies.", "eats.", "sings."],
            "label": "0",
        },
        [("Washing: A man takes soap. He", f" {verb}.") for verb in ("washes", "flies", "eats", "sings")],
        0,
    ),
    "xnli_de": (
        "validation",
        {"premise": "Es regnet", "hypothesis": "Es ist nass.", "label": 0},
        [("", f" Es regnet, richtig? {word}, Es ist nass.") for word in ("Ja", "Auch", "Nein")],
        0,
    ),
}


def write(folder, task, split, *records):
    path = folder / task / f"{split}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def scratch(tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def test_official_prompts_on_local_records(tmp_path, scratch):
    for task, (split, record, _, _) in RECORDS.items():
        write(tmp_path / "data", task, split, record)
    tasks = load_tasks(list(RECORDS), tmp_path / "data", scratch)
    for name, (split, _, expected, answer) in RECORDS.items():
        task = tasks.loaded["tasks"][name]
        task.build_all_requests()
        assert [instance.args for instance in task.instances] == [(c, t) for c, t in expected], name
        [(_, record)] = task.doc_iterator()
        assert tasks.local[name].evaluated == split
        metrics = task.process_results(record, [(float(i == answer), False) for i in range(len(expected))])
        assert metrics["acc"] == 1.0, name


def test_truthfulqa_has_one_right_choice_or_several(tmp_path, scratch):
    targets = {
        "mc1_targets": {"choices": ["yes", "no"], "labels": [1, 0]},
        "mc2_targets": {"choices": ["yes", "sure", "no"], "labels": [1, 1, 0]},
    }
    for task in ("truthfulqa_mc1", "truthfulqa_mc2"):
        write(tmp_path, task, "validation", {"question": "Is it?", **targets})
    tasks = load_tasks(["truthfulqa_mc1", "truthfulqa_mc2"], tmp_path, scratch).loaded["tasks"]
    tasks["truthfulqa_mc2"].build_all_requests()
    requests = tasks["truthfulqa_mc2"].instances
    assert [request.args[1] for request in requests] == [" yes", " sure", " no"]
    assert requests[0].args[0].startswith("Q: What is human life") and requests[0].args[0].endswith("Q: Is it?\nA:")


def test_our_groups_are_the_papers_tasks():
    groups = {path.stem: yaml.safe_load(path.read_text()) for path in GROUPS.glob("*.yaml")}
    assert all(content["group"] == name for name, content in groups.items())
    assert all(set(content["task"]) <= set(FOLDERS) for content in groups.values())
    assert len(groups["mhmoe_xnli"]["task"]) == 15
    assert set(groups["mhmoe_xnli"]["task"]) - set(groups["mhmoe_xnli_paper"]["task"]) == {"xnli_ar"}
    assert len(groups["mhmoe_zero_shot"]["task"]) == 10  # TruthfulQA counts twice
    for task, folder in FOLDERS.items():
        assert any(f"{key}: {task}\n" in path.read_text() for key in ("task", "group")
                   for path in (OFFICIAL / folder).glob("*.yaml")), task  # fmt: skip


def test_a_group_of_local_tasks(tmp_path, scratch):
    for task in ("openbookqa", "piqa", "boolq"):
        write(tmp_path, task, *RECORDS[task][:2])
    choices = {"text": list("vwxyz"), "label": list("ABCDE")}
    write(tmp_path, "commonsense_qa", "validation", {"question": "Which?", "choices": choices, "answerKey": "C"})
    tasks = load_tasks(["mhmoe_demonstration"], tmp_path, scratch)
    assert set(tasks.loaded["groups"]) == {"mhmoe_demonstration"}
    assert set(tasks.loaded["tasks"]) == set(tasks.local) == {"openbookqa", "piqa", "boolq", "commonsense_qa"}


def test_without_network_and_data_the_remedy_is_told_at_once(tmp_path, scratch, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"no data for arc_easy: .*HF_HUB_OFFLINE is set.*--local-data.*arc_easy/"):
        load_tasks(["arc_easy"], None, scratch)
    assert time.monotonic() - start < 60


def test_a_hub_that_does_not_answer_is_away(monkeypatch):
    for name in harness_tasks.OFFLINE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "127.0.0.1:9 does not answer" in hub_is_away(timeout=2)


@pytest.mark.parametrize(
    "split, content, message",
    [
        ("dev", "{}\n", r"dev.jsonl is no split of piqa; expected some of train.jsonl, validation.jsonl"),
        ("train", "{}\n", "has no records to evaluate"),
        ("validation", '{"goal": 1}\n[]\n', "line 2: no JSON object"),
        ("validation", "", "is empty"),
        ("validation", '{"goal": "a", "sol1": "b", "label": 0}\n', "piqa.*fields of the hub"),
    ],
)
def test_wrong_local_files_are_named(tmp_path, scratch, split, content, message):
    path = tmp_path / "piqa" / f"{split}.jsonl"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        load_tasks(["piqa"], tmp_path, scratch)


def test_unknown_tasks_and_folders_are_named(tmp_path, scratch, monkeypatch):
    monkeypatch.setattr(harness_tasks, "quietly_indexed", lambda folders, everything: indexed(folders))
    indexed = lambda folders: harness_tasks.TaskManager(include_path=[str(GROUPS)], include_defaults=False)  # noqa: E731
    with pytest.raises(ValueError, match="no 'piqo'; expected .*mhmoe_zero_shot"):
        load_tasks(["piqo"], None, scratch)
    with pytest.raises(ValueError, match="--local-data .*nothing: no such folder"):
        load_tasks(["piqa"], tmp_path / "nothing", scratch)


def test_examples_need_records_of_their_own(tmp_path, scratch):
    write(tmp_path, "piqa", *RECORDS["piqa"][:2])
    questions = Questions(["piqa"], tmp_path, shots=2)
    tasks = load_tasks(["piqa"], tmp_path, scratch)
    with pytest.raises(ValueError, match="piqa with 2 examples: --local-data has no piqa/train.jsonl"):
        choose_examples(tasks, questions)
    example = {"goal": "cut paper", "sol1": "use scissors", "sol2": "use soup", "label": 0}
    write(tmp_path, "piqa", "train", example, example, example)
    tasks = load_tasks(["piqa"], tmp_path, scratch)
    choose_examples(tasks, questions)
    task = tasks.loaded["tasks"]["piqa"]
    task.build_all_requests()
    shown = "Question: cut paper\nAnswer: use scissors\n\n" * 2 + "Question: dry hands\nAnswer:"
    assert [instance.args for instance in task.instances] == [(shown, " use a towel"), (shown, " use a rock")]


def test_the_yaml_of_a_local_task_changes_where_the_data_come_from_only(tmp_path, scratch):
    write(tmp_path, "piqa", *RECORDS["piqa"][:2])
    load_tasks(["piqa"], tmp_path, scratch)
    content = yaml.safe_load((scratch / "piqa.yaml").read_text())
    assert Path(content["include"]) == OFFICIAL / "piqa/piqa.yaml"
    assert content["dataset_path"] == "json"
    assert set(content) == {
        "include", "task", "dataset_path", "dataset_name", "dataset_kwargs", "training_split", "validation_split"
    }  # fmt: skip
