"""scripts/run.sh as a translator: arguments and environment in, the complete fairseq-train command out (DRY_RUN=1)."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "run.sh"
PUBLISHED = ["16", "1", "moe8-top1-freq2-random-6e-4", "512", "6e-4", "8", "1", "2"]
PUBLISHED_OPTIONS = "--moe-second-expert-policy random --moe-ffn-dim 2048"


def run(*arguments, cwd=ROOT, **environment):
    keep = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments], cwd=cwd, env=keep | environment, capture_output=True, text=True, timeout=120
    )


def dry_run(*arguments, **environment):
    done = run(*arguments, DRY_RUN="1", **environment)
    assert done.returncode == 0, done.stderr
    return shlex.split(done.stdout)


def value(words, option):
    return words[len(words) - 1 - words[::-1].index(option) + 1]


def test_published_line_gives_the_published_options():
    expected = f"""
        {ROOT}/.venv/bin/torchrun --nnodes 1 --node-rank 0 --nproc-per-node 16
        --master-addr 127.0.0.1 --master-port 29500
        {ROOT}/.venv/bin/fairseq-train {ROOT}/data/demo-english
        --user-dir {ROOT}/fairseq_mhmoe --distributed-world-size 16
        --save-dir moe8-top1-freq2-random-6e-4 --tensorboard-logdir moe8-top1-freq2-random-6e-4/tb-logs
        --num-workers 2 --activation-fn silu --share-decoder-input-output-embed
        --save-interval-updates 5000 --no-epoch-checkpoints --memory-efficient-fp16 --fp16-init-scale 4
        --checkpoint-activations --input-quant-method absmax_per_token --weight-quant-method absmean
        --input-bits 32 --weight-bits 32 --task gpt --sample-break-mode none
        --tokens-per-sample 2048 --scale-length 2048 --arch gpt_small_v2
        --log-format simple --log-interval 100 --disable-validation
        --optimizer adam --adam-betas '(0.9, 0.95)' --adam-eps 1e-06 --clip-norm 2.0
        --lr 6e-4 --end-learning-rate 3e-5 --lr-scheduler polynomial_decay --warmup-updates 375
        --dropout 0.0 --attention-dropout 0.0 --weight-decay 0.1
        --batch-size 8 --update-freq 4 --required-batch-size-multiple 1
        --total-num-update 100000 --max-update 100000 --seed 1 --ddp-backend no_c10d
        --moe-expert-count 8 --moe-freq 2 --moe-top-k 1 --pad-to-max-len --moe-top1-expert
        --moe-gating-use-fp32 --moe-normalize-gate-prob-before-dropping --moe-eval-capacity-token-fraction -1.0
        --criterion moe_cross_entropy --moe-gate-loss-wt 0.01 --moe-gate-loss-combine-method sum
        --flash-attention --spm-model {ROOT}/data/demo-english/spm.model
        --rotary-embed --no-token-positional-embeddings --no-scale-embedding --no-bias --rms-norm
        --batch-read-ahead 100 --moe-second-expert-policy random --moe-ffn-dim 2048
    """
    assert dry_run(*PUBLISHED, PUBLISHED_OPTIONS) == shlex.split(expected)


def test_output_is_one_line_that_a_shell_reads_back_as_the_same_words():
    done = run(*PUBLISHED, """--restore-file "it's a file.pt" --x '$HOME `id` * ; |'""", DRY_RUN="1")
    assert done.stdout.count("\n") == 1
    listed = subprocess.run(
        ["bash", "-c", "printf '%s\\n' " + done.stdout], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert listed == shlex.split(done.stdout)
    assert listed[-4:] == ["--restore-file", "it's a file.pt", "--x", "$HOME `id` * ; |"]


def test_nothing_in_options_is_executed(tmp_path):
    trap = tmp_path / "made"
    dry_run(*PUBLISHED, f"--x $(touch {trap}) `touch {trap}` ; touch {trap}")
    assert not trap.exists()


def test_one_process_needs_no_torchrun():
    words = dry_run("1", "1", "runs/x", "8", "1e-3", "8", "2", "2", UPDATE_FREQ="1")
    assert words[:2] == [f"{ROOT}/.venv/bin/fairseq-train", f"{ROOT}/data/demo-english"]
    assert value(words, "--distributed-world-size") == "1"
    assert "--moe-top1-expert" not in words


@pytest.mark.parametrize(
    "name, given, option, expected",
    [
        ("DATA_DIR", "/text", "--user-dir", str(ROOT / "fairseq_mhmoe")),
        ("DATA_DIR", "/text", "--spm-model", "/text/spm.model"),
        ("SPM_MODEL", "/other.model", "--spm-model", "/other.model"),
        ("ARCH", "mhmoe_lm_v2", "--arch", "mhmoe_lm_v2"),
        ("UPDATE_FREQ", "2", "--update-freq", "2"),
        ("UPDATE_FREQ", "2", "--batch-size", "16"),
        ("TOKENS_PER_SAMPLE", "512", "--tokens-per-sample", "512"),
        ("TOKENS_PER_SAMPLE", "512", "--scale-length", "512"),
        ("MAX_UPDATE", "77", "--max-update", "77"),
        ("MAX_UPDATE", "77", "--total-num-update", "77"),
        ("WARMUP_UPDATES", "5", "--warmup-updates", "5"),
        ("END_LR", "1e-6", "--end-learning-rate", "1e-6"),
        ("SAVE_INTERVAL_UPDATES", "9", "--save-interval-updates", "9"),
        ("LOG_INTERVAL", "9", "--log-interval", "9"),
        ("NUM_WORKERS", "0", "--num-workers", "0"),
        ("SEED", "9", "--seed", "9"),
        ("MASTER_ADDR", "10.0.0.1", "--master-addr", "10.0.0.1"),
        ("MASTER_PORT", "4000", "--master-port", "4000"),
    ],
)
def test_environment_variable_reaches_the_command(name, given, option, expected):
    assert value(dry_run(*PUBLISHED, **{name: given}), option) == expected


def test_data_dir_and_venv_are_used_as_given():
    words = dry_run("1", "1", "runs/x", "8", "1e-3", "8", "2", "2", DATA_DIR="text", VENV="/opt/env")
    assert words[:2] == ["/opt/env/bin/fairseq-train", "text"]


@pytest.mark.parametrize(
    "precision, device, options",
    [
        ("memory-efficient-fp16", "cuda", ["--memory-efficient-fp16", "--fp16-init-scale"]),
        ("fp16", "cuda", ["--fp16", "--fp16-init-scale"]),
        ("bf16", "cuda", ["--bf16"]),
        ("fp32", "cuda", []),
        ("bf16", "cpu", ["--bf16", "--cpu"]),
        ("", "cpu", ["--cpu"]),
    ],
)
def test_precision_and_device_choose_the_options(precision, device, options):
    words = dry_run(*PUBLISHED, PRECISION=precision, DEVICE=device)
    names = {"--memory-efficient-fp16", "--fp16", "--fp16-init-scale", "--bf16", "--cpu"}
    assert sorted(names & set(words)) == sorted(options)


def test_several_cpu_processes_talk_through_gloo():
    words = dry_run("2", "1", "runs/x", "8", "1e-3", "8", "2", "2", DEVICE="cpu")
    assert words[0].endswith("torchrun") and value(words, "--nproc-per-node") == "2"
    assert value(words, "--distributed-backend") == "gloo"


def test_fp16_on_a_cpu_is_left_out_in_one_line():
    done = run(*PUBLISHED, DRY_RUN="1", DEVICE="cpu")
    assert [line for line in done.stderr.splitlines() if "fp16" in line and "left out" in line]
    done = run(*PUBLISHED, DRY_RUN="1", DEVICE="cpu", PRECISION="fp16")
    assert done.returncode == 2 and "take fp32 or bf16" in done.stderr


def test_validation_can_be_switched_on():
    assert "--disable-validation" not in dry_run(*PUBLISHED, VALIDATE="1")


def test_training_is_resumed_not_restarted():
    assert "--reset-dataloader" not in dry_run(*PUBLISHED)


TWO_NODES = ["8", "2", "runs/x", "512", "6e-4", "8", "1", "2"]


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_NODEID": "1", "SLURM_LOCALID": "0", "SLURM_PROCID": "1"},
        {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0"},
        {"GROUP_RANK": "1", "LOCAL_RANK": "0", "RANK": "1"},
        {"NODE_RANK": "1"},
        {"NODE_RANK": "1", "SLURM_NODEID": "0"},
    ],
    ids=["slurm", "openmpi", "torchrun", "by-hand", "by-hand-wins"],
)
def test_number_of_the_node_comes_from_the_launcher(variables):
    words = dry_run(*TWO_NODES, MASTER_ADDR="10.0.0.1", **variables)
    assert value(words, "--nnodes") == "2"
    assert value(words, "--node-rank") == "1"
    assert value(words, "--nproc-per-node") == "8"
    assert value(words, "--distributed-world-size") == "16"
    assert value(words, "--batch-size") == "8"


def test_first_host_of_the_slurm_job_is_the_master(tmp_path):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\n[ \"$1 $2 $3\" = 'show hostnames node[7-8]' ] && printf 'node7\\nnode8\\n'\n")
    scontrol.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    words = dry_run(*TWO_NODES, SLURM_NODEID="0", SLURM_JOB_NODELIST="node[7-8]", PATH=path)
    assert value(words, "--master-addr") == "node7"


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_NODEID": "0", "SLURM_LOCALID": "1"},
        {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
        {"GROUP_RANK": "0", "LOCAL_RANK": "3"},
    ],
)
def test_one_start_per_gpu_is_refused(variables):
    done = run(*TWO_NODES, DRY_RUN="1", MASTER_ADDR="10.0.0.1", **variables)
    assert done.returncode == 2 and "once per node" in done.stderr


def test_node_number_beyond_the_nodes_is_refused():
    done = run(*TWO_NODES, DRY_RUN="1", MASTER_ADDR="10.0.0.1", NODE_RANK="2")
    assert done.returncode == 2 and "expected 0 to 1" in done.stderr


def with_argument(index, text):
    words = list(PUBLISHED)
    words[index] = text
    return words


@pytest.mark.parametrize(
    "arguments, environment, line",
    [
        (with_argument(0, "0"), {}, "NGPUS is '0'; give a whole number of 1 or more"),
        (with_argument(0, "two"), {}, "NGPUS is 'two'"),
        (with_argument(0, "08"), {}, "NGPUS is '08'"),
        (with_argument(1, "-1"), {}, "NNODES is '-1'"),
        (with_argument(2, ""), {}, "SAVE_DIR is empty"),
        (with_argument(2, "--lr"), {}, "write ./--lr"),
        (with_argument(2, str(SCRIPT)), {}, "is a file; give a folder"),
        (with_argument(3, "500"), {}, "16 x 1 x 4 = 64; take 448 or 512"),
        (with_argument(3, "8"), {}, "= 64; take 64, or another UPDATE_FREQ"),
        (with_argument(3, "1.5"), {}, "BATCH is '1.5'"),
        (with_argument(3, "99999999999999999999"), {}, "BATCH is '99999999999999999999'"),
        (with_argument(4, "fast"), {}, "LR is 'fast'; give a number above 0"),
        (with_argument(4, "0"), {}, "LR is '0'"),
        (with_argument(4, "-1e-3"), {}, "LR is '-1e-3'"),
        (with_argument(4, "1e-5"), {}, "set END_LR to 1e-5 or less"),
        (with_argument(5, "0"), {}, "EXPERTS is '0'"),
        (with_argument(6, "9"), {}, "take TOPK 1 to 8"),
        (with_argument(6, "1;id"), {}, "TOPK is '1;id'"),
        (with_argument(7, "13"), {}, "FREQ 13 is more than the 12 layers of gpt_small_v2"),
        (with_argument(7, "x"), {}, "FREQ is 'x'; give a whole number of 0 or more"),
        ([*PUBLISHED, "--mhmoe-heads-number 5"], {}, "does not divide the model width 768"),
        ([*PUBLISHED, "--decoder-embed-dim 96 --mhmoe-heads-number=5"], {}, "does not divide the model width 96"),
        ([*PUBLISHED, "--mhmoe-heads-number"], {}, "--mhmoe-heads-number is ''"),
        ([*PUBLISHED, "--restore-file 'half"], {}, "a quote without its partner"),
        ([*PUBLISHED, "moe-ffn-dim 4"], {}, "must start with an option"),
        (PUBLISHED, {"UPDATE_FREQ": "0"}, "UPDATE_FREQ is '0'"),
        (PUBLISHED, {"PRECISION": "int8"}, "PRECISION is 'int8'; choose"),
        (PUBLISHED, {"DEVICE": "tpu"}, "DEVICE is 'tpu'; choose"),
        (PUBLISHED, {"VALIDATE": "yes"}, "VALIDATE is 'yes'; give 0 or 1"),
        (PUBLISHED, {"DRY_RUN": "yes"}, "DRY_RUN is 'yes'; give 0 or 1"),
        (PUBLISHED, {"MASTER_PORT": "70000"}, "give a port from 1 to 65535"),
        (PUBLISHED, {"DRY_RUN": "0", "DATA_DIR": "/nowhere"}, "DATA_DIR /nowhere does not exist"),
        (PUBLISHED[:7], {}, "7 arguments; expected none"),
        ([*PUBLISHED, "--a", "b"], {}, "all options in one pair of quotes"),
    ],
)
def test_wrong_argument_is_named_with_a_remedy(arguments, environment, line):
    done = run(*arguments, **({"DRY_RUN": "1"} | environment))
    assert done.returncode == 2
    assert done.stdout == ""
    assert [text for text in done.stderr.splitlines() if text.startswith("run.sh: error: ") and line in text]


def test_options_that_change_the_batch_are_noted():
    done = run(*PUBLISHED, "--update-freq 2", DRY_RUN="1")
    assert done.returncode == 0 and done.stdout.rstrip().endswith("--update-freq 2")
    assert "OPTIONS has --update-freq, which wins" in done.stderr


def test_all_wrong_arguments_are_shown_at_once():
    done = run("a", "b", "x", "c", "d", "e", "f", "g", DRY_RUN="1")
    assert done.stderr.count("run.sh: error: ") == 7


def test_incomplete_data_folder_is_named(tmp_path):
    (tmp_path / "dict.txt").write_text("a 1\n")
    done = run(*PUBLISHED, DATA_DIR=str(tmp_path))
    assert done.returncode == 2
    assert f"DATA_DIR {tmp_path} has no train.bin" in done.stderr


def test_dense_model_has_no_condition_on_experts():
    words = dry_run("3", "1", "runs/x", "12", "6e-4", "8", "1", "0")
    assert (value(words, "--moe-freq"), value(words, "--moe-expert-count")) == ("0", "0")


def test_works_from_another_folder(tmp_path):
    here = run(*PUBLISHED, DRY_RUN="1")
    there = run(*PUBLISHED, DRY_RUN="1", cwd=tmp_path)
    assert there.stdout == here.stdout


def test_help_explains_every_argument_and_variable():
    text = run("--help").stdout
    for name in "NGPUS NNODES SAVE_DIR BATCH LR EXPERTS TOPK FREQ OPTIONS".split():
        assert f"\n  {name} " in text
    variables = re.findall(r"^  ([A-Z_]+)=\$\{\1:-", (ROOT / "scripts/lib/arguments.sh").read_text(), re.MULTILINE)
    assert len(variables) == 16
    for name in [*variables, "VENV", "DRY_RUN", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK"]:
        assert f"\n  {name} " in text


def test_torchrun_may_start_failed_processes_again():
    words = dry_run("1", "1", "runs/x", "8", "1e-3", "8", "2", "2", MAX_RESTARTS="3")
    assert words[0].endswith("torchrun") and value(words, "--max-restarts") == "3"
    assert "--max-restarts" not in dry_run(*PUBLISHED)
    assert run(*PUBLISHED, DRY_RUN="1", MAX_RESTARTS="-1").returncode == 2


def test_demonstration_shows_its_command():
    done = run(DRY_RUN="1")
    assert shlex.split(done.stdout) == [f"{ROOT}/.venv/bin/python", "-m", "fairseq_mhmoe.cli.demo"]
    wrong = run(DRY_RUN="yes")
    assert wrong.returncode == 2 and "DRY_RUN is 'yes'; give 0 or 1" in wrong.stderr


def test_scripts_are_clean_for_shellcheck():
    beside = Path(sys.executable).with_name("shellcheck")
    program = str(beside) if beside.exists() else shutil.which("shellcheck")
    if program is None:
        pytest.skip("shellcheck is not installed")
    scripts = [SCRIPT, *sorted((ROOT / "scripts/lib").glob("*.sh"))]
    done = subprocess.run([program, *map(str, scripts)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
