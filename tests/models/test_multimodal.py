"""What the multimodal model gives for streams of images, texts and pairs."""

import pytest
import torch

DENSE = {}
EXPERTS = dict(moe_freq=2, moe_expert_count=4, moe_top_k=2, use_xmoe=True, mhmoe_heads_number=2)
SEPARATE = EXPERTS | dict(moe_modality="separate")
KINDS = pytest.mark.parametrize("options", [DENSE, EXPERTS, SEPARATE], ids=["dense", "shared", "separate"])

HEADS = {
    "image": {"kind": "codes", "classes": 16},
    "text": {"kind": "text"},
    "answers": {"kind": "classes", "classes": 5},
    "statement": {"kind": "classes", "classes": 2, "inputs": 2},
}


def part(stream, *names):
    return {name: value for name, value in stream.items() if name in names}


@pytest.fixture
def step(make_stream):
    """Streams of one step: image, text, pair; the texts have pads."""
    image = part(make_stream(3, seed=1), "images", "image_mask", "image_positions")
    text = part(make_stream(2, 9, (0, 4), seed=2), "tokens", "text_positions")
    return {"image": image, "text": text, "pair": make_stream(2, 7, (3, 0), seed=3)}


def flat(out):
    return {f"{stream}.{name}": value for stream, logits in out.items() for name, value in logits.items()}


def close(a, b):
    return a.keys() == b.keys() and all(torch.allclose(a[name], b[name], atol=1e-5) for name in a)


@KINDS
def test_one_call_for_all_streams_gives_what_each_alone_does(multimodal, step, options):
    model = multimodal(**options).eval()
    together, extra = model(**step)
    alone = {}
    for name, stream in step.items():
        alone |= model(**{name: stream})[0]
    assert close(flat(together), flat(alone))
    sets = {0: 0, 2: 2 if "moe_modality" in options else 1}[options.get("moe_freq", 0)]
    assert [len(values) for values in extra.values()] == [sets] * 4


def test_logits_are_those_of_the_positions(multimodal, step):
    model = multimodal().eval()
    masked, _ = model(**step)
    for stream in step.values():
        if "tokens" in stream:
            stream["text_positions"] = None
    whole, _ = model(**step)
    assert masked["image"]["image"].shape == (step["image"]["image_mask"].sum(), 16)
    assert whole["text"]["text"].shape == (2, 9, 101)
    for name, length in (("text", 9), ("pair", 7)):
        rows = whole[name]["text"][:, 1]  # positions 1 and L + 1
        assert torch.allclose(masked[name]["text"], rows, atol=1e-5), (name, length)
    step["pair"]["image_positions"] = None
    assert list(model(pair=step["pair"])[0]["pair"]) == ["text"]


@KINDS
def test_pads_change_nothing(multimodal, step, options):
    model = multimodal(**options).eval()
    before, extra = model(**step)
    for name, length in (("text", 9), ("pair", 7)):
        tokens = step[name]["tokens"]
        step[name]["tokens"] = torch.cat((tokens, torch.ones_like(tokens[:, :4])), dim=1)
        step[name]["text_positions"] = torch.arange(1, 2 * (length + 4), length + 4)
    after, extra_after = model(**step)
    assert close(flat(before), flat(after))
    for name in ("l_aux", "moe_stats"):
        for a, b in zip(extra[name], extra_after[name], strict=True):
            assert torch.allclose(a, b, atol=1e-4)


def test_a_row_of_pads_alone_is_no_number_too_many(multimodal, make_stream):
    stream = part(make_stream(2, 6, (0, 6)), "tokens", "text_positions")
    out, _ = multimodal(**EXPERTS)(text=stream)
    out["text"]["text"].sum().backward()
    assert torch.isfinite(out["text"]["text"]).all()


@pytest.mark.parametrize("options", [EXPERTS, SEPARATE], ids=["shared", "separate"])
def test_a_process_without_data_routes_nothing_and_takes_part(multimodal, step, options):
    model = multimodal(**options)
    blank = {name: {key: value[:1] for key, value in stream.items()} for name, stream in step.items()}
    for stream in blank.values():
        stream |= {"blank": True}
        stream |= {key: torch.empty(0, dtype=torch.int64) for key in stream if key.endswith("_positions")}
        if "tokens" in stream:
            stream["tokens"] = torch.ones_like(stream["tokens"])
    out, extra = model(**blank)
    assert all(len(logits) == 0 for logits in flat(out).values())
    assert all(not stats.any() for stats in extra["moe_stats"])
    (sum(logits.sum() for logits in flat(out).values()) + sum(extra["l_aux"]) + sum(extra["z_loss"])).backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
    data, _ = model(image=step["image"])
    beside, extra = model(image=step["image"], text=blank["text"], pair=blank["pair"])
    assert torch.allclose(data["image"]["image"], beside["image"]["image"], atol=1e-5)
    assert len(extra["moe_stats"]) == (2 if options is SEPARATE else 1)


def test_captions_do_not_look_ahead_and_images_not_at_words(multimodal, make_stream):
    model, stream = multimodal().eval(), make_stream(2, 7)
    stream |= {"causal": True, "text_positions": None}
    before = model(pair=stream)[0]["pair"]
    stream["tokens"] = stream["tokens"].clone()
    stream["tokens"][:, 4] = 9
    after = model(pair=stream)[0]["pair"]
    assert torch.allclose(before["image"], after["image"], atol=1e-6)
    assert torch.allclose(before["text"][:, :4], after["text"][:, :4], atol=1e-6)
    assert not torch.allclose(before["text"][:, 5:], after["text"][:, 5:], atol=1e-4)


def test_masked_patches_are_not_seen(multimodal, make_stream):
    model, stream = multimodal().eval(), part(make_stream(1), "images", "image_mask", "image_positions")
    before = model(image=stream)[0]["image"]["image"]
    stream["images"] = stream["images"].clone()
    stream["images"][:, :, :8, :8] = 0  # the first patch, always masked
    assert torch.equal(before, model(image=stream)[0]["image"]["image"])
    stream["image_mask"] = torch.zeros_like(stream["image_mask"])
    assert not torch.allclose(before, model(image=stream)[0]["image"]["image"])


def test_classes_read_the_image_and_its_text(multimodal, multimodal_task, make_stream):
    model = multimodal(task=multimodal_task(HEADS)).eval()
    stream = part(make_stream(4, 6, (0, 1, 2, 3)), "images", "tokens")
    answers, _ = model(pair=stream, head="answers")
    assert answers.shape == (4, 5)
    stream["tokens"] = stream["tokens"].flip(0)
    assert not torch.allclose(answers, model(pair=stream, head="answers")[0])


def test_two_rows_make_one_example(multimodal, multimodal_task, make_stream):
    model = multimodal(task=multimodal_task(HEADS)).eval()
    for linear in (model.heads["statement"].classifier[0], model.heads["statement"].classifier[3]):
        torch.nn.init.normal_(linear.weight, std=0.1)  # at first they are next to nothing
    stream = part(make_stream(4, 6), "images", "tokens")
    both, _ = model(pair=stream, head="statement")
    second, _ = model(pair={name: value[2:] for name, value in stream.items()}, head="statement")
    assert both.shape == (2, 2) and torch.allclose(both[1:], second, atol=1e-6)
    swapped = {name: value[[1, 0, 2, 3]] for name, value in stream.items()}
    assert not torch.allclose(both[0], model(pair=swapped, head="statement")[0][0])
    with pytest.raises(ValueError, match="3 rows: expected a multiple of the head's 2"):
        model(pair={name: value[:3] for name, value in stream.items()}, head="statement")
    with pytest.raises(ValueError, match="without a text"):
        model(pair=part(stream, "images"), head="statement")


def test_the_head_of_two_rows_is_that_of_beit3(multimodal, multimodal_task, make_stream):
    """CLS and the first symbol of both rows side by side, a norm, then two layers; no pooler."""
    model = multimodal(task=multimodal_task(HEADS)).eval()
    stream, head = part(make_stream(4, 6), "images", "tokens"), model.heads["statement"]
    (image, text), width = model.extract_features(pair=stream)[0]["pair"], model.beit3.text_embed.embedding_dim
    rows = torch.cat([image[:, 0], text[:, 0]], dim=1)
    joint = torch.nn.functional.layer_norm(torch.cat([rows[0::2], rows[1::2]], dim=1), [4 * width])
    first, last = head.classifier[0], head.classifier[3]
    assert first.weight.shape == (2 * width, 4 * width) and 0 < first.weight.abs().max() < 1e-3
    hidden = torch.nn.functional.layer_norm(joint @ first.weight.T, [2 * width])
    expected = torch.nn.functional.gelu(hidden) @ last.weight.T
    assert torch.allclose(model(pair=stream, head="statement")[0], expected, rtol=1e-3, atol=1e-9)


@KINDS
def test_recomputation_changes_no_gradient(multimodal, step, options):
    gradients = []
    for recompute in (False, True):
        model = multimodal(**options, checkpoint_activations=recompute, dropout=0.1, drop_path_rate=0.2)
        torch.manual_seed(4)
        out, extra = model(**step)
        loss = sum(value.pow(2).mean() for value in flat(out).values()) + sum(extra["l_aux"]) + sum(extra["z_loss"])
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, grad in gradients[0].items():
        assert torch.allclose(grad, gradients[1][name], atol=1e-6), name


def test_every_weight_of_a_step_with_all_streams_learns(multimodal, step):
    model = multimodal(**SEPARATE)
    out, extra = model(**step)
    (sum(value.pow(2).mean() for value in flat(out).values()) + sum(extra["l_aux"])).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(multimodal, step, dtype):
    model = multimodal(**EXPERTS).eval()
    exact = flat(model(**step)[0])
    rounded = flat(model.to(dtype)(**step)[0])
    for name, value in exact.items():
        assert rounded[name].dtype == dtype
        assert torch.allclose(value, rounded[name].float(), atol=0.05), name


@pytest.mark.parametrize(
    "given, message",
    [
        ({}, "nothing to look at"),
        ({"pair": {}}, "expected images, tokens or both"),
        ({"image": {"images": torch.zeros(1, 3, 24, 24)}}, "torch.float32.*expected uint8"),
        ({"image": {"images": torch.zeros(1, 3, 32, 32, dtype=torch.uint8)}}, "32, 32.*expected uint8 .rows, 3, 24"),
        ({"text": {"tokens": torch.full((1, 21), 5)}}, "21 tokens: the model takes 20"),
        ({"text": {"tokens": torch.full((1, 4), 5)}, "head": "answers"}, "one stream, with images"),
        ({"image": {"images": torch.zeros(1, 3, 24, 24, dtype=torch.uint8)}, "head": "other"}, "no head 'other'.*text"),
    ],
)
def test_what_the_model_refuses(multimodal, multimodal_task, given, message):
    with pytest.raises(ValueError, match=message):
        multimodal(task=multimodal_task(HEADS))(**given)


@pytest.mark.parametrize(
    "heads, sizes, message",
    [
        ({"image": {"kind": "text"}, "answers": {"kind": "codes", "classes": 3}}, {}, "head 'answers' of kind 'codes'"),
        ({"image": {"kind": "classes", "classes": 3}}, {}, "head 'image' of kind 'classes'"),
        (None, dict(image_size=25), "--image-size 25: expected a multiple of --patch-size 8"),
    ],
)
def test_what_can_not_be_built(multimodal, multimodal_task, heads, sizes, message):
    with pytest.raises(ValueError, match=message):
        multimodal(task=multimodal_task(heads, **sizes))


def test_tokens_of_a_step_are_those_that_the_encoder_reads(multimodal, step):
    model = multimodal()
    patches = step["image"]["image_mask"].shape[1]
    tokens, images = model.count_tokens(**step, head=None)
    assert images == 3 + 2
    assert int(tokens) == 5 * (1 + patches) + (9 + 9 - 4) + (7 - 3 + 7)  # without pads
    assert model.count_tokens(pair={**step["pair"], "blank": True}) == (0, 0)
