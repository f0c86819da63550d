"""Throughput, utilisation, memory and waiting: what the log says of a training, counted by hand."""

import json
import re
from types import SimpleNamespace

import pytest
from fairseq.data.iterators import GroupedIterator
from fairseq.logging import metrics

from fairseq_mhmoe.cli.cost import main as mhmoe_cost
from fairseq_mhmoe.integration import memory, meters
from fairseq_mhmoe.integration.device_peaks import peak_tflops, precision_of

EVERY_LINE = {"tokens_per_s", "tokens_per_s_device", "run_tokens_per_s", "tflops_per_device", "mfu", "run_mfu"}
INTERVAL = {"data_wait", "ram_gb", "ram_free_gb"}


@pytest.fixture(scope="module")
def log(tmp_path_factory, tiny_data_dir, run_cli):
    """The JSON lines of a training of one epoch with --peak-tflops 0.5, by tag: train_inner, valid, train."""
    from ..conftest import TINY_MODELS, TINY_TRAINING

    folder = tmp_path_factory.mktemp("meters")
    words = [word for word in TINY_TRAINING if word != "--disable-validation"]
    words += ["--max-update", 1000, "--max-epoch", 1, "--log-format", "json", "--log-interval", 2]
    words += ["--peak-tflops", 0.5, "--save-dir", folder / "run"]
    result = run_cli("fairseq-train", tiny_data_dir, *words, *TINY_MODELS["mhmoe"])
    lines = [json.loads(line[line.index('{"epoch"') :]) for line in result.stdout.splitlines() if '{"epoch"' in line]
    lines = [{name: float(figure) for name, figure in line.items() if figure != "None"} for line in lines]
    inner = [line for line in lines if "update" in line]
    [valid] = [line for line in lines if "valid_loss" in line]
    [train] = [line for line in lines if "train_loss" in line]
    return SimpleNamespace(text=result.stdout, inner=inner, valid=valid, train=train)


def test_every_line_has_the_rates_and_every_interval_memory_and_waiting(log):
    assert EVERY_LINE | INTERVAL <= set(log.inner[-1])
    assert {f"train_{name}" for name in EVERY_LINE | INTERVAL} <= set(log.train)
    assert not any("tokens_per_s" in name or "ram" in name for name in log.valid)


def test_figures_of_one_line_fit_together(log):
    line = log.inner[-1]
    [gigaflop] = re.findall(r"([\d.]+) GFLOP of training per token; mfu is a share of 0.5 TFLOP/s", log.text)
    assert line["tokens_per_s_device"] == line["tokens_per_s"]
    assert line["tflops_per_device"] == pytest.approx(line["tokens_per_s"] * float(gigaflop) / 1e3, rel=2e-3)
    assert line["mfu"] == pytest.approx(line["tflops_per_device"] / 0.5, rel=2e-3)
    assert 0 <= line["data_wait"] <= 1 and line["ram_gb"] > 0.05 and line["ram_free_gb"] > 0


def test_the_run_is_no_faster_than_its_updates(log):
    assert 0 < log.train["train_run_tokens_per_s"] < log.train["train_tokens_per_s"]


def test_saving_and_validating_have_their_seconds(log):
    assert log.train["train_save_s"] > 0 and log.train["train_valid_s"] > 0


@pytest.fixture
def clock(monkeypatch):
    """Time that a test moves: clock.now."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(meters, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def test_an_interval_is_the_time_of_its_updates_alone(make_trainer, clock):
    trainer = make_trainer("--log-interval", 2, "--peak-tflops", 1)

    class Slow:
        def __len__(self):
            return 3

        def __iter__(self):
            for _ in range(3):
                clock.now += 1  # data take a second
                yield next(batches)

    _, epoch = trainer.load_checkpoint("none"), trainer.get_train_iterator(1)
    batches = iter(epoch.next_epoch_itr(shuffle=False))
    updates = GroupedIterator(Slow(), 1)
    step = trainer.optimizer.step
    trainer.optimizer.step = lambda *args, **kwargs: (setattr(clock, "now", clock.now + 3), step(*args, **kwargs))[1]
    tokens = 0
    for _ in range(2):
        with metrics.aggregate("train"), metrics.aggregate("train_inner"):
            samples = next(updates)
            tokens += samples[0]["ntokens"]
            trainer.train_step(samples)
        clock.now += 50  # validation, say
    found = metrics.get_smoothed_values("train_inner")
    assert found["tokens_per_s"] == meters.rounded(tokens / 8)  # 2 x (1 + 3) seconds
    assert found["data_wait"] == 0.25
    assert found["run_tokens_per_s"] == meters.rounded(tokens / 58)
    assert found["mfu"] == meters.rounded(tokens / 8 * trainer.get_model().training_flops_per_token() / 1e12)


def test_utilisation_counts_the_flops_that_mhmoe_cost_prints(make_trainer, capsys):
    trainer = make_trainer()
    options = "--decoder-embed-dim 24 --decoder-ffn-embed-dim 32 --decoder-layers 2 --decoder-attention-heads 2"
    options += " --moe-expert-count 4 --moe-ffn-dim 16 --tokens-per-sample 32 --json --vocab-size"
    capsys.readouterr()
    rows = len(trainer.task.target_dictionary)
    assert mhmoe_cost(["--arch", "mhmoe_lm_tiny", *options.split(), str(rows)]) == 0
    assert json.loads(capsys.readouterr().out)["flops_per_token"] == trainer.get_model().training_flops_per_token()


def test_an_unknown_device_has_no_utilisation_and_the_log_says_so(make_trainer, caplog):
    with caplog.at_level("INFO", logger=meters.__name__):
        make_trainer()
    [message] = [record.message for record in caplog.records if record.name == meters.__name__]
    assert "no mfu in the log: the peak of the CPU in fp32 is not known, --peak-tflops gives it" in message
    assert meters._Job.clock.peak is None and meters._Job.clock.flops_per_token


@pytest.mark.parametrize(
    "name, precision, tflops",
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989),
        ("NVIDIA H100 PCIe", "bf16", 756),
        ("NVIDIA H100 NVL", "fp32", 60),
        ("NVIDIA H200", "bf16", 989),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312),
        ("NVIDIA A100 80GB PCIe", "tf32", 156),
        ("Tesla V100-SXM2-32GB", "fp16", 125),
        ("Tesla V100-SXM2-32GB", "bf16", None),
        ("Tesla V100-PCIE-16GB", "fp16", 112),
        ("NVIDIA L40S", "bf16", 362),
        ("NVIDIA L40", "bf16", 181),
        ("NVIDIA GeForce RTX 4090", "fp16", 165.2),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "fp16", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bf16", None),
        ("NVIDIA A10G", "bf16", None),
        ("Some GPU", "fp16", None),
    ],
)
def test_peaks_by_the_names_of_the_driver(name, precision, tflops):
    assert peak_tflops(name, precision) == tflops


@pytest.mark.parametrize("chosen, precision", [("bf16", "bf16"), ("memory_efficient_fp16", "fp16"), ("", "fp32")])
def test_precision_is_the_training_s(chosen, precision):
    options = dict.fromkeys(("fp16", "bf16", "amp", "memory_efficient_fp16", "memory_efficient_bf16"), False)
    assert precision_of(SimpleNamespace(**{**options, **({chosen: True} if chosen else {})})) == precision


def test_a_container_with_less_memory_than_its_machine_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text(f"{3 << 20}\n")
    (tmp_path / "memory.current").write_text(f"{2 << 20}\n")
    (tmp_path / "memory.stat").write_text(f"anon {1 << 20}\ninactive_file {1 << 20}\n")
    assert memory.available_gib() == pytest.approx(2 / 1024)
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_gib() > 2 / 1024
