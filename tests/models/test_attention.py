import pytest
import torch
import torch.nn.functional as F

from fairseq_mhmoe.models.attention import (
    FIRST_CACHE_LENGTH,
    CausalSelfAttention,
    KeyValueCache,
    attention_mask,
    rotary_tables,
    rotate,
)


def test_mask_is_causal_and_hides_pads():
    pads = torch.tensor([[True, False, False, True]])
    expected = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0]]  # row 0 sees nothing real: itself
    assert attention_mask(pads, queries=4)[0, 0].int().tolist() == expected


def test_mask_of_the_last_queries_is_the_end_of_the_whole_mask():
    pads = torch.rand(3, 7) < 0.4
    assert torch.equal(attention_mask(pads, queries=2), attention_mask(pads, queries=7)[:, :, -2:])


def test_fully_padded_row_gives_no_nan_forward_or_backward():
    attention = CausalSelfAttention(16, 2, 2)
    x = torch.randn(2, 5, 16, requires_grad=True)
    pads = torch.tensor([[False] * 5, [True] * 5])
    attention(x, mask=attention_mask(pads, 5)).sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in attention.parameters())


def test_attention_equals_its_formula():
    torch.manual_seed(0)
    attention = CausalSelfAttention(8, 2, 2)
    x = torch.randn(1, 3, 8)
    q, k, v = (
        projection(x).view(3, 2, 4).transpose(0, 1)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    scores = (q @ k.transpose(1, 2) / 2).masked_fill(torch.ones(3, 3).triu(1).bool(), -torch.inf)
    expected = attention.out_proj((scores.softmax(-1) @ v).transpose(0, 1).reshape(1, 3, 8))
    torch.testing.assert_close(attention(x), expected)


def test_grouped_key_value_heads_equal_repeated_ones():
    torch.manual_seed(0)
    grouped, full = CausalSelfAttention(16, 4, 2), CausalSelfAttention(16, 4, 4)
    state = grouped.state_dict()
    for name in ("k_proj", "v_proj"):
        for part in ("weight", "bias"):
            heads = state[f"{name}.{part}"].unflatten(0, (2, 4))
            state[f"{name}.{part}"] = heads.repeat_interleave(2, dim=0).flatten(0, 1)
    full.load_state_dict(state)
    x = torch.randn(2, 6, 16)
    torch.testing.assert_close(grouped(x), full(x))


def test_dropout_only_in_training():
    attention = CausalSelfAttention(16, 2, 2, dropout=0.5)
    x = torch.randn(1, 8, 16)
    assert not torch.equal(attention(x), attention(x))
    attention.eval()
    assert torch.equal(attention(x), attention(x))


def test_rotation_of_known_pairs():
    # head width 4, position 1: pair (0, 2) turns by 1, pair (1, 3) by 10000^-0.5 = 0.01
    x = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 1, 4)
    turned = rotate(x, rotary_tables(1, 1, 4, x.device)).flatten()
    expected = torch.tensor([1.0, 0.01])
    torch.testing.assert_close(turned, torch.cat([expected.cos(), expected.sin()]))


def test_rotary_scores_depend_on_distance_only():
    q, k = torch.randn(2, 1, 1, 1, 8)

    def score(position_q, position_k):
        here, there = (rotary_tables(p, 1, 8, q.device) for p in (position_q, position_k))
        return (rotate(q, here) * rotate(k, there)).sum()

    torch.testing.assert_close(score(5, 2), score(105, 102), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rotation_keeps_half_precision(dtype):
    x = torch.randn(1, 2, 3, 8, dtype=dtype)
    assert rotate(x, rotary_tables(1000, 3, 8, x.device)).dtype == dtype


def test_cache_grows_geometrically_and_keeps_what_it_holds():
    cache = KeyValueCache()
    keys, values = torch.randn(2, 2, 3, 3 * FIRST_CACHE_LENGTH, 4)
    capacities = set()
    for t in range(keys.shape[2]):
        got_keys, got_values = cache.append(keys[:, :, t : t + 1], values[:, :, t : t + 1])
        capacities.add(cache.buffer.shape[3])
    assert capacities == {FIRST_CACHE_LENGTH, 2 * FIRST_CACHE_LENGTH, 4 * FIRST_CACHE_LENGTH}
    assert torch.equal(got_keys, keys) and torch.equal(got_values, values)


def test_cache_takes_a_long_prefill_at_once():
    cache = KeyValueCache()
    keys = torch.randn(1, 1, 5 * FIRST_CACHE_LENGTH, 4)
    assert torch.equal(cache.append(keys, keys)[0], keys)


def test_cache_reorder_copies_rows():
    cache = KeyValueCache()
    keys = torch.randn(3, 1, 2, 4)
    cache.append(keys, keys)
    order = torch.tensor([2, 2, 0, 1])
    cache.reorder(order)
    more = torch.randn(4, 1, 1, 4)
    assert torch.equal(cache.append(more, more)[1], torch.cat([keys[order], more], dim=2))


def test_no_mask_means_causal_without_a_mask(monkeypatch):
    seen = []
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda q, k, v, **kw: seen.append((kw["attn_mask"], kw["is_causal"])) or q
    )
    CausalSelfAttention(8, 2, 2)(torch.randn(1, 3, 8))
    assert seen == [(None, True)]
