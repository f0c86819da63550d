"""Every command of the documents is typed: blocks/stand_ins.py tells how to decide about a new one."""

import pytest

from .blocks.programs import names
from .blocks.reading import SHELLS, SHOWN, all_blocks, typed_lines
from .blocks.sandbox import run_blocks
from .blocks.stand_ins import STAND_INS

# Their blocks go on from each other, in one folder. Those of other documents stand alone.
TUTORIALS = ("docs/quick-start.md", "docs/custom-router.md")


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
