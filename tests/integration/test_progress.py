"""Figures of single MoE layers and most of single sources stay out of the progress line, and only out of that."""

import json
import logging

from fairseq.logging import progress_bar

import fairseq_mhmoe  # noqa: F401  (installs the hooks)

STATS = {
    "loss": 3.25,
    "moe_dropped": 0.5,
    "moe_l1_dropped": 0.75,
    "moe_l11_e3_load": 0.125,
    "moe_load_max": 2.0,
    "moe_load_variation": 1.5,
}


def line(caplog, log_format):
    bar = progress_bar.progress_bar([0], log_format=log_format, log_interval=1, prefix="test")
    with caplog.at_level(logging.INFO):
        bar.print(STATS, tag="train", step=1)
    return caplog.messages[-1]


def test_the_simple_line_has_averages_only(caplog):
    assert line(caplog, "simple") == "test | loss 3.25 | moe_dropped 0.5 | moe_load_max 2"


def test_json_has_every_layer(caplog):
    assert set(json.loads(line(caplog, "json"))) == {f"train_{key}" for key in STATS}


def test_the_simple_line_has_the_perplexity_of_a_few_sources(caplog, monkeypatch):
    few = {f"src_s{number}_{figure}": 2.0 for number in range(8) for figure in ("loss", "ppl", "tokens")}
    monkeypatch.setitem(globals(), "STATS", few)
    assert line(caplog, "simple") == "test | " + " | ".join(f"src_s{number}_ppl 2" for number in range(8))
    monkeypatch.setitem(globals(), "STATS", {"loss": 3.25, **few, "src_s8_ppl": 2.0})
    assert line(caplog, "simple") == "test | loss 3.25"
