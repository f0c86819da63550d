"""A training stopped and continued on the same number of ranks is the training that was never stopped, bit for bit."""

import pytest
import torch

from fairseq_mhmoe.checkpoint.reading import load_merged, reference_of

from .watched_training import digest, numbers, train_watched

# several batches per update, a stop within an epoch and between two updates of the average
SETTINGS = dict(
    optimizer="adam",
    lr=0.01,
    dropout=0.2,
    update_freq=2,
    clip_norm=0.5,
    lr_scheduler="polynomial_decay",
    warmup_updates=2,
    total_num_update=6,
    save_interval_updates=3,
    store_ema=True,
    ema_decay=0.9,
    ema_update_freq=2,
)
SPARE = dict(weight_decay=0.3, no_weight_decay_on="norm,bias,router")
# (ranks, more options)
CASES = {
    "float32": (2, SPARE),
    "bfloat16": (2, {"bf16": True, "ema_fp32": True, **SPARE}),
    "memory-efficient bfloat16": (2, {"memory_efficient_bf16": True, "bf16": True}),
    "two copies of the experts": (4, {"moe_expert_parallel_size": 2}),
}
SLOW = ("memory-efficient bfloat16", "two copies of the experts")


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in CASES]
)
def straight_and_resumed(request, tiny_data_dir, tmp_path_factory):
    """(state, numbers) of 6 updates at once, and of 3 and 3 more, on the same ranks."""
    ranks, options = CASES[request.param]
    results = []
    for name, ends in (("straight", [6]), ("resumed", [3, 6])):
        folder = tmp_path_factory.mktemp(name)
        for end in ends:
            train_watched(
                tiny_data_dir, folder, ranks, watch={"numbers": str(folder / "numbers")}, max_update=end,
                **SETTINGS, **options,
            )  # fmt: skip
        assert len(list(folder.glob("experts/u00000006-*/experts-*.pt"))) == 2
        results.append((load_merged(folder / "checkpoint_last.pt"), numbers(folder / "numbers")))
    return results


def test_the_state_is_identical(straight_and_resumed):
    (straight, _), (resumed, _) = straight_and_resumed
    kept = ("model", "last_optimizer_state", "optimizer_history", "mhmoe_parameters")
    expected = {key: straight[key] for key in kept}
    expected["optimizer_history"] = expected["optimizer_history"][-1:]
    found = {key: resumed[key] for key in kept}
    found["optimizer_history"] = found["optimizer_history"][-1:]
    assert digest(found) == digest(expected)


def test_averages_and_the_position_in_the_data_are_identical(straight_and_resumed):
    (straight, _), (resumed, _) = straight_and_resumed
    for key in ("ema", "ema_update_freq_counter", "train_iterator", "val_loss", "best"):
        assert digest(resumed["extra_state"][key]) == digest(straight["extra_state"][key]), key
    assert digest(resumed["extra_state"].get("ema_fp32_params")) == digest(
        straight["extra_state"].get("ema_fp32_params")
    )


def test_every_update_has_the_same_loss_and_gradient_norm(straight_and_resumed):
    (_, straight), (_, resumed) = straight_and_resumed
    assert list(straight) == [1, 2, 3, 4, 5, 6]
    assert resumed == straight


# One update takes 12 batches, whatever the number of ranks.
BATCHES = 12
CHAIN = ((1, 2), (2, 4), (4, 6), (1, 8), (3, 10))  # (ranks, last update)
OPTIMIZERS = {
    "sgd": dict(optimizer="sgd", momentum=0.9, lr=0.2, **SPARE),
    "adam": dict(optimizer="adam", lr=0.003, store_ema=True, ema_decay=0.9, **SPARE),
}


@pytest.fixture(scope="module", params=["sgd", pytest.param("adam", marks=pytest.mark.slow)])
def one_rank_and_chain(request, tiny_data_dir, tmp_path_factory):
    """(state, numbers) of 10 updates on one rank, and on 1, 2, 4, 1 and 3 ranks in turn."""
    options = dict(
        moe_expert_count=BATCHES, batch_size=1, clip_norm=1.0, lr_scheduler="inverse_sqrt", warmup_updates=3,
        disable_validation=True, **OPTIMIZERS[request.param],
    )  # fmt: skip
    results = []
    for name, stages in (("one", [(1, 10)]), ("chain", CHAIN)):
        folder = tmp_path_factory.mktemp(name)
        for ranks, end in stages:
            watch = {"numbers": str(folder / "numbers")}
            train_watched(
                tiny_data_dir, folder, ranks, watch=watch, update_freq=BATCHES // ranks, max_update=end, **options
            )
            reference = reference_of(folder / "checkpoint_last.pt")
            assert (reference is None) == (ranks == 1)
            shards = folder.glob("experts/*/experts-*.pt")
            assert len(list(shards)) == (ranks if ranks > 1 else 0)
        results.append((load_merged(folder / "checkpoint_last.pt"), numbers(folder / "numbers")))
    return results


def test_any_number_of_ranks_continues_any_other(one_rank_and_chain):
    (_, one), (_, chain) = one_rank_and_chain
    assert list(chain) == list(one) and len(one) == 10
    for update, (loss, norm) in one.items():
        assert chain[update] == (pytest.approx(loss, abs=1e-4), pytest.approx(norm, rel=1e-4)), update


def test_weights_and_moments_pass_through_all_of_them(one_rank_and_chain):
    (one, _), (chain, _) = one_rank_and_chain
    assert list(chain["model"]) == list(one["model"])
    for name, weights in one["model"].items():
        torch.testing.assert_close(chain["model"][name], weights, rtol=1e-3, atol=1e-4)
    assert chain["extra_state"]["train_iterator"] == {
        **one["extra_state"]["train_iterator"], "iterations_in_epoch": 10 * BATCHES // 3
    }  # fmt: skip
    assert one["extra_state"]["train_iterator"]["iterations_in_epoch"] == 10 * BATCHES
    expected = one["last_optimizer_state"]["state"]
    assert chain["last_optimizer_state"]["state"].keys() == expected.keys()
    for index, moments in expected.items():
        for key, moment in moments.items():
            found = chain["last_optimizer_state"]["state"][index][key]
            torch.testing.assert_close(found, moment, rtol=1e-3, atol=1e-5)
