"""A trainer of fairseq around a tiny model, in this process."""

import pytest
from fairseq import checkpoint_utils, options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.logging import metrics
from fairseq.trainer import Trainer

import fairseq_mhmoe  # noqa: F401  (installs the hooks)
from fairseq_mhmoe.moe.layer import MoELayer
from fairseq_mhmoe.moe.parallel import ExpertGroup

OPTIONS = """--task gpt --arch mhmoe_lm_tiny --criterion moe_cross_entropy --optimizer adam --lr 0.01 --cpu
    --decoder-embed-dim 24 --decoder-ffn-embed-dim 32 --decoder-layers 2 --decoder-attention-heads 2
    --moe-expert-count 4 --moe-ffn-dim 16 --tokens-per-sample 32 --batch-size 4 --num-workers 0
    --required-batch-size-multiple 1 --distributed-world-size 1 --ddp-backend legacy_ddp""".split()


@pytest.fixture
def make_trainer(tiny_data_dir, tmp_path, monkeypatch):
    """make_trainer("--clip-norm", "1", ..., place=(rank, P)): a trainer that saves into tmp_path / "run".

    With a place, experts are spread over P ranks of which this is one; there are no others to talk to.
    """
    monkeypatch.delattr(checkpoint_utils.save_checkpoint, "best", raising=False)

    def make(*words, place=None):
        parser = options.get_training_parser()
        words = [str(tiny_data_dir), *OPTIONS, "--save-dir", str(tmp_path / "run"), *map(str, words)]
        cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, words))
        metrics.reset()
        task = tasks.setup_task(cfg.task)
        model, criterion = task.build_model(cfg.model), task.build_criterion(cfg.criterion)
        if place is not None:
            spread(model, *place)
        return Trainer(cfg, task, model, criterion)

    return make


def spread(model, rank, size):
    """Replaces the MoE layers of a model by those of one rank, of which no other exists."""
    group = ExpertGroup(size=size, world_size=size, world_rank=rank)
    for block in model.decoder.layers:
        layer = getattr(block, "moe_layer", None)
        if layer is not None:
            block.moe_layer = MoELayer(layer.config, group)


@pytest.fixture
def train():
    """train(trainer, updates): start or continue from the last checkpoint, make updates, save -> epoch iterator."""

    def run(trainer, updates):
        _, epoch = checkpoint_utils.load_checkpoint(trainer.cfg.checkpoint, trainer)
        batches = epoch.next_epoch_itr(shuffle=True)
        for _ in range(updates):
            trainer.train_step([next(batches)])
        checkpoint_utils.save_checkpoint(trainer.cfg.checkpoint, trainer, epoch, val_loss=None)
        return epoch

    return run
