"""scripts/run_english.sh and run_multilingual.sh: what they would run (DRY_RUN=1), and their complaints."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

import fairseq_mhmoe  # noqa: F401  registers the task
from fairseq_mhmoe.models.architectures import ARCHITECTURES

ROOT = Path(__file__).parents[2]
CORPORA = ("english", "multilingual")
TWO_NODES = {"SIZE": "paper", "NGPUS": "8", "NNODES": "2", "MASTER_ADDR": "10.0.0.1", "DATA_DIR": "/data"}


def run(corpus, *arguments, cwd=ROOT, **environment):
    keep = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        ["bash", str(ROOT / f"scripts/run_{corpus}.sh"), *arguments],
        cwd=cwd,
        env=keep | {"DRY_RUN": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def commands(corpus, *arguments, **environment):
    done = run(corpus, *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


def value(words, option):
    return words[len(words) - 1 - words[::-1].index(option) + 1]


def training(found):
    [words] = [words for words in found if "--max-update" in words]
    return words


def programs(found):
    return [
        next(word for word in words if re.match(r"fairseq-\w|data_prep|fairseq_mhmoe\.", Path(word).name))
        for words in found
    ]


@pytest.mark.parametrize("corpus", CORPORA)
def test_the_demonstration_prepares_trains_and_evaluates(corpus):
    found = commands(corpus, DATA_DIR="/data")
    assert [Path(name).name for name in programs(found)] == [
        f"data_prep.demo_{corpus}",
        "fairseq-train",
        "fairseq-eval-lm",
        "fairseq-eval-lm",
        "fairseq_mhmoe.cli.evaluate",
        "fairseq_mhmoe.cli.score_table",
    ]
    assert [value(words, "--gen-subset") for words in found[2:5]] == ["valid", "test", "valid,test"]
    assert len({value(words, "--path") for words in found[2:5]}) == 1
    assert value(found[4], "--output") == found[5][-1]


@pytest.mark.parametrize(
    "corpus, settings",
    [
        ("english", {"MODEL": "mhmoe"}),
        ("english", {"SIZE": "paper", "PAPER": "v2", "MODEL": "smoe", "RAW": "a=/x"}),
        ("multilingual", {"SIZE": "paper", "MODEL": "xmoe", "RAW": "a=/x"}),
    ],
)
def test_fairseq_understands_the_options(corpus, settings):
    words = training(commands(corpus, DEVICE="cpu", DATA_DIR="/data", **settings))
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), words[1:]))
    assert cfg.task.sampling_alpha == (0.7 if corpus == "multilingual" else 1.0)
    assert cfg.lr_scheduler.total_num_update == cfg.optimization.max_update


@pytest.mark.parametrize("model", ["mhmoe", "xmoe", "smoe", "dense"])
def test_every_model_has_an_architecture_of_each_size(model):
    sizes = [{}, {"SIZE": "paper", "PAPER": "v2", "RAW": "a=/x"}]
    if model != "smoe":
        sizes.append({"SIZE": "paper", "RAW": "a=/x"})
    found = [training(commands("english", MODEL=model, DATA_DIR="/data", **size)) for size in sizes]
    names = [value(words, "--arch") for words in found]
    assert set(names) <= set(ARCHITECTURES) and all(name.startswith(model) for name in names)


def test_paper_size_is_that_of_the_papers():
    def train(**settings):
        found = commands("english", SIZE="paper", NGPUS="8", DATA_DIR="/data", RAW="a=/x", **settings)
        words = training(found)
        sequences = int(value(words, "--batch-size")) * int(value(words, "--update-freq")) * 8
        return words, sequences * int(value(words, "--tokens-per-sample"))

    words, tokens = train()
    assert tokens == 1 << 20 and value(words, "--arch") == "mhmoe_lm_v1"
    assert [value(words, name) for name in ("--lr", "--warmup-updates", "--weight-decay")] == ["5e-4", "10000", "0.01"]
    words, tokens = train(PAPER="v2", MODEL="smoe")
    assert tokens == 1 << 19 and value(words, "--arch") == "smoe_lm_v2" and value(words, "--max-update") == "100000"


def test_paper_size_holds_no_logits_of_a_whole_batch_and_options_win():
    added = ["--checkpoint-activations", "--chunked-cross-entropy", "--cross-entropy-chunk", "1024"]
    more = ["--cross-entropy-chunk", "64"]
    words = training(commands("english", *more, SIZE="paper", DATA_DIR="/data", RAW="a=/x"))
    assert words[-6:] == added + more
    assert not set(added) & set(training(commands("english", DATA_DIR="/data")))


def test_raw_files_become_sources():
    raw = "de=/dumps/de*.bz2 fr=/dumps/fr wiki.bz2=x"
    words = commands("multilingual", SIZE="paper", DATA_DIR="/data", RAW=raw, PREPARE_OPTIONS="--workers 3")[0]
    assert words[2] == "data_prep" and value(words, "--output") == "/data"
    sources = [words[index + 1] for index, word in enumerate(words) if word == "--source"]
    assert sources == raw.split(" ")  # nothing is expanded here
    assert value(words, "--language") == "wiki.bz2=wiki.bz2" and value(words, "--workers") == "3"
    assert (value(words, "--vocab-size"), value(words, "--spm-alpha")) == ("250000", "0.7")
    given = commands("multilingual", SIZE="paper", DATA_DIR="/data", RAW="a=/x", TOKENIZER="xlmr.model")[0]
    assert value(given, "--tokenizer") == "xlmr.model" and "--vocab-size" not in given
    assert value(commands("english", SIZE="paper", DATA_DIR="/d", RAW="a=/x")[0], "--tokenizer") == "cl100k_base"


def test_a_prepared_folder_is_not_prepared_again(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    found = programs(commands("english", SIZE="paper", DATA_DIR=str(tmp_path)))
    assert "data_prep" not in " ".join(found) and found[0].endswith("fairseq-train")


@pytest.mark.parametrize("corpus", CORPORA)
def test_nodes_of_a_slurm_job_train_as_one_and_the_first_prepares_and_evaluates(corpus):
    first = commands(corpus, RAW="a=/x", SLURM_NODEID="0", **TWO_NODES)
    second = commands(corpus, RAW="a=/x", SLURM_NODEID="1", **TWO_NODES)
    assert len(first) == 6 and len(second) == 1
    assert second[0][0].endswith("torchrun") and value(second[0], "--node-rank") == "1"
    assert value(second[0], "--distributed-world-size") == "16"
    rank = second[0].index("--node-rank") + 1
    assert first[1][:rank] + first[1][rank + 1 :] == second[0][:rank] + second[0][rank + 1 :]
    assert first[1][rank] == "0"


def test_options_and_variables_reach_the_training():
    words = commands(
        "english", "--dropout", "0.3", "--lr", "1", MAX_UPDATE="90", SAVE_DIR="/s", ALPHA="0.5", DATA_DIR="/d"
    )[1]
    assert words[-4:] == ["--dropout", "0.3", "--lr", "1"]
    assert (value(words, "--max-update"), value(words, "--save-dir")) == ("90", "/s")
    assert value(words, "--sampling-alpha") == "0.5"


def test_relative_folders_are_seen_from_the_folder_of_the_call(tmp_path):
    done = run("english", cwd=tmp_path, DATA_DIR="d", SAVE_DIR="s")
    assert f"--output {tmp_path}/d " in done.stdout and f"--save-dir {tmp_path}/s " in done.stdout


@pytest.mark.parametrize(
    "arguments, environment, line",
    [
        ((), {"SIZE": "huge"}, "SIZE is 'huge'; choose demo or paper"),
        ((), {"MODEL": "rnn"}, "MODEL is 'rnn'; choose"),
        ((), {"SIZE": "paper", "PAPER": "v3"}, "PAPER is 'v3'; choose v1 or v2"),
        ((), {"SIZE": "paper", "MODEL": "smoe"}, "MODEL=smoe is not in the first paper; take PAPER=v2"),
        ((), {"SIZE": "paper", "DATA_DIR": "/none"}, "DATA_DIR /none has no manifest.json; name a prepared folder"),
        ((), {"SIZE": "paper", "DATA_DIR": "/none", "RAW": "file.xml"}, "RAW has 'file.xml'; expected NAME=GLOB"),
        ((), {"NGPUS": "0"}, "NGPUS is '0'; give a whole number of 1 or more"),
        ((), {"LR": "fast"}, "LR is 'fast'"),
        ((), {"BATCH": "6", "NGPUS": "4"}, "= 4 x 1 x 1 = 4; take another UPDATE_FREQ, or BATCH 8"),
        ((), {"MAX_UPDATE": "40"}, "WARMUP_UPDATES 40 is not below MAX_UPDATE 40"),
        ((), {"DRY_RUN": "yes"}, "DRY_RUN is 'yes'; give 0 or 1"),
        (("16", "1"), {}, "'16' is no option"),
    ],
)
def test_a_wrong_setting_is_named_with_a_remedy(arguments, environment, line):
    done = run("english", *arguments, **environment)
    assert done.returncode == 2 and done.stdout == ""
    assert [text for text in done.stderr.splitlines() if text.startswith("run_english.sh: error: ") and line in text]


@pytest.mark.parametrize("corpus", CORPORA)
def test_help_explains_every_variable(corpus):
    text = run(corpus, "--help").stdout
    settings = (ROOT / "scripts/lib/pretrain_settings.sh").read_text()
    names = set(re.findall(r"^ +([A-Z_]+)=\$\{\1:-", settings, re.MULTILINE))
    assert len(names) > 15
    for name in names | {"RAW", "TOKENIZER", "PREPARE_OPTIONS", "ALPHA", "VENV", "DRY_RUN", "MASTER_ADDR"}:
        assert re.search(rf"^  ([A-Z_]+, )*{name}\b", text, re.MULTILINE), name
    assert f"bash scripts/run_{corpus}.sh" in text
