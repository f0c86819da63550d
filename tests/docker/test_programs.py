"""The two small programs of an image: the check of its torch, and the health check."""

import runpy
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def check_torch(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90"])
    return runpy.run_path(str(ROOT / "docker/check_torch.py"))["problem"]


def test_a_torch_with_kernels_for_the_gpus_is_accepted(check_torch):
    assert check_torch(["sm_80", "sm_90"]) is None


def test_a_torch_without_kernels_for_the_gpu_ends_the_build(check_torch):
    assert "no kernels for sm_70, only for sm_75 sm_80 sm_90; give an index" in check_torch(["sm_70"])


@pytest.fixture
def health(monkeypatch):
    """The health check's names; its functions see what a test puts there."""
    names = runpy.run_path(str(ROOT / "docker/healthcheck.py"))
    space = names["report"].__globals__
    monkeypatch.setitem(space, "given_gpus", lambda: 8)
    monkeypatch.setitem(space, "visible_gpus", lambda: 8)
    return space, names


def test_a_container_whose_gpus_torch_sees_is_healthy(health):
    _, names = health
    assert names["report"]() == (True, "torch sees 8 GPUs")


def test_a_container_that_was_given_no_gpu_is_healthy_and_says_so(health, monkeypatch):
    space, names = health
    monkeypatch.setitem(space, "given_gpus", lambda: 0)
    healthy, line = names["report"]()
    assert healthy and "--gpus all" in line


def test_gpus_that_torch_does_not_see_are_a_defect(health, monkeypatch):
    space, names = health
    monkeypatch.setitem(space, "visible_gpus", lambda: 0)
    healthy, line = names["report"]()
    assert not healthy and "torch sees none of 8 GPUs" in line


def test_a_package_that_does_not_import_is_a_defect(health, monkeypatch):
    space, names = health
    monkeypatch.setitem(space, "PACKAGES", ("torch", "no_such_package"))
    healthy, line = names["report"]()
    assert not healthy and "no_such_package does not import: ModuleNotFoundError" in line


def test_gpus_are_counted_by_their_device_files(health, tmp_path):
    _, names = health
    for name in ("nvidia0", "nvidia1", "nvidia12", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert names["given_gpus"](tmp_path) == 3
