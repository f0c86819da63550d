"""--user-dir however the package came to be imported."""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fairseq import utils

import fairseq_mhmoe

PACKAGE = Path(fairseq_mhmoe.__file__).resolve().parent
IMPORT_USER_DIR = """
import argparse, sys
from fairseq import utils
utils.import_user_module(argparse.Namespace(user_dir=sys.argv[1]))
utils.import_user_module(argparse.Namespace(user_dir=sys.argv[1]))
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.tasks import TASK_REGISTRY
print("moe_cross_entropy" in CRITERION_REGISTRY, "mhmoe_lm_tiny" in ARCH_MODEL_REGISTRY, "gpt" in TASK_REGISTRY)
import fairseq_mhmoe
print(fairseq_mhmoe.__path__[0])
"""


def import_user_dir(path):
    utils.import_user_module(argparse.Namespace(user_dir=str(path)))


def import_in_a_new_process(path, python_path=""):
    environment = {**os.environ, "PYTHONPATH": str(python_path)}
    command = [sys.executable, "-c", IMPORT_USER_DIR, str(path)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/", timeout=120)


def copy_package(folder):
    ignore = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(PACKAGE, folder / "fairseq_mhmoe", ignore=ignore))


def test_the_imported_package_may_be_named_in_any_spelling(tmp_path, monkeypatch):
    link = tmp_path / "link"
    link.symlink_to(PACKAGE)
    monkeypatch.chdir(PACKAGE.parent)
    for path in (PACKAGE, "fairseq_mhmoe", "./fairseq_mhmoe/", link):
        import_user_dir(path)


def test_the_bare_name_away_from_the_repository_is_this_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    utils.import_user_module(argparse.Namespace(user_dir="fairseq_mhmoe"))
    (tmp_path / "fairseq_mhmoe").mkdir()
    with pytest.raises(ImportError, match="another copy"):
        utils.import_user_module(argparse.Namespace(user_dir="fairseq_mhmoe"))


def test_no_user_dir_is_no_error():
    utils.import_user_module(argparse.Namespace(user_dir=None))
    utils.import_user_module(argparse.Namespace())


def test_another_copy_is_refused_with_both_places(tmp_path):
    (tmp_path / "fairseq_mhmoe").mkdir()
    with pytest.raises(ImportError, match="another copy") as error:
        import_user_dir(tmp_path / "fairseq_mhmoe")
    assert str(tmp_path) in str(error.value)
    assert str(PACKAGE) in str(error.value)


def test_another_user_dir_is_still_imported(tmp_path):
    module = tmp_path / "somebody_elses_module"
    module.mkdir()
    (module / "__init__.py").write_text("VALUE = 7\n")
    import_user_dir(module)
    assert sys.modules["somebody_elses_module"].VALUE == 7


def test_the_user_dir_wins_over_an_installed_copy(tmp_path):
    copy_package(tmp_path)
    result = import_in_a_new_process(PACKAGE, python_path=tmp_path)
    assert result.stdout.splitlines()[-2:] == ["True True True", str(PACKAGE)], result.stderr


def test_an_installed_copy_can_be_the_user_dir(tmp_path):
    copy = copy_package(tmp_path)
    result = import_in_a_new_process(copy, python_path=tmp_path)
    assert result.stdout.splitlines()[-2:] == ["True True True", str(copy)], result.stderr


def test_a_link_of_another_name_is_refused(tmp_path):
    (tmp_path / "mh").symlink_to(PACKAGE)
    result = import_in_a_new_process(tmp_path / "mh")
    assert result.returncode != 0
    assert "must be imported as fairseq_mhmoe, not as mh" in result.stderr
