"""Every command of the documents is typed: blocks/stand_ins.py tells how to decide about a new one.

The rest holds the mechanism: what is wrong in a document fails, what is right runs as a reader would run it.
"""

import json

import pytest

from .blocks.given import expand, needed
from .blocks.programs import names
from .blocks.reading import SHELLS, SHOWN, Block, all_blocks, read_blocks, typed_lines
from .blocks.sandbox import run_blocks
from .blocks.small import shrink, value
from .blocks.stand_ins import STAND_INS

# Their blocks go on from each other, in one folder. Those of other documents stand alone.
TUTORIALS = ("docs/quick-start.md", "docs/custom-router.md", "docs/installing.md")


def cases():
    """Lists of blocks; what two documents say alike is typed once."""
    found = {}
    for block in all_blocks():
        if block.is_shell or block.language == "python":
            if block.document in TUTORIALS:
                found.setdefault(block.document, []).append(block)
            else:
                found.setdefault(block.script, [block])
    return list(found.values())


@pytest.mark.parametrize("blocks", cases(), ids=lambda blocks: blocks[0].name)
def test_what_a_reader_copies_runs(blocks, service, makers, tmp_path):
    done = run_blocks(blocks, tmp_path / "checkout", service, makers)
    # the last lines, with the block's folder as a dot
    output = done.stdout.replace(str(tmp_path / "checkout"), ".")[-4000:]
    assert done.returncode == 0, f"{done.args}\n{output}"


def test_every_language_is_typed_or_shown():
    others = [block.name for block in all_blocks() if block.language not in (*SHELLS, *SHOWN, "python")]
    assert others == []


def test_commands_are_in_blocks_that_are_typed():
    programs = {*names(), *STAND_INS, "ssh"}
    shown = [block for block in all_blocks() if block.language in SHOWN]
    assert {block.name: lines for block in shown if (lines := typed_lines(block, programs))} == {}


TRAIN = (
    "fairseq-train data/english --user-dir fairseq_mhmoe --task gpt --arch dense_lm_tiny --criterion moe_cross_entropy "
    "--optimizer adam --lr 6e-4 --save-dir runs/new"
)


def run(text, service, makers, tmp_path, language="bash"):
    return run_blocks([Block("docs/x.md", 1, language, text)], tmp_path / "checkout", service, makers)


@pytest.mark.parametrize(
    "text, message",
    [
        (f"{TRAIN} --lerning-rate 3", "unrecognized arguments: --lerning-rate 3"),
        (f"{TRAIN} --dropout much", "argument --dropout: invalid float value: 'much'"),
        (TRAIN.replace("data/english", "data/inglish"), "data/inglish"),
        ("mhmoe-cost configs/v2/english_smoe.yml", "english_smoe.yml"),
        ("mhmoe-cost --table 12", "invalid choice"),
        ("mhmoe-cots --table 11", "mhmoe-cots: command not found"),
        ("ssh node7 nvidia-smi", "ssh: command not found"),
        ("python -m data_prep.imagse --output x", "No module named 'data_prep.imagse'"),
        ("python scripts/none.py", "can't open file 'scripts/none.py'"),
        ("python -m venv .venv", "nobody has decided"),
        ("bash scripts/torture.sh", "nobody has decided how it is tested"),
        ("bash scripts/run.sh 8 1 runs/x", "3 arguments; expected none"),
        ("bash scripts/rum.sh", "scripts/rum.sh: No such file"),
        ("bash scripts/reproduce.sh english --ablation hands", "invalid choice: 'hands'"),
        ("SIZE=huge bash scripts/run_english.sh", "SIZE is 'huge'"),
        ("torchrun --nprocs 8 train.py", "unrecognized arguments: --nprocs"),
        ("pip install 'fairseq-mhmoe[exports]'", "no extra {'exports'}"),
        ("cp none.txt other.txt", "none.txt"),
        ("mhmoe-analyze ...", "'...' stands for nothing"),
    ],
)
def test_what_is_wrong_fails_and_says_why(text, message, service, makers, tmp_path):
    done = run(text, service, makers, tmp_path)
    assert done.returncode != 0 and message in done.stdout


@pytest.mark.parametrize(
    "text",
    [
        "false\ntrue",
        "mhmoe-cost --table 12 | cat",
        "echo x | mhmoe-cost --table 12 | cat >figures.txt",
        "echo $undefined",
    ],
)
def test_a_failure_is_not_lost_in_a_pipe_or_behind_another_command(text, service, makers, tmp_path):
    assert run(text, service, makers, tmp_path).returncode != 0


def test_programs_have_streams_folder_and_variables_as_in_a_shell(typed):
    code = "import os, sys; print(sys.stdin.read().strip(), os.getcwd(), os.environ['X'], *sys.argv[1:]); sys.exit(3)"
    lines = f"mkdir a && cd a && echo in | X=1 python -c \"{code}\" 'b c' >../out.txt || echo status $?; cat ../out.txt"
    done = typed(lines)
    first, second = done.stdout.splitlines()
    assert first == "status 3" and second.startswith("in /") and second.endswith("/checkout/a 1 b c")


def test_a_signal_reaches_the_program(typed):
    code = (
        "import signal, sys, time; signal.signal(signal.SIGUSR1, lambda *_: sys.exit(7)); "
        "open('ready', 'w').close(); time.sleep(60)"
    )
    lines = f'python -c "{code}" &\nuntil [[ -e ready ]]; do sleep 0.1; done\nkill -USR1 $!\nwait $! || echo status $?'
    assert typed(lines).stdout == "status 7\n"


def test_every_process_of_torchrun_knows_its_rank_and_one_failure_is_all_failures(typed):
    (show := "import os; print('rank', os.environ['RANK'], 'of', os.environ['WORLD_SIZE'])")
    done = typed(f'echo "{show}" >show.py\ntorchrun --standalone --nproc-per-node 8 show.py')
    assert sorted(done.stdout.splitlines()) == ["rank 0 of 2", "rank 1 of 2"]
    code = "import os, sys, time; sys.exit(5) if os.environ['RANK'] == '1' else time.sleep(60)"
    assert typed(f'echo "{code}" >fail.py\ntorchrun --nproc-per-node 2 fail.py').returncode == 5


def test_a_documents_options_take_effect_and_sizes_win(service, makers, tmp_path):
    text = f"{TRAIN} --max-update 10000 --seed 17 --log-format json --moe-freq 0"
    done = run(text, service, makers, tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "'seed': 17" in done.stdout and "'max_update': 2" in done.stdout
    lines = [line.split("| valid | ")[1] for line in done.stdout.splitlines() if "| valid | {" in line]
    assert json.loads(lines[-1])["valid_num_updates"] == "2"


def test_sizes_are_the_last_words_and_dots_the_first():
    words = shrink("fairseq-train", ["data", "--lr", "1", "--max-update", "9", "--warmup-updates", "5", "..."])
    assert words[0] == "data" and words.index("--lr") < words.index("1") and "..." not in words
    assert (value(words, "--lr"), value(words, "--max-update")) == ("1", "2")
    assert (value(words, "--warmup-updates"), value(words, "--task")) == ("1", "gpt")


def test_python_is_run_too(service, makers, tmp_path):
    assert run("1 / 0", service, makers, tmp_path, "python").returncode == 1


def test_files_are_given_by_their_names_but_not_those_that_are_made():
    text = "mhmoe-analyze activation runs/{dense,mhmoe}/checkpoint_best.pt --output data/wiki\ncat raw/cc12m/*.tar"
    assert sorted(needed("docs/x.md", text)) == ["raw/cc12m", "runs/dense", "runs/mhmoe"]
    assert expand("a{1,2}b{x,y}") == ["a1bx", "a1by", "a2bx", "a2by"]


def test_blocks_are_found_in_lists_and_sessions(tmp_path):
    text = "# T\n\n- x\n  ```bash\n  a \\\n    b\n  ```\n\n~~~console\n$ c \\\n  d\nanswer\n$ e\n~~~\n"
    text += "```\nbash scripts/x.sh a\n```\n"
    (tmp_path / "x.md").write_text(text)
    first, second, third = read_blocks(tmp_path / "x.md", tmp_path)
    assert (first.name, first.script) == ("x.md:4", "a \\\n  b\n")
    assert second.script == "c \\\n  d\ne\n"
    assert typed_lines(third, {"bash"}) == ["bash scripts/x.sh a"]
    assert typed_lines(Block("x", 1, "", "bash scripts/x.sh FOLDER\n"), {"bash"}) == []
    (tmp_path / "y.md").write_text("```bash\nx\n")
    with pytest.raises(ValueError, match="y.md:1: the fence is not closed"):
        read_blocks(tmp_path / "y.md", tmp_path)
