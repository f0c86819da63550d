"""Errors of users end a program in one line; defects keep their traceback."""

import pytest

from data_prep.tokenizers.ranks import load_ranks
from fairseq_mhmoe.integration.errors import call_main_readably, message_for_users
from fairseq_mhmoe.moe import MoEConfig


def refuse(cfg, main):
    MoEConfig(d_model=8, num_experts=4, ffn_dim=8, top_k=5)


def fail_elsewhere(cfg, main):
    raise ValueError("a defect")


def miss_a_tokenizer(cfg, main):
    load_ranks("none.tiktoken")


def overflow(cfg, main):
    raise FloatingPointError("gradients are Nan/Inf")


def mismatch(cfg, main):
    raise Exception("Cannot load model parameters from checkpoint x.pt; please ensure that the architectures match.")


@pytest.mark.parametrize(
    "failure, line",
    [
        (refuse, "error: MoE layer: top_k=5; expected"),
        (miss_a_tokenizer, "error: no tiktoken file none.tiktoken"),
        (overflow, "error: gradients are Nan/Inf: no step was made"),
        (mismatch, "error: Cannot load model parameters from checkpoint x.pt"),
    ],
)
def test_what_users_can_help_is_one_line(failure, line, capsys, monkeypatch):
    monkeypatch.delenv("LOGLEVEL", raising=False)
    with pytest.raises(SystemExit) as stopped:
        call_main_readably(failure, None, None)
    assert stopped.value.code == 1
    err = capsys.readouterr().err
    assert line in err and err.count("\n") == 1


def test_a_defect_keeps_its_traceback():
    with pytest.raises(ValueError, match="a defect"):
        call_main_readably(fail_elsewhere, None, None)


def test_debugging_shows_every_traceback(monkeypatch):
    monkeypatch.setenv("LOGLEVEL", "DEBUG")
    with pytest.raises(ValueError, match="top_k=5"):
        call_main_readably(refuse, None, None)


def test_a_message_with_its_own_remedy_gets_no_other():
    assert message_for_users(FloatingPointError("float16 overflowed: use --bf16")) == "float16 overflowed: use --bf16"


def test_in_several_processes_a_line_starts_with_the_rank(capsys, monkeypatch):
    for name, value in dict(RANK=1, WORLD_SIZE=2, LOCAL_RANK=1, MASTER_ADDR="localhost", MASTER_PORT=29500).items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("LOGLEVEL", raising=False)
    with pytest.raises(SystemExit):
        call_main_readably(refuse, None, None)
    with pytest.raises(ValueError):
        call_main_readably(fail_elsewhere, None, None)
    user, defect = capsys.readouterr().err.splitlines()
    assert user.startswith("rank 1: ") and "error: MoE layer: top_k=5" in user
    assert defect == "rank 1: ValueError: a defect"
