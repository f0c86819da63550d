"""Our classes reproduce the recorded runs, and the checker notices when something differs."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from check import check_file, main  # noqa: E402
from checks import CannotCheck  # noqa: E402

SMALL = sorted((HERE / "data").glob("*.npz"))
ALL = sorted((HERE.parents[2] / "shared" / "golden").glob("*.npz"))


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_recorded_runs_are_reproduced(path):
    checker = check_file(path)
    assert checker.passed, checker.summary()


@pytest.mark.skipif(not ALL, reason="the full set of recorded runs is not beside this checkout")
def test_the_full_set_is_reproduced():
    for path in ALL:
        checker = check_file(path)
        assert checker.passed, checker.summary()


def tampered(tmp_path: Path, name: str, change) -> Path:
    """A copy of a recorded run with one array changed."""
    with np.load(HERE / "data" / "mhmoe_d48h3E6k1_xmoe_train.npz") as data:
        arrays = {n: data[n].copy() for n in data.files}
    arrays[name] = change(arrays[name])
    path = tmp_path / "tampered.npz"
    np.savez(path, **arrays)
    return path


def raise_first(array):
    array.reshape(-1)[0] += 1e-3 * abs(array).max() + 1e-3
    return array


@pytest.mark.parametrize(
    "name",
    [
        "out/y",
        "out/l_aux",
        "aux/logits",
        "grad/in/x",
        "grad/param/moe_layer.experts.2.fc1.weight",
        "grad/param/moe_layer.gate.wg",
        "after/moe_layer.gate.wg",
    ],
)
def test_a_changed_number_is_noticed(tmp_path, name):
    checker = check_file(tampered(tmp_path, name, raise_first))
    assert not checker.passed and name in checker.summary()


@pytest.mark.parametrize("name", ["aux/expert_index", "aux/location"])
def test_one_other_route_is_noticed(tmp_path, name):
    def change(array):
        array.reshape(-1)[3] += 1
        return array

    checker = check_file(tampered(tmp_path, name, change))
    assert not checker.passed and "1 of" in checker.summary()


def test_what_can_not_be_checked_is_a_failure(tmp_path, capsys):
    def ask_for_more(meta):
        return np.array(str(meta).replace('"weight_bits": 32', '"weight_bits": 2'))

    assert main([str(tampered(tmp_path, "meta", ask_for_more))]) == 1
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"not an archive")
    assert main([str(broken)]) == 1
    assert main([str(tmp_path / "missing.npz")]) == 1
    out = capsys.readouterr().out
    assert out.count("can't check") == 3 and "weight_bits=2" in out


def test_results_that_nothing_is_compared_with_are_a_failure(tmp_path):
    with np.load(HERE / "data" / "mhmoe_d48h3E6k1_xmoe_train.npz") as data:
        np.savez(tmp_path / "more.npz", **data, **{"aux/hidden": np.ones(3, np.float32)})
    checker = check_file(tmp_path / "more.npz")
    assert not checker.passed and "aux/hidden" in checker.summary()


def narrower(array):
    return array[..., :-1]


def fewer_experts(meta):
    return np.array(str(meta).replace('"num_experts": 6', '"num_experts": 5'))


@pytest.mark.parametrize(
    "name, change",
    [
        ("param/moe_layer.experts.0.fc1.weight", narrower),
        ("in/x", narrower),
        ("meta", fewer_experts),
        ("meta", lambda meta: np.array("[1, 2]")),
    ],
)
def test_a_file_that_contradicts_itself_fails_and_the_next_one_is_still_checked(tmp_path, capsys, name, change):
    assert main([str(tampered(tmp_path, name, change)), str(SMALL[0])]) == 1
    out = capsys.readouterr().out
    assert "can't check" in out and "ok  " in out and "1 of 2 files agree" in out


@pytest.mark.parametrize("size", [0, 2000, -2000])
def test_a_truncated_file_is_a_failure(tmp_path, capsys, size):
    path = tmp_path / "truncated.npz"
    path.write_bytes(SMALL[0].read_bytes()[:size])
    assert main([str(path)]) == 1
    assert "not a golden file" in capsys.readouterr().out


@pytest.mark.parametrize("row, taken", [(0, False), (1, True)])
def test_another_draw_of_the_second_expert_policy_is_noticed(tmp_path, row, taken):
    name = "aux/sampled"
    with np.load(HERE / "data" / "xmoe_top2_random_normT_subln.npz") as data:
        arrays = {n: data[n].copy() for n in data.files}
    changed = int(np.flatnonzero(arrays[name][row] != taken)[0])
    arrays[name][row, changed] = taken
    np.savez(tmp_path / "other.npz", **arrays)
    assert name in check_file(tmp_path / "other.npz").summary()


def test_an_unknown_kind_is_a_failure(tmp_path):
    buffer = io.BytesIO()
    np.savez(buffer, meta=np.array('{"kind": "retnet"}'))
    path = tmp_path / "unknown.npz"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(CannotCheck, match="retnet"):
        check_file(path)


def test_the_command_line_reports_each_file():
    run = subprocess.run(
        [sys.executable, HERE / "check.py", *map(str, SMALL[:2])], capture_output=True, text=True, timeout=240
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("ok  ") == 2 and "2 of 2 files agree" in run.stdout
