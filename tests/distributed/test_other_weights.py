"""A training that starts from another's weights (--finetune-from-model) while experts are spread over processes."""

import pytest
import torch

from fairseq_mhmoe.checkpoint import load_merged

from ..multimodal_training import multimodal_words
from .launcher import describe, program_ranks

SGD = dict(optimizer="sgd", lr=1e-30, disable_validation=True, max_update=1, ddp_backend="legacy_ddp")
POSITIONS = "beit3.encoder.embed_positions.A.weight"


@pytest.fixture(scope="module")
def train(multimodal_data_dir, tmp_path_factory):
    """train(processes, **options) -> (ranks that ended, last checkpoint) of an update that changes nothing."""

    def run(processes, **options):
        folder = tmp_path_factory.mktemp("run")
        words = multimodal_words(multimodal_data_dir, folder, **SGD, moe_modality="separate", **options)
        ended = program_ranks("fairseq-train", words, processes)
        last = folder / "checkpoint_last.pt"
        return ended, last

    return run


def test_each_process_takes_its_experts_of_another_model(train):
    ended, old = train(2)
    assert all(rank.status == 0 for rank in ended), describe(ended)
    before = load_merged(old)["model"]

    ended, new = train(2, image_size=48, seed=2, finetune_from_model=old)
    assert all(rank.status == 0 for rank in ended), describe(ended)
    assert "image positions interpolated from 4 x 4 to 6 x 6 patches" in ended[0].output
    after = load_merged(new)["model"]
    assert after.keys() == before.keys() and len(after[POSITIONS]) == 3 + 36
    assert any(".moe_layer.B.experts." in name for name in after)
    for name in after.keys() - {POSITIONS}:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-7)

    ended, _ = train(1, image_size=48, restore_file=old)
    assert all(rank.status != 0 for rank in ended)
    assert "embed_positions.A.weight" in "".join(rank.output for rank in ended)
