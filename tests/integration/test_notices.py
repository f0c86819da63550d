"""What fairseq's imports say about themselves."""


def test_a_program_of_ours_prints_only_its_own_lines(run_cli):
    shown = run_cli("python", "-m", "fairseq_mhmoe.cli.analyze", "--help", PYTHONWARNINGS="").stdout
    assert shown.startswith("The analyses of the papers") and shown.endswith("if the command asks for what can't be.\n")
