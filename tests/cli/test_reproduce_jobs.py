"""Several runs at a time: what is done is left, a failure ends the others, the progress is that of all."""

import subprocess
import sys
import threading
from concurrent.futures import wait as real_wait
from pathlib import Path
from types import SimpleNamespace

import pytest

from fairseq_mhmoe.cli import demo_programs
from fairseq_mhmoe.cli.demo_programs import StepFailed
from fairseq_mhmoe.cli.files import write_json
from fairseq_mhmoe.cli.reproduce_jobs import Processes, Progress, carry_out_all
from fairseq_mhmoe.cli.reproduce_models import Model
from fairseq_mhmoe.cli.reproduce_runs import (
    Origin,
    Place,
    Run,
    begun_otherwise,
    interval,
    training_command,
    training_words,
    validation_curve,
)
from fairseq_mhmoe.cli.reproduce_settings import find_scale

ORIGIN = Origin("data", "code", "commit")
SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def run(folder, seed=1, family="dense", flops=10, jobs=1, device="cpu", **changes):
    size = {"tokens": 100 * 1024, "tokens_per_sample": 128, "samples_per_update": 8, "samples_per_batch": 8}
    scale = find_scale("english", False, "table1", {**size, "learning_rates": {}, **changes})
    spec = SimpleNamespace(name=family, family=family, title=family)
    model = Model(spec, ["--arch", family], None, SimpleNamespace(flops_per_token=flops), {})
    return Run(model, seed, scale, Place(Path("data"), Path(folder), device, jobs, 1))


def finish(run_, origin=ORIGIN):
    write_json(run_.folder / "evaluation.json", {"fingerprint": origin.key(run_)})


def test_what_is_done_is_not_done_again(tmp_path):
    runs = [run(tmp_path, seed) for seed in (1, 2, 3)]
    finish(runs[1])
    seen = []
    carry_out_all(runs, ORIGIN, 1, lambda run_, *rest: seen.append(run_.seed))
    assert seen == [1, 3]


def test_so_many_work_at_a_time(tmp_path):
    meeting = threading.Barrier(2, timeout=30)  # which one alone would not leave
    carry_out_all([run(tmp_path, seed) for seed in (1, 2)], ORIGIN, 2, lambda *_: meeting.wait())


def test_a_failure_ends_the_programs_of_the_others_and_begins_no_more(tmp_path):
    started, begun = threading.Event(), []

    def work(run_, origin, on_line, on_start):
        begun.append(run_.seed)
        if run_.seed == 1:

            def announce(process):
                on_start(process)
                started.set()

            demo_programs.run(SLEEP, tmp_path / "log", 1, on_start=announce)
        assert started.wait(30)
        raise StepFailed("no such luck")

    with pytest.raises(StepFailed, match="no such luck"):
        carry_out_all([run(tmp_path, seed) for seed in (1, 2, 3)], ORIGIN, 2, work)
    assert sorted(begun) == [1, 2]


def test_a_thread_whose_run_failed_takes_no_other_before_the_caller_knows(tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr("fairseq_mhmoe.cli.reproduce_jobs.wait", lambda futures, **_: real_wait(futures))

    def work(run_, *rest):
        begun.append(run_.seed)
        raise StepFailed("no such luck")

    with pytest.raises(StepFailed, match="no such luck"):
        carry_out_all([run(tmp_path, seed) for seed in (1, 2, 3)], ORIGIN, 1, work)
    assert begun == [1]


def test_an_interruption_ends_the_programs_too(tmp_path, monkeypatch):
    started = threading.Event()

    def interrupted(*arguments, **options):
        assert started.wait(30)
        raise KeyboardInterrupt

    def work(run_, origin, on_line, on_start):
        def announce(process):
            on_start(process)
            started.set()

        demo_programs.run(SLEEP, tmp_path / "log", 1, on_start=announce)

    monkeypatch.setattr("fairseq_mhmoe.cli.reproduce_jobs.wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        carry_out_all([run(tmp_path)], ORIGIN, 1, work)


def test_a_program_that_starts_too_late_is_ended():
    processes = Processes()
    processes.stop()
    process = subprocess.Popen(SLEEP)
    processes.add(process)
    assert process.wait(30) < 0


def inner(update, ppl="9.5"):
    return f'x | train_inner | {{"num_updates": "{update}", "ppl": "{ppl}", "wps": "100"}}\n'


def test_progress_counts_work_not_runs(tmp_path, capsys):
    now = [0.0]
    cheap, dear = run(tmp_path, family="dense", flops=10), run(tmp_path, family="mhmoe", flops=30)
    progress = Progress([cheap, dear], clock=lambda: now[0])
    now[0] = 60.0
    progress.line(cheap, inner(10))  # 1 of 40 parts: too early to tell
    assert capsys.readouterr().out.split("   ")[-1] == "2 % of all, about 39:00 left\n"
    progress.skip(dear)
    progress.line(cheap, inner(50))
    assert "update    50 of 100" in capsys.readouterr().out
    assert progress.all_runs() == "88 % of all, about 1:00 left"


def test_nothing_is_foretold_while_programs_start(tmp_path):
    progress = Progress([run(tmp_path), run(tmp_path, 2)], clock=lambda: 0.0)
    progress.line(run(tmp_path), inner(1))
    assert progress.all_runs() == "0 % of all"


def test_a_resumed_run_does_not_flatter_the_pace(tmp_path):
    now = [0.0]
    one = run(tmp_path)
    progress = Progress([one], clock=lambda: now[0])
    now[0] = 10.0
    progress.line(one, inner(50))
    now[0] = 20.0
    progress.line(one, inner(60))
    assert progress.all_runs() == "60 % of all, about 1:20 left"  # 10 in 20 seconds, 40 to go


def test_validations_are_always_shown_and_steps_now_and_then(tmp_path, capsys):
    progress = Progress([run(tmp_path)])
    for update in range(1, 101):
        progress.line(run(tmp_path), inner(update))
    progress.line(run(tmp_path), 'x | valid | {"valid_ppl": "8.25", "valid_num_updates": "100"}\n')
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11 and "valid ppl     8.25" in lines[-1]


def test_jobs_are_not_part_of_what_a_run_is(tmp_path):
    assert ORIGIN.key(run(tmp_path, jobs=1)) == ORIGIN.key(run(tmp_path, jobs=2))
    assert training_words(run(tmp_path, jobs=1)) == training_words(run(tmp_path, jobs=2))


def test_settings_data_and_device_are(tmp_path):
    others = [run(tmp_path, seed=2), run(tmp_path, device="cuda"), run(tmp_path, learning_rate=1e-3)]
    keys = {ORIGIN.key(other) for other in [run(tmp_path), *others]}
    assert len(keys | {Origin("x", "code", "commit").key(run(tmp_path))}) == 5


def test_what_differs_is_told(tmp_path):
    one = run(tmp_path)
    assert begun_otherwise(one, ORIGIN) == []
    write_json(one.folder / "started.json", ORIGIN.about(one))
    assert begun_otherwise(one, Origin("data", "code", "another commit")) == []
    assert begun_otherwise(one, Origin("data", "new", "commit")) == ["code"]
    assert begun_otherwise(run(tmp_path, weight_decay=0.5), Origin("new", "code", "commit")) == ["settings", "data"]


def test_a_family_has_its_learning_rate_and_its_end(tmp_path):
    words = training_words(run(tmp_path, learning_rates={"dense": 4e-3}, end_share=0.25))
    assert (words[words.index("--lr") + 1], words[words.index("--end-learning-rate") + 1]) == ("0.004", "0.001")


def test_batches_add_up_to_an_update(tmp_path):
    words = training_words(run(tmp_path, samples_per_update=8, samples_per_batch=2))
    assert [words[words.index(option) + 1] for option in ("--batch-size", "--update-freq")] == ["2", "4"]


def test_validations_are_spread_over_the_run(tmp_path):
    assert interval(run(tmp_path, validations=8).scale) == 13
    command = training_command(run(tmp_path, validations=8))
    assert [command[command.index(f"--{name}-interval-updates") + 1] for name in ("save", "validate")] == ["13", "13"]


def test_a_log_of_several_sessions_counts_the_last_word(tmp_path):
    def line(update, loss):
        return (
            f'x | valid | {{"valid_nll_loss": "{loss}", "valid_num_updates": "{update}", "valid_moe_entropy": "1"}}\n'
        )

    log = tmp_path / "train.log"
    log.write_text(line(10, 3) + line(20, 2) + 'x | valid | {"valid_nll_loss": "1.7\n' + line(20, 1))
    curve = validation_curve(log)
    assert [(point["update"], round(point["nll"], 3)) for point in curve] == [(10, 2.079), (20, 0.693)]
    assert curve[0]["gate_entropy"] == 1.0 and "load_max" not in curve[0]
