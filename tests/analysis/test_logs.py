"""Logs by hand: both formats, several subsets, sessions that repeat updates, lines that were cut."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_mhmoe.analysis.logs import Entry, Session, merge, parse_line, read_lines, read_log, values_at

STAMP = "2026-01-01 12:00:00 | INFO | "
START = STAMP + "fairseq_cli.train | {'_name': None, 'common': {'_name': None}}\n"


def inner_line(update, stamp=STAMP + "train_inner | ", **figures):
    """A line of an interval as fairseq writes it in JSON: the numbers are strings."""
    figures = {name: f"{value:g}" for name, value in {**figures, "num_updates": update}.items()}
    return stamp + json.dumps({"epoch": 1, "update": 0.5, **figures}) + "\n"


def valid_line(update, subset="valid", stamp=None, **figures):
    """A line of a validation in JSON: the subset stands before each name."""
    figures = {f"{subset}_{name}": f"{value:g}" for name, value in {**figures, "num_updates": update}.items()}
    stamp = f"{STAMP}{subset} | " if stamp is None else stamp
    return stamp + json.dumps({"epoch": 1, **figures}) + "\n"


def entries_of(lines):
    return [entry for session in read_lines(lines).sessions for entry in session.entries]


def test_json_lines_with_and_without_a_stamp_are_the_same():
    for stamp in (None, "", "[2026-01-01 12:00:00,123][valid][INFO] - "):
        line = valid_line(20, stamp=stamp, loss=3, ppl=8.5, moe_l1_entropy=1.25)
        assert entries_of([line]) == [
            Entry("valid", 20, {"loss": 3, "ppl": 8.5, "moe_l1_entropy": 1.25, "num_updates": 20})
        ]
    for stamp in (STAMP + "train_inner | ", ""):
        assert entries_of([inner_line(7, stamp, loss=3, train_wall=1, wall=2)]) == [
            Entry("train_inner", 7, {"loss": 3, "train_wall": 1, "wall": 2, "num_updates": 7})
        ]


def test_text_lines():
    inner = "epoch 002:      4 / 101 loss=8.684, ppl=411.37, num_updates=104, train_wall=0, src_de_ppl=None, wall=3\n"
    valid = "epoch 002 | valid on 'wikipedia/valid' subset | loss 8.278 | ppl inf | num_updates 105 | best_loss 8.2\n"
    train = "epoch 002 | loss 8.725 | ppl 423.28 | num_updates 105 | train_wall 0 | wall 4\n"
    for stamp in (STAMP + "any | ", ""):
        found = entries_of([stamp + inner, stamp + valid, stamp + train])
        assert [(entry.tag, entry.update) for entry in found] == [
            ("train_inner", 104),
            ("wikipedia/valid", 105),
            ("train", 105),
        ]
        assert found[0].figures == {"loss": 8.684, "ppl": 411.37, "num_updates": 104, "train_wall": 0, "wall": 3}
        assert found[1].figures["ppl"] == float("inf") and found[1].figures["best_loss"] == 8.2
        assert found[2].figures["wall"] == 4 and found[2].figures["train_wall"] == 0


def test_a_figure_whose_name_begins_like_its_line():
    # of an epoch's end, "train_wall" is wall and "train_train_wall" is train_wall
    entry = parse_line(
        '{"epoch": 1, "train_loss": "2", "train_train_wall": "5", "train_wall": "9", "train_num_updates": "3"}'
    )
    assert entry == Entry("train", 3, {"loss": 2, "train_wall": 5, "wall": 9, "num_updates": 3})


def test_a_source_without_tokens_has_no_figure():
    line = '{"epoch": 1, "valid_loss": "2", "valid_src_de_loss": null, "valid_num_updates": "3"}'
    assert parse_line(line).figures == {"loss": 2, "num_updates": 3}


@pytest.mark.parametrize(
    "line, reason",
    [
        (inner_line(7, loss=3)[:-10], "cut or changed: no whole JSON object"),
        ("epoch 001:      4 / 101 loss=8.684, num_upd\n", "cut or changed: .* no number"),
        ("epoch 001:      4 / 101 loss=8.684, num_updates=4", "the file ends within the line"),
        ("epoch 001:      4 / 101 loss=8.684\n", "num_updates is missing"),
        ("epoch 001 | valid on 'valid' subset | loss 8.6x | num_updates 4\n", "loss is '8.6x', no number"),
        ('{"epoch": 1, "valid_loss": [1], "valid_num_updates": "4"}\n', "loss is '\\[1\\]', no number"),
        ('{"epoch": 1, "valid_ppl": "1", "valid_num_updates": "4"}\n', "no loss in it"),
        ('{"epoch": 1, "valid_loss": "1", "valid_num_updates": "nan"}\n', "num_updates is missing"),
    ],
)
def test_broken_lines_are_listed_and_left_out(line, reason):
    log = read_lines([inner_line(5, loss=4), line], "a.log")
    assert [entry.update for session in log.sessions for entry in session.entries] == [5]
    [broken] = log.broken
    assert (broken.file, broken.line) == ("a.log", 2)
    assert re.search(reason, broken.reason)


def test_a_line_that_was_cut_by_a_kill_does_not_hide_the_next_one():
    whole = inner_line(14, loss=3)
    for cut in (inner_line(7, loss=3)[:-12], "epoch 001:      7 / 101 loss=8.68, num_upda"):
        log = read_lines([cut + whole])
        assert [entry.update for entry in log.sessions[-1].entries] == [14]
        assert [broken.line for broken in log.broken] == [1]
    log = read_lines([inner_line(7, loss=3), inner_line(14, loss=3)[:-12] + START, inner_line(14, loss=2)])
    assert [[entry.update for entry in session.entries] for session in log.sessions] == [[7], [14]]
    assert len(log.broken) == 1


def test_other_lines_are_no_figures():
    lines = ["end of epoch 1 (average epoch stats below)\n", STAMP + "fairseq.trainer | begin training epoch 1\n"]
    log = read_lines([START, *lines])
    assert not log.broken and not any(session.entries for session in log.sessions)


def test_a_file_without_figures_is_refused(tmp_path):
    (tmp_path / "a.log").write_text("epoch 001:  10%|##  | 5/50\nepoch 001 | loss 3 | ppl")
    with pytest.raises(ValueError, match=r"a\.log: no figures of a training in it \(1 broken lines\); expected"):
        read_log(tmp_path / "a.log")


def test_sessions_begin_with_the_configuration_a_checkpoint_or_a_fall_of_updates():
    loaded = STAMP + "fairseq.trainer | Loaded checkpoint runs/a/checkpoint_last.pt (epoch 1 @ 20 updates)\n"
    nothing = STAMP + "fairseq.trainer | No existing checkpoint found runs/a/checkpoint_last.pt\n"
    lines = [START, nothing, inner_line(10), inner_line(20), inner_line(30), START, loaded, inner_line(30)]
    lines += [loaded, inner_line(40), inner_line(50), inner_line(50), inner_line(30)]
    sessions = [session for session in read_lines(lines).sessions if session.entries]
    assert [session.resumed_at for session in sessions] == [0, 20, 20, None]
    updates = [[entry.update for entry in session.entries] for session in sessions]
    assert updates == [[10, 20, 30], [30], [40, 50, 50], [30]]


def test_a_resumed_log_by_hand():
    first = [inner_line(u, ppl=100 - u, wall=u / 2) for u in (10, 20, 30, 40)]
    first.insert(2, valid_line(20, loss=1, ppl=70))
    first.append(valid_line(40, loss=1, ppl=50))
    loaded = "Loaded checkpoint runs/checkpoint_last.pt (epoch 1 @ 24 updates)\n"
    second = [inner_line(30, ppl=7, wall=3)]
    merged = merge(read_lines([START, *first, START, loaded, *second]).sessions)
    # what the first session did after update 24 is gone, validation at 40 with it
    assert {u: figures["ppl"] for u, figures in merged.figures["train_inner"].items()} == {10: 90, 20: 80, 30: 7}
    assert list(merged.figures["valid"]) == [20]
    # 24 updates of the first session took 12 seconds, the second had 3 until update 30
    assert merged.seconds == {10: 5, 20: 10, 24: 12, 30: 15}
    assert (merged.sessions, merged.updates_lost, merged.seconds_lost) == (2, 16, 8)
    # without the name of the checkpoint the last update before 30 stands for it
    merged = merge(read_lines([START, *first, START, *second]).sessions)
    assert merged.seconds == {10: 5, 20: 10, 30: 13} and merged.updates_lost == 20


@st.composite
def trainings(draw):
    """Sessions (first one from update 0): where each resumes, how many updates it makes, seconds per update."""
    sessions, done = [], 0
    for number in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, done)) if number else 0
        count = draw(st.integers(1, 6))
        sessions.append((start, count, draw(st.sampled_from([0.25, 1, 3]))))
        done = start + count
    return sessions


@given(trainings(), st.booleans(), st.integers(1, 3))
def test_merged_sessions_are_the_history_that_was_kept(sessions, names_checkpoints, copies):
    # brute force: every update belongs to the last session that made it, and none lies beyond the last session's end
    owner, lost, done = {}, 0, 0
    for number, (start, count, pace) in enumerate(sessions):
        lost += max(done - start, 0)
        owner = {update: kept for update, kept in owner.items() if update <= start}
        owner |= {start + step: (number, pace) for step in range(1, count + 1)}
        done = start + count
    logged = []
    for number, (start, count, pace) in enumerate(sessions):
        entries = [
            Entry(tag, start + step, {"ppl": number, "wall": step * pace})
            for step in range(1, count + 1)
            for tag in ("train_inner", "valid")
            for _ in range(copies)  # from its second epoch on, fairseq writes a line into --log-file several times
        ]
        logged.append(Session(start if names_checkpoints else None, entries))
    merged = merge(logged)
    for tag in ("train_inner", "valid"):
        assert {update: figures["ppl"] for update, figures in merged.figures[tag].items()} == {
            update: number for update, (number, _) in owner.items()
        }
    assert merged.updates_lost == lost and merged.begins_at == 0
    total = 0
    for update in range(1, done + 1):
        total += owner[update][1]
        assert merged.seconds[update] == pytest.approx(total)


def test_a_log_from_the_middle_says_so():
    assert merge(read_lines([inner_line(u) for u in (110, 120, 130)]).sessions).begins_at == 100
    assert merge(read_lines([inner_line(u) for u in (10, 20, 30)]).sessions).begins_at == 0


def test_values_between_and_beyond_points():
    points = {10: 5.0, 20: 25.0}
    assert values_at(points, [0, 4, 10, 15, 20, 30]).tolist() == [0, 2, 5, 15, 25, 45]
    assert values_at({0: 3.0}, [7, 0]).tolist() == [3, 3] and values_at(points, []).tolist() == []
