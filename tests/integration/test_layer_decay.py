"""--layer-lr-decay gives each layer its learning rate, and leaves everything else as it was."""

from types import SimpleNamespace

import pytest
import torch

from fairseq_mhmoe.integration import layer_decay
from fairseq_mhmoe.integration.layer_decay import SCALES, check_settings, layer_scales, parted, parts_of

DECAY = 0.5
OPTIMIZERS = {
    "sgd": ("--optimizer", "sgd"),
    "sgd fp16": ("--optimizer", "sgd", "--fp16", "--fp16-init-scale", "4"),
    "adam bf16": ("--bf16",),
}
SCHEDULE = ("--lr-scheduler", "polynomial_decay", "--warmup-updates", "2", "--total-num-update", "9")
BOTH = ("--weight-decay", "0.5", "--no-weight-decay-on", "norm,bias,router")


def weights(trainer):
    """What the optimizer steps on, by name; own copies."""
    own = {name: parameter.data for name, parameter in trainer.get_model().named_parameters()}
    if hasattr(trainer.optimizer, "fp32_params"):
        copies = (copy.data for copy in trainer.optimizer.fp32_params)
        return {name: copy.clone() for name, copy in zip(own, copies, strict=True)}
    return {name: value.clone() for name, value in own.items()}


@pytest.fixture
def start(make_trainer, monkeypatch):
    """start(options..., decay=0.5): a new trainer with the option, which task gpt does not have itself."""

    def make(*options, decay=DECAY):
        monkeypatch.setattr(layer_decay, "settings_of", lambda cfg: (decay, 1.0))
        torch.manual_seed(1)
        trainer = make_trainer("--dropout", "0", *options)
        trainer._build_optimizer()
        return trainer

    return make


def expected_scale(name):
    """Of the two-layer model: embeddings 1/8, layers 1/4 and 1/2, what is above them 1."""
    for part, scale in (("layers.0.", 0.25), ("layers.1.", 0.5), ("embed", 0.125)):
        if part in name:
            return scale
    return 1.0


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_an_update_is_the_stock_one_times_the_factor_of_its_layer(start, kind):
    changes, optimizers = [], []
    for decay in (1.0, DECAY):
        trainer = start(*OPTIMIZERS[kind], decay=decay)
        before = weights(trainer)
        batches = trainer.get_train_iterator(epoch=1).next_epoch_itr(shuffle=True)
        trainer.train_step([next(batches)])
        after = weights(trainer)
        changes.append({name: after[name].float() - before[name].float() for name in after})
        optimizers.append(trainer.optimizer)
    stock, ours = changes
    for name, change in stock.items():
        torch.testing.assert_close(ours[name], change * expected_scale(name), rtol=1e-3, atol=1e-7)
    assert {expected_scale(name) for name in stock} == {0.125, 0.25, 0.5, 1.0}
    # a checkpoint has the form that it has without
    stock, ours = optimizers
    assert (hasattr(stock.optimizer, SCALES), hasattr(ours.optimizer, SCALES)) == (False, True)
    assert stock.state_dict()["param_groups"] == ours.state_dict()["param_groups"]


def learning_rates(trainer, monkeypatch, updates):
    """Of each update: {scale in use: learning rate of its group}, as the optimizer's step sees them."""
    seen = []
    optimizer = trainer.optimizer.optimizer
    original = optimizer.step

    def step(*args, **kwargs):
        names = {id(p): name for name, p in trainer.get_model().named_parameters()}
        seen.append({expected_scale(names[id(g["params"][0])]): g["lr"] for g in optimizer.param_groups})
        return original(*args, **kwargs)

    monkeypatch.setattr(optimizer, "step", step)
    batches = trainer.get_train_iterator(epoch=1).next_epoch_itr(shuffle=True)
    for _ in range(updates):
        trainer.train_step([next(batches)])
    return seen


def test_every_rate_follows_the_scheduler(start, monkeypatch):
    rates = learning_rates(start(*SCHEDULE), monkeypatch, 4)
    base = [step[1.0] for step in rates]
    assert base[0] < base[1] and base[3] < base[2]  # warmed up, then lower again
    for step in rates:
        assert step == pytest.approx({scale: scale * step[1.0] for scale in (0.125, 0.25, 0.5, 1.0)})


def test_weight_decay_and_layer_decay_work_together(start):
    plain, both = start("--weight-decay", "0.5"), start(*BOTH)
    for trainer in (plain, both):
        batches = trainer.get_train_iterator(epoch=1).next_epoch_itr(shuffle=True)
        trainer.train_step([next(batches)])
    plain, both = weights(plain), weights(both)
    differs = {name for name in plain if not torch.equal(plain[name], both[name])}
    assert differs and all("norm" in name or "bias" in name or "moe" in name for name in differs)


@pytest.fixture
def optimizer():
    """One group of two parameters, with learning rate 0.1."""
    return torch.optim.SGD([torch.nn.Parameter(torch.ones(1)) for _ in range(2)], lr=0.1)


def test_an_error_in_a_step_leaves_the_groups_whole(optimizer):
    (group,) = optimizer.param_groups
    first, second = group["params"]
    parts = parted(optimizer, {id(first): 0.5, id(second): 1.0}, parts_of, "lr")
    with pytest.raises(RuntimeError, match="out of memory"), parts:
        assert [part["lr"] for part in optimizer.param_groups] == [0.05, 0.1]
        raise RuntimeError("out of memory")
    assert optimizer.param_groups == [group] and group["lr"] == 0.1 and len(group["params"]) == 2


NAMES = {
    "beit3.text_embed.weight": 0.5**4,
    "beit3.vision_embed.cls_token": 0.5**4,
    "beit3.encoder.embed_positions.A.weight": 0.5**4,
    "beit3.encoder.layers.0.moe_layer.router.expert_embeddings": 0.5**3,
    "beit3.encoder.layers.2.moe_layer.head.weight": 0.5,
    "beit3.encoder.layer_norm.A.weight": 1.0,
    "heads.answers.classifier.3.weight": 20.0,
}


def test_factors_go_by_the_names_of_a_multimodal_model():
    assert layer_scales(list(NAMES), 0.5, 20.0) == NAMES


def test_what_has_no_effect_is_refused():
    with pytest.raises(ValueError, match="--layer-lr-decay 0.5: the model has no layers"):
        layer_scales(["embed.weight"], 0.5, 1.0)
    with pytest.raises(ValueError, match="--head-lr-scale 20: the model has no heads"):
        layer_scales(["layers.0.weight"], 0.5, 20)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"zero_sharding": "os"}, "can't be used with --zero-sharding os"),
        ({"use_bmuf": True}, "can't be used with --use-bmuf"),
        ({"_name": "nag"}, "works with --optimizer adam or sgd, not with nag"),
    ],
)
def test_settings_without_single_learning_rates_are_refused(changes, words):
    defaults = {"zero_sharding": "none", "ddp_backend": "legacy_ddp", "use_bmuf": False, "_name": "adam"}
    settings = SimpleNamespace(**{**defaults, **changes})
    task = SimpleNamespace(layer_lr_decay=0.9, head_lr_scale=1.0)
    cfg = SimpleNamespace(task=task, distributed_training=settings, optimization=settings, optimizer=settings)
    with pytest.raises(ValueError, match=f"--layer-lr-decay 0.9 {words}"):
        check_settings(cfg)
