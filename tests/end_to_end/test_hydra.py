"""fairseq-hydra-train with the committed configurations."""

import pytest
import torch

SMALL = [
    "task.tokens_per_sample=32",
    "dataset.batch_size=4",
    "optimization.max_update=2",
    "common.log_interval=1",
    "common.cpu=true",
    "model.decoder_layers=2",
]


@pytest.mark.parametrize("name", ["english_dense_tiny", "english_xmoe_tiny", "english_mhmoe_tiny"])
def test_a_committed_configuration_trains(run_cli, tiny_data_dir, tmp_path, name):
    result = run_cli(
        "fairseq-hydra-train", "--config-dir", "configs", "--config-name", name,
        f"task.data={tiny_data_dir}", f"checkpoint.save_dir={tmp_path}", *SMALL,
    )  # fmt: skip
    assert "num_updates=2" in result.stdout
    state = torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)
    assert state["cfg"]["model"]["decoder_embed_dim"] == 192
    experts = [key for key in state["model"] if ".experts." in key]
    assert bool(experts) == (name != "english_dense_tiny")
