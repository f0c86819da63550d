"""--no-weight-decay-on spares what it names, and leaves everything else as it was."""

from types import SimpleNamespace

import pytest
import torch

from fairseq_mhmoe.integration.weight_decay import SPARED, check_settings, names_of_kinds, parted, parts_of

DECAY = ("--weight-decay", "0.5", "--dropout", "0.1")
SPARE = ("--no-weight-decay-on", "norm,bias,router")
OPTIMIZERS = {
    "adam": (),
    "sgd fp16": ("--optimizer", "sgd", "--fp16", "--fp16-init-scale", "4"),
    "adam memory-efficient fp16": ("--memory-efficient-fp16", "--fp16-init-scale", "4"),
}


def weights(trainer):
    """What the optimizer steps on, by name."""
    own = {name: parameter.data for name, parameter in trainer.get_model().named_parameters()}
    if hasattr(trainer.optimizer, "fp32_params"):
        return dict(zip(own, (copy.data for copy in trainer.optimizer.fp32_params), strict=True))
    return own


@pytest.fixture
def start(make_trainer):
    """start(options..., updates=1): a new training of so many updates, with the same seed always."""

    def run(*options, updates=1):
        torch.manual_seed(1)
        trainer = make_trainer(*options)
        batches = trainer.get_train_iterator(epoch=1).next_epoch_itr(shuffle=True)
        for _ in range(updates):
            trainer.train_step([next(batches)])
        return trainer

    return run


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_spared_parameters_do_not_decay_and_others_do(start, kind):
    trainers = [start(*OPTIMIZERS[kind], *DECAY, *options) for options in ((), ("--weight-decay", "0"), SPARE)]
    decayed, kept, some = map(weights, trainers)
    spared = names_of_kinds(trainers[-1], {"norm", "bias", "router"})
    assert 0 < len(spared) < len(some)
    for name, found in some.items():
        assert torch.equal(found, (kept if name in spared else decayed)[name]), name
    assert all(not torch.equal(decayed[name], kept[name]) for name in some if name.endswith(("w_in", "_proj.weight")))
    assert any(not torch.equal(decayed[name], kept[name]) for name in spared)


def test_without_weight_decay_nothing_changes(start, caplog):
    stock, ours = (weights(start("--weight-decay", "0", *options, updates=3)) for options in ((), SPARE))
    assert all(torch.equal(stock[name], found) for name, found in ours.items())
    assert "--no-weight-decay-on has no effect: --weight-decay is 0" in caplog.text


def test_a_training_that_continues_is_the_one_that_never_stopped(start, make_trainer, train):
    # float32 and bfloat16 in several processes: tests/distributed/test_resume.py
    options = (*OPTIMIZERS["adam memory-efficient fp16"], *DECAY, *SPARE)
    expected = weights(start(*options, updates=4))
    torch.manual_seed(1)
    train(make_trainer(*options), 2)
    resumed = make_trainer(*options)
    train(resumed, 2)
    assert resumed.get_num_updates() == 4
    assert all(torch.equal(weights(resumed)[name], expected[name]) for name in expected)


@pytest.mark.parametrize(("before", "after"), [((), SPARE), (SPARE, ())])
def test_a_checkpoint_continues_with_the_option_or_without(make_trainer, train, before, after):
    train(make_trainer(*DECAY, *before), 2)
    again = make_trainer(*DECAY, *after)
    train(again, 1)
    (group,) = again.optimizer.optimizer.param_groups
    assert group["weight_decay"] == 0.5 and again.get_num_updates() == 3
    assert hasattr(again.optimizer.optimizer, SPARED) == bool(after)


def test_a_checkpoint_has_the_form_that_it_has_without(start):
    stock, ours = (start(*DECAY, *options).optimizer for options in ((), SPARE))
    assert (hasattr(stock.optimizer, SPARED), hasattr(ours.optimizer, SPARED)) == (False, True)
    stock, ours = stock.state_dict(), ours.state_dict()
    assert ours["param_groups"] == stock["param_groups"]
    assert ours["state"].keys() == stock["state"].keys()


@pytest.fixture
def optimizer():
    """Two groups of two parameters, weight decay 0.5 and 0.25."""
    groups = [{"params": [torch.nn.Parameter(torch.ones(1)) for _ in range(2)], "weight_decay": w} for w in (0.5, 0.25)]
    return torch.optim.SGD(groups, lr=0.1)


def test_a_group_is_parted_for_the_time_of_a_step(optimizer):
    groups = optimizer.param_groups
    first, second = (group["params"] for group in groups)
    with parted(optimizer, {id(first[1]), *map(id, second)}, parts_of, "weight_decay"):
        inside = [(group["weight_decay"], *map(id, group["params"])) for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr_old"] = group["lr"]  # as Nesterov's optimizer notes it
    assert inside == [(0.5, id(first[0])), (0, id(first[1])), (0, *map(id, second))]
    assert optimizer.param_groups is groups
    assert [(g["weight_decay"], g["lr_old"], len(g["params"])) for g in groups] == [(0.5, 0.1, 2), (0.25, 0.1, 2)]


def test_an_error_in_a_step_leaves_the_groups_whole(optimizer):
    groups = optimizer.param_groups
    parts = parted(optimizer, {id(groups[0]["params"][0])}, parts_of, "weight_decay")
    with pytest.raises(RuntimeError, match="out of memory"), parts:
        assert len(optimizer.param_groups) == 3
        raise RuntimeError("out of memory")
    assert optimizer.param_groups is groups and len(groups[0]["params"]) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"zero_sharding": "os"}, "--zero-sharding os"),
        ({"ddp_backend": "fully_sharded"}, "--ddp-backend fully_sharded"),
        ({"use_bmuf": True}, "--use-bmuf"),
    ],
)
def test_what_hides_single_parameters_is_refused(changes, words):
    settings = SimpleNamespace(**{"zero_sharding": "none", "ddp_backend": "legacy_ddp", "use_bmuf": False, **changes})
    model = SimpleNamespace(no_weight_decay_on="norm")
    with pytest.raises(ValueError, match=f"--no-weight-decay-on norm can't be used with {words}; leave out one"):
        check_settings(SimpleNamespace(model=model, distributed_training=settings, optimization=settings))


def test_an_optimizer_without_weight_decay_is_refused(make_trainer, monkeypatch):
    trainer = make_trainer(*SPARE)
    build = torch.optim.SGD

    def without(params, **_):
        optimizer = build(params, lr=0.1)
        for group in optimizer.param_groups:
            del group["weight_decay"]
        return optimizer

    monkeypatch.setattr("fairseq.optim.adam.Adam", without)
    with pytest.raises(ValueError, match="--optimizer adam has no weight decay for single parameters"):
        trainer._build_optimizer()


def test_a_kind_that_the_model_lacks_warns(make_trainer, caplog):
    trainer = make_trainer("--moe-expert-count", "0", "--moe-freq", "0", *DECAY, *SPARE)
    trainer._build_optimizer()
    assert "--no-weight-decay-on router has no effect: the model trains no parameters of that kind" in caplog.text
