"""--user-dir of our own programs: the folder is a Python module, imported when the command line is read."""

import argparse
import sys

import pytest

from fairseq_mhmoe.cli.user_dir import add_user_dir


@pytest.fixture
def parser():
    found = argparse.ArgumentParser()
    add_user_dir(found)
    return found


def test_the_module_is_imported(parser, tmp_path):
    module = tmp_path / "a_module_of_a_user"
    module.mkdir()
    (module / "__init__.py").write_text("VALUE = 7\n")
    assert parser.parse_args(["--user-dir", str(module)]).user_dir == str(module)
    assert sys.modules["a_module_of_a_user"].VALUE == 7


def test_a_folder_that_is_no_module_is_an_error_of_the_command_line(parser, tmp_path, capsys):
    with pytest.raises(SystemExit):
        parser.parse_args(["--user-dir", str(tmp_path)])
    assert f"--user-dir {tmp_path}: no Python module there; expected a folder with" in capsys.readouterr().err


def test_it_may_be_left_out(parser):
    assert parser.parse_args([]).user_dir is None
