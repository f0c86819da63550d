"""The dispatcher of mhmoe-analyze: help, what it refuses, its exit status."""

import argparse
from types import SimpleNamespace

import pytest

from fairseq_mhmoe.cli import analyze


def test_help_tells_the_commands(capsys):
    assert analyze.main(["--help"]) == 0
    output = capsys.readouterr().out
    assert all(f"mhmoe-analyze {command}" in output for command in analyze.COMMANDS)
    assert analyze.main([]) == 2
    assert capsys.readouterr().out == output


def test_an_unknown_command_is_one_line(capsys):
    assert analyze.main(["activations"]) == 2
    output, errors = capsys.readouterr()
    assert output == "" and errors == (
        "mhmoe-analyze: error: 'activations': expected one of activation, diversity, curves\n"
    )


@pytest.fixture
def command(monkeypatch):
    """command(error): a command `toy` with an argument, which raises the error if there is one."""

    def make(error=None):
        ran = []

        def run(arguments):
            ran.append(arguments.number)
            if error is not None:
                raise error

        module = SimpleNamespace(
            __doc__="A toy.", run=run, add_arguments=lambda parser: parser.add_argument("--number", type=int)
        )
        monkeypatch.setitem(analyze.COMMANDS, "toy", "toy")
        monkeypatch.setattr(analyze.importlib, "import_module", {"toy": module}.__getitem__)
        return ran

    return make


def test_a_command_gets_its_arguments(command, capsys):
    ran = command()
    assert analyze.main(["toy", "--number", "3"]) == 0
    assert ran == [3]
    with pytest.raises(SystemExit) as ended:
        analyze.main(["toy", "--help"])
    assert ended.value.code == 0 and "A toy." in capsys.readouterr().out


@pytest.mark.parametrize("error", [ValueError("no\n  such thing"), OSError("no such thing")])
def test_errors_are_one_line_and_status_2(error, command, capsys):
    command(error)
    assert analyze.main(["toy"]) == 2
    assert capsys.readouterr() == ("", "mhmoe-analyze: error: no such thing\n")


@pytest.mark.parametrize("words", [["--number", "x"], ["--num", "3"], ["more"]])
def test_a_wrong_command_line_is_status_2(words, command, capsys):
    ran = command()
    with pytest.raises(SystemExit) as ended:
        analyze.main(["toy", *words])
    assert ended.value.code == 2 and ran == [] and "mhmoe-analyze toy: error: " in capsys.readouterr().err


@pytest.mark.parametrize("name", analyze.COMMANDS)
def test_every_command_has_a_parser_with_help(name):
    parser = analyze.make_parser(name)
    assert parser.prog == f"mhmoe-analyze {name}" and parser.description
    options = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    assert options and all(action.help for action in options)
