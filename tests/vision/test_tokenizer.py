"""The interface of visual tokenizers: shapes, the nearest code, precision, fingerprints, refusals."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairseq_mhmoe.vision import PatchVQ, PatchVQConfig, tokenizer

from .pictures import draw


@pytest.fixture(scope="module")
def untrained():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return PatchVQ(PatchVQConfig(patch_size=4, num_codes=11, width=16)).freeze()


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
def test_codes_are_one_number_a_patch(untrained, count, rows, columns):
    images = torch.randint(0, 256, (count, 3, 4 * rows, 4 * columns)).byte()
    codes = untrained(images)
    assert codes.shape == (count, rows * columns) and codes.dtype == torch.int64
    assert 0 <= codes.min() and codes.max() < 11


def test_codes_stand_row_by_row():
    # without blocks a patch's code depends on its own pixels alone
    with torch.random.fork_rng():
        torch.manual_seed(0)
        alone = PatchVQ(PatchVQConfig(patch_size=4, num_codes=50, width=16, encoder_blocks=0)).freeze()
    images = torch.randint(0, 256, (1, 3, 8, 12), generator=torch.Generator().manual_seed(0)).byte()
    parts = [alone(images[:, :, top : top + 4, left : left + 4]) for top in (0, 4) for left in (0, 4, 8)]
    assert torch.equal(alone(images), torch.cat(parts, dim=1))
    assert len(set(alone(images)[0].tolist())) > 2


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 5))
def test_the_nearest_code_is_nearest(rows, codes, seed):
    generator = torch.Generator().manual_seed(seed)
    features, vectors = torch.randn(rows, 3, generator=generator), torch.randn(codes, 3, generator=generator)
    distances = torch.cdist(features.double(), vectors.double())
    found = tokenizer.nearest_code(features, vectors)
    chosen = distances.gather(1, found[:, None])[:, 0]
    assert torch.allclose(chosen, distances.min(dim=1).values, atol=1e-5)


def test_many_rows_are_compared_in_parts(monkeypatch):
    features, vectors = torch.randn(50, 3), torch.randn(7, 3)
    whole = tokenizer.nearest_code(features, vectors)
    monkeypatch.setattr(tokenizer, "ROWS_AT_ONCE", 8)
    assert torch.equal(tokenizer.nearest_code(features.view(5, 10, 3), vectors), whole.view(5, 10))


def test_lower_precision_changes_few_codes_and_no_code_vector(untrained):
    import copy

    images = draw(20)
    half = copy.deepcopy(untrained).bfloat16()
    assert half.encoder[0].weight.dtype == torch.bfloat16
    assert torch.equal(half.codebook(), untrained.codebook())
    assert (half(images) == untrained(images)).float().mean() > 0.9
    with torch.autocast("cpu", torch.bfloat16):
        assert (untrained(images) == half(images)).float().mean() > 0.9


def test_a_fingerprint_is_of_the_weights(untrained):
    import copy

    other = copy.deepcopy(untrained)
    assert other.fingerprint() == untrained.fingerprint()
    other.codebook()[3, 1] += 1e-6
    assert other.fingerprint() != untrained.fingerprint()


@pytest.mark.parametrize(
    "images, message",
    [
        (torch.zeros(1, 3, 8, 8), "uint8 images .* not torch.float32"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), r"\[3, 8, 8\]"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), r"\[1, 1, 8, 8\]"),
        (torch.zeros(1, 3, 8, 10, dtype=torch.uint8), "multiple of 4"),
        (torch.zeros(1, 3, 0, 8, dtype=torch.uint8), "0 x 8"),
    ],
)
def test_other_images_are_refused(untrained, images, message):
    with pytest.raises(ValueError, match=message):
        untrained(images)


def test_a_code_does_not_tell_where_its_patch_was(untrained):
    # one colour everywhere: borders must look as the middle does
    image = torch.full((1, 3, 32, 32), 77, dtype=torch.uint8)
    assert untrained(image).unique().numel() == 1


def test_a_code_depends_on_the_patch_and_its_neighbours_alone(untrained):
    image = torch.randint(0, 256, (1, 3, 4, 40), generator=torch.Generator().manual_seed(2)).byte()
    changed = image.clone()
    changed[..., 36:] = 255 - changed[..., 36:]
    features = [untrained.features(tokenizer.to_pixels(pixels))[0, 0] for pixels in (image, changed)]
    differs = (features[0] - features[1]).abs().amax(dim=1) > 1e-6
    assert differs.tolist() == [False] * 8 + [True] * 2


@pytest.mark.parametrize("wrong", [{"num_codes": 0}, {"patch_size": 0}, {"encoder_blocks": -1}])
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PatchVQConfig(**wrong)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_codes_on_a_gpu_are_those_of_the_cpu(untrained, dtype):
    import copy

    images = draw(20)
    on_gpu = copy.deepcopy(untrained).to("cuda", dtype)
    same = (on_gpu(images.cuda()).cpu() == untrained(images)).float().mean()
    assert same > (0.99 if dtype == torch.float32 else 0.9)
