"""The documents as a site: it is built without a broken link, and reads without a network."""

import logging
import re

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

from ..forks import ROOT

RESOURCE = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?([^\"'\s>]+)|<link\b([^>]*)>", re.IGNORECASE)


class Warnings(logging.Handler):
    """Keeps what mkdocs warns of, which is broken links above all."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """(folder of the built site, warnings)."""
    folder, warnings = tmp_path_factory.mktemp("site"), Warnings()
    log = logging.getLogger("mkdocs")
    log.addHandler(warnings)
    try:
        build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder)))
    finally:
        log.removeHandler(warnings)
    return folder, warnings.texts


def test_no_link_anchor_or_page_is_missing(site):
    assert site[1] == []


def test_every_document_has_a_page(site):
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert {page for page in pages if not (site[0] / page).is_file()} == set()
    assert "fairseq-mhmoe" in (site[0] / "index.html").read_text()


def test_scripts_styles_fonts_and_pictures_come_with_the_site(site):
    for page in site[0].rglob("*.html"):
        for source, link in RESOURCE.findall(page.read_text()):
            if link and not re.search(r"rel=[\"']?(?:stylesheet|preload|icon|preconnect)", link):
                continue
            target = source or re.search(r"href=[\"']?([^\"'\s>]+)", link)[1]
            assert not re.match(r"(?:https?:)?//", target), f"{page.name}: {target}"
            if not target.startswith("data:"):
                start = site[0] if target.startswith("/") else page.parent
                assert (start / re.split("[?#]", target.lstrip("/"))[0]).exists(), f"{page.name}: {target}"
    for style in site[0].rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import", style.read_text()), style.name


def test_nothing_is_drawn_by_a_program_from_elsewhere(site):
    assert [page.name for page in site[0].rglob("*.html") if 'class="mermaid"' in page.read_text()] == []
