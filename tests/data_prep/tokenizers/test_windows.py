"""Windows of long texts."""

from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.tokenizers.windows import windows


@given(text=st.text(st.sampled_from("ab \n"), max_size=60), size=st.integers(1, 20))
@settings(max_examples=30)
def test_windows_joined_are_the_text(text, size):
    parts = list(windows(text, size))
    assert "".join(parts) == text
    assert all(0 < len(part) <= size for part in parts) or parts == [""]


def test_cuts_are_before_line_ends_else_spaces_else_anywhere():
    assert list(windows("abc de\nfghi jklmnopq", 8)) == ["abc de", "\nfghi", " jklmnop", "q"]
