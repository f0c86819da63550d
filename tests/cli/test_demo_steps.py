"""Steps of the demonstration: progress lines, what fairseq-eval-lm printed, whose folder it is."""

import pytest

from fairseq_mhmoe.cli.demo_programs import StepFailed
from fairseq_mhmoe.cli.demo_steps import TrainingProgress, check_agreement, claim_folder, parse_eval_lm


def test_progress_shows_what_is_left(capsys):
    progress = TrainingProgress(updates=100)
    progress("a line of something else\n")
    progress('x | train_inner | {"num_updates": "40", "wps": "1024", "nll_loss": "7.25", "ppl": "152.2"}\n')
    assert capsys.readouterr().out.split() == (
        "update 40 of 100 loss 7.250 bits ppl 152.20 1024 tokens/s 1:00 left".split()
    )


def test_eval_lm_is_read():
    output = "INFO | x\n2026 | INFO | fairseq_cli.eval_lm | Loss (base 2): 7.1234, Perplexity: 139.43\n"
    assert parse_eval_lm(output) == (7.1234, 139.43)
    with pytest.raises(StepFailed, match="no perplexity"):
        parse_eval_lm("INFO | done\n")


@pytest.mark.parametrize("own, agrees", [(7.1236, True), (7.13, False), (float("nan"), False)])
def test_two_evaluations_must_agree(own, agrees):
    if agrees:
        check_agreement("valid", 7.1234, own)
    else:
        with pytest.raises(StepFailed, match=r"valid: fairseq-eval-lm says 7.1234"):
            check_agreement("valid", 7.1234, own)


def test_training_of_the_same_key_is_kept(tmp_path):
    claim_folder(tmp_path / "dense", "a")
    (tmp_path / "dense" / "checkpoint_last.pt").write_text("weights")
    claim_folder(tmp_path / "dense", "a")
    assert (tmp_path / "dense" / "checkpoint_last.pt").exists()


def test_training_of_another_key_starts_afresh(tmp_path):
    claim_folder(tmp_path / "dense", "a")
    (tmp_path / "dense" / "checkpoint_last.pt").write_text("weights")
    claim_folder(tmp_path / "dense", "b")
    assert not (tmp_path / "dense" / "checkpoint_last.pt").exists()


def test_files_of_others_are_not_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StepFailed, match="holds something else"):
        claim_folder(tmp_path, "a")
    assert (tmp_path / "thesis.tex").exists()
