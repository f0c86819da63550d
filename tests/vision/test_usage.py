"""What is reported about codes, on numbers that can be checked by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairseq_mhmoe.vision import VisualTokenizer
from fairseq_mhmoe.vision.usage import measure, perplexity


class Redness(VisualTokenizer):
    """The code of a patch is the red of its first pixel."""

    patch_size, num_codes = 2, 10

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images):
        return images[:, 0, ::2, ::2].long().flatten(1)


def test_used_perplexity_and_blank_patches():
    images = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    images[0, 0, :2, :2] = 7  # a blank patch of code 7; two blank ones of code 0 remain
    images[0, 0, 2, 0], images[0, 1, 3, 1] = 9, 200  # code 9, not blank
    found = measure(Redness(), images)
    assert (found["patches"], found["used"], found["codes"]) == (4, 3, 10)
    assert found["top_share"] == 0.5
    assert found["perplexity"] == pytest.approx(2**1.5)
    assert found["blank"] == {"patches": 0.75, "codes": 2, "perplexity_of_others": pytest.approx(1.0)}
    assert "error" not in found


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20))
def test_perplexity_lies_between_one_and_the_codes_used(counts):
    used = sum(count > 0 for count in counts)
    assert (1 if used else 0) - 1e-9 <= perplexity(torch.tensor(counts)) <= used + 1e-9


def test_even_use_has_a_perplexity_of_all_codes():
    assert perplexity(torch.full((6,), 3)) == pytest.approx(6)
