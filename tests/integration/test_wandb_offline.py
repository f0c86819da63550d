"""The real package wandb, offline: what two starts of a training leave behind.

fairseq imports it into every process of an environment that has it, so it lies in a folder of its own, which
scripts/test.sh fills.
"""

import json
import os
import sys
from pathlib import Path

import pytest

from ..conftest import ROOT, TINY_MODELS, TINY_TRAINING

TRACKERS = Path(sys.prefix, "trackers")

pytestmark = pytest.mark.skipif(
    not (TRACKERS / "wandb").is_dir(), reason="no wandb beside the environment; bash scripts/test.sh puts it there"
)


@pytest.fixture(scope="module", autouse=True)
def trackers():
    """Its folder is looked through last: what the environment has is taken from there."""
    sys.path.append(str(TRACKERS))
    yield
    sys.path.remove(str(TRACKERS))


def records(folder):
    """(run ids, config values by name, list of logged lines) of all offline runs in a folder, oldest first."""
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    ids, config, lines = [], {}, []
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime):
        store = DataStore()
        store.open_for_scan(str(path))
        while (data := store.scan_data()) is not None:
            record = Record()
            record.ParseFromString(data)
            if record.HasField("run"):
                ids.append(record.run.run_id)
            config.update({item.key: json.loads(item.value_json) for item in record.run.config.update})
            config.update({item.key: json.loads(item.value_json) for item in record.config.update if item.key})
            if record.HasField("history"):
                items = record.history.item
                lines.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items})
    return ids, config, lines


@pytest.fixture(scope="module")
def offline(tmp_path_factory, tiny_data_dir, run_cli, trackers):
    """What a training of 2 updates wrote, and 2 more after a second start."""
    folder = tmp_path_factory.mktemp("wandb") / "run"
    words = [*TINY_TRAINING, *TINY_MODELS["mhmoe"], "--save-dir", folder, "--log-interval", 1, "--peak-tflops", 1]
    words += ["--wandb-project", "moe", "--log-format", "simple"]
    environment = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
    environment["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(TRACKERS)))
    for updates in (2, 4):
        result = run_cli("fairseq-train", tiny_data_dir, *words, "--max-update", updates, **environment)
        assert "Weights & Biases: run" in result.stdout and "the training goes on" not in result.stdout
    return folder, *records(folder)


def test_both_starts_are_one_run(offline):
    folder, ids, _, lines = offline
    assert set(ids) == {json.loads((folder / "wandb_run.json").read_text())["id"]}
    assert [line["num_updates"] for line in lines if "train_inner/loss" in line] == [1, 2, 3, 4]


def test_lines_have_loss_speed_utilisation_and_routing(offline):
    wanted = {"loss", "tokens_per_s", "mfu", "moe_gate_loss", "moe_dropped", "moe_l0_load_max"}
    *_, lines = offline
    assert {f"train_inner/{name}" for name in wanted} <= set(lines[0])


def test_no_path_leaves_the_machine(offline):
    folder, _, config, _ = offline
    assert config["task"]["data"] == "data" and config["checkpoint"]["save_dir"] == "run"
    [path, *_] = folder.glob("wandb/offline-run-*/run-*.wandb")
    assert str(folder).encode() not in path.read_bytes()
