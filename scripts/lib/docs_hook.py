"""Hook of mkdocs.yml: pages that live outside docs/ become pages of the site, and links are those of the repository.

A document is written for readers of the repository. On the site its links to other documents lead to their pages, links
to pictures to copies of these, and what names a file of code stays as text.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File
from pymdownx.slugs import slugify

ROOT = Path(__file__).resolve().parents[2]
# Page of the site: document of the repository.
PAGES = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "configs.md": "configs/README.md",
    "docker.md": "docker/README.md",
    "example-router.md": "examples/custom_router/README.md",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
PICTURES = (".png", ".svg", ".jpg")


def on_config(config):
    """Leaves pages that are not there out of the navigation; headings get the anchors that code hosts give them."""
    config.mdx_configs["toc"] = {**config.mdx_configs.get("toc", {}), "slugify": slugify(case="lower")}
    config.nav = [entry for entry in map(existing, config.nav) if entry]
    return config


def existing(entry):
    """An entry of the navigation less the pages that are not there; None where nothing is left."""
    if isinstance(entry, str):
        return entry if (ROOT / source_of(entry)).is_file() else None
    [(title, content)] = entry.items()
    if isinstance(content, list):
        content = [found for found in map(existing, content) if found]
    else:
        content = existing(content)
    return {title: content} if content else None


def source_of(page):
    """Path in the repository of a page or picture of the site."""
    return PAGES.get(page, f"docs/{page}")


def on_files(files, config):
    """Adds the pages and pictures that live outside docs/."""
    for page, source in PAGES.items():
        if (ROOT / source).is_file():
            files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    for source in sorted(outside_pictures()):
        files.append(File.generated(config, source, abs_src_path=str(ROOT / source)))
    return files


def documents():
    """(document of the repository, its text) of every page."""
    paths = [*(ROOT / "docs").rglob("*.md"), *filter(Path.is_file, (ROOT / source for source in PAGES.values()))]
    return [(path.relative_to(ROOT).as_posix(), path.read_text()) for path in paths]


def outside_pictures():
    """Pictures outside docs/ that documents show, as paths in the repository."""
    found = {
        posixpath.normpath(posixpath.join(posixpath.dirname(document), target))
        for document, text in documents()
        for _, _, target, _ in LINK.findall(text)
        if target.endswith(PICTURES)
    }
    return {path for path in found if not path.startswith("docs/") and (ROOT / path).is_file()}


def on_page_markdown(markdown, page, config, files):
    """Turns the links of a document into those of its page."""
    here = source_of(page.file.src_uri)
    places = {source_of(file.src_uri): file.src_uri for file in files}
    places |= {path: path for path in outside_pictures()}

    def turned(found):
        mark, text, target, anchor = found[1], found[2], found[3], found[4] or ""
        if not target or re.match(r"[a-z]+:", target):
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
        if path in places:
            folder = posixpath.dirname(page.file.src_uri) or "."
            return f"{mark}[{text}]({posixpath.relpath(places[path], folder)}{anchor})"
        if not (ROOT / path).exists():
            return found[0]  # mkdocs says that it is broken
        return text if text.startswith("`") else f"{text} (`{path}`)" if text != path else f"`{path}`"

    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else LINK.sub(turned, part) for part in parts)
