"""Captions become one clean line or have a reason, and numbers by the right tokenizer only."""

import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.images.captions import BadCaption, CaptionEncoder, clean_caption


@pytest.mark.parametrize(
    "caption, wanted",
    [
        ("a red dog", "a red dog"),
        (b"\xef\xbb\xbfa dog", "a dog"),
        (" a\tred\r\n\r\ndog\x00\x1b \n", "a red dog"),
        ("Zwölf Boxkämpfer \u2014 \U0001f415", "Zwölf Boxkämpfer \u2014 \U0001f415"),
    ],
)
def test_white_space_is_one_space_and_control_characters_go(caption, wanted):
    assert clean_caption(caption, 100) == wanted


@pytest.mark.parametrize(
    "caption, reason",
    [
        ("", "caption_empty"),
        (" \n\0", "caption_empty"),
        (b"\xff\xfea", "caption_not_utf8"),
        ("half \ud83d", "caption_not_utf8"),
        (b"caf\xe9".decode("utf-8", "surrogateescape"), "caption_not_utf8"),
        ("x" * 101, "caption_too_long"),
        (7, "caption_not_text"),
        (None, "caption_not_text"),
        ({"en": "dog"}, "caption_not_text"),
    ],
)
def test_bad_captions_have_a_reason(caption, reason):
    with pytest.raises(BadCaption) as error:
        clean_caption(caption, 100)
    assert error.value.reason == reason


@given(st.one_of(st.text(), st.binary()))
def test_any_caption_is_one_line_or_has_a_reason(caption):
    try:
        text = clean_caption(caption, 20)
    except BadCaption:
        return
    assert 0 < len(text) <= 20 and text == " ".join(text.split()) and text.encode()


def test_captions_are_encoded_as_the_text_folder_says(tiny_data_dir):
    import sentencepiece

    encoder = CaptionEncoder(tiny_data_dir)
    ids = encoder.encode(["the city and the river"])[0]
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tiny_data_dir / "spm.model"))
    symbols = [line.split(" ")[0] for line in (tiny_data_dir / "dict.txt").read_text().splitlines()]
    assert [symbols[number - 4] for number in ids] == processor.EncodeAsPieces("the city and the river")
    assert encoder.size == 4 + len(symbols)


def test_a_dictionary_of_another_tokenizer_is_refused(tiny_data_dir, tmp_path):
    with pytest.raises(ValueError, match="expected dict.txt and one of spm.model, tokenizer.tiktoken"):
        CaptionEncoder(tmp_path)
    shutil.copy(tiny_data_dir / "spm.model", tmp_path)
    lines = (tiny_data_dir / "dict.txt").read_text().splitlines(keepends=True)
    (tmp_path / "dict.txt").write_text("".join([lines[1], lines[0], *lines[2:]]))
    with pytest.raises(ValueError, match="dict.txt is not the dictionary of .*spm.model"):
        CaptionEncoder(tmp_path)
