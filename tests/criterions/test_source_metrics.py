"""Sums by source of the data, and the figures made of them."""

import json
import logging
import math
import time

import pytest
import torch
from fairseq.logging import metrics, progress_bar
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_mhmoe.criterions.moe_cross_entropy import MoECrossEntropy
from fairseq_mhmoe.criterions.source_metrics import KEY, byte_sums, log_sources, source_sums

PAD = 1
LN2 = math.log(2)
TARGET = torch.tensor([[2, 3, 4], [4, 2, PAD], [3, PAD, PAD]])
LOSSES = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 99.0, 32.0, 99.0, 99.0])
NAMES = ["en", "de", "fr"]


@pytest.fixture(autouse=True)
def fresh_meters():
    metrics.reset()
    yield
    metrics.reset()


def batch(**more):
    return {"target": TARGET, **more}


def smoothed(*steps):
    """What the log shows after these training steps, each a list of logging outputs."""
    with metrics.aggregate("train") as aggregate:
        for logging_outputs in steps:
            log_sources(logging_outputs)
        return aggregate.get_smoothed_values()


def test_sums_by_hand():
    sample = batch(source=torch.tensor([2, 0, 2]), nbytes=torch.tensor([10.0, 5.0, 2.5]))
    [(key, sums)] = source_sums(LOSSES, sample, PAD, NAMES).items()
    assert key == f"{KEY}en,de,fr"
    assert sums.tolist() == [[24.0, 0.0, 39.0], [2.0, 0.0, 4.0], [5.0, 0.0, 12.5]]


def test_without_source_there_is_one_sum_without_name():
    sample = {"nbytes": torch.ones(3), "ntokens": 6}
    assert byte_sums(torch.tensor(63.0, requires_grad=True), sample)[KEY].tolist() == [[63.0], [6.0], [3.0]]


def test_without_counts_of_bytes_there_are_none():
    sums = source_sums(LOSSES, batch(source=torch.tensor([0, 1, 2])), PAD, NAMES)[f"{KEY}en,de,fr"]
    assert sums[2].tolist() == [0, 0, 0]
    assert "src_en_bits_per_byte" not in smoothed([{f"{KEY}en,de,fr": sums}])


@given(data=st.data())
@settings(max_examples=30)
def test_sums_are_those_of_a_loop(data):
    rows, length, count = (data.draw(st.integers(1, 5)) for _ in range(3))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    target = torch.randint(0, 4, (rows, length), generator=generator)
    source = torch.randint(0, count, (rows,), generator=generator)
    nbytes = torch.rand(rows, generator=generator)
    losses = torch.rand(rows * length, generator=generator)
    names = [f"s{number}" for number in range(count)]
    sample = {"target": target, "source": source, "nbytes": nbytes}
    [sums] = source_sums(losses, sample, PAD, names).values()
    expected = torch.zeros(3, count, dtype=torch.float64)
    for row in range(rows):
        for column in range(length):
            if target[row, column] != PAD:
                expected[0, source[row]] += losses[row * length + column]
                expected[1, source[row]] += 1
        expected[2, source[row]] += nbytes[row]
    torch.testing.assert_close(sums, expected)


def test_figures_by_hand():
    # en: 4 tokens, 8 bits in 16 bytes; de: none; fr: 2 tokens, 2 bits in 1 byte
    key, half = f"{KEY}en,de,fr", torch.tensor([[4 * LN2, 0, LN2], [2, 0, 1], [8, 0, 0.5]], dtype=torch.float64)
    values = smoothed([{key: half}], [{key: half}])
    expected = {"src_en_loss": 2, "src_en_ppl": 4, "src_en_tokens": 4, "src_en_bits_per_byte": 0.5}
    expected |= {"src_fr_loss": 1, "src_fr_ppl": 2, "src_fr_tokens": 2, "src_fr_bits_per_byte": 2}
    expected |= {f"src_de_{figure}": None for figure in ("loss", "ppl", "tokens", "bits_per_byte")}
    assert values == {"bits_per_byte": round(10 / 17, 4), **expected}


def test_ranks_are_added_up():
    key, sums = f"{KEY}a,b", torch.tensor([[LN2, 2 * LN2], [1, 1], [1, 1]], dtype=torch.float64)
    values = smoothed([{key: sums}, {key: 3 * sums}, {}])
    assert (values["src_a_tokens"], values["src_b_loss"], values["bits_per_byte"]) == (4, 2, 1.5)


def test_one_source_has_bits_per_byte_only():
    assert smoothed([{KEY: torch.tensor([[6 * LN2], [2], [12]], dtype=torch.float64)}]) == {"bits_per_byte": 0.5}


def test_bits_per_byte_of_all_need_the_bytes_of_all():
    sums = torch.tensor([[LN2, LN2], [1, 1], [1, 0]], dtype=torch.float64)
    values = smoothed([{f"{KEY}a,b": sums}])
    assert (values["bits_per_byte"], values["src_a_bits_per_byte"], values["src_b_bits_per_byte"]) == (None, 1, None)


def test_a_perplexity_beyond_floats_is_infinite():
    sums = torch.tensor([[1e6, 1], [1, 1], [0, 0]], dtype=torch.float64)
    assert smoothed([{f"{KEY}a,b": sums}])["src_a_ppl"] == math.inf


def test_an_interval_starts_anew_and_a_saved_meter_goes_on():
    key, sums = f"{KEY}a,b", torch.tensor([[LN2, LN2], [1, 1], [1, 1]], dtype=torch.float64)
    with metrics.aggregate("train_inner") as inner:
        log_sources([{key: sums}])
        saved = metrics.state_dict()
        inner.reset()
        assert inner.get_smoothed_values()["src_a_loss"] is None
        log_sources([{key: 2 * sums}])
        assert inner.get_smoothed_values()["src_a_tokens"] == 2
    metrics.load_state_dict(saved)
    with metrics.aggregate("train_inner") as inner:
        log_sources([{key: sums}])
        assert inner.get_smoothed_values()["src_a_tokens"] == 2


def test_nothing_to_log():
    assert smoothed([], [{"ntokens": 3}]) == {}


def test_json_has_a_null_and_the_progress_line_leaves_out_what_was_not_seen(caplog):
    stats = {"loss": 2.5, "src_a_ppl": 4.25, "src_a_tokens": 7, "src_b_ppl": None, "bits_per_byte": 1.5}
    lines = {}
    for log_format in ("simple", "json"):
        bar = progress_bar.progress_bar([0], log_format=log_format, log_interval=1, prefix="test")
        with caplog.at_level(logging.INFO):
            bar.print(stats, tag="train", step=1)
        lines[log_format] = caplog.messages[-1]
    assert lines["simple"] == "test | loss 2.5 | src_a_ppl 4.25 | bits_per_byte 1.5"
    assert json.loads(lines["json"])["train_src_b_ppl"] is None
    assert json.loads(lines["json"])["train_src_a_tokens"] == "7"


def test_a_hundred_sources_cost_little():
    names = [f"language{number}" for number in range(100)]
    sample = dict(target=torch.full((64, 128), 2), source=torch.arange(64), nbytes=torch.ones(64))
    losses = torch.rand(64 * 128)
    with metrics.aggregate("train"):
        outputs = [source_sums(losses, sample, PAD, names)]
        log_sources(outputs)
        started = time.process_time()
        for _ in range(20):
            log_sources([source_sums(losses, sample, PAD, names)])
    assert (time.process_time() - started) / 20 < 0.02


def test_the_criterion_logs_them():
    key = f"{KEY}a,b"
    output = {"loss": torch.tensor(LN2), "nll_loss": torch.tensor(LN2), "ntokens": 1, "sample_size": 1}
    with metrics.aggregate("train") as aggregate:
        MoECrossEntropy.reduce_metrics([{**output, key: torch.tensor([[LN2, 0], [1, 0], [2, 0]]).double()}])
        values = aggregate.get_smoothed_values()
    assert (values["src_a_loss"], values["bits_per_byte"], values["nll_loss"]) == (1, 0.5, 1)
