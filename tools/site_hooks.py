"""Hooks of the site (mkdocs.yml). The pages in docs/ are written to be read in the repository, too, so they link to
files outside docs/. Here those files become pages below project/, and drawings become part of their page, where they
follow its colours."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
DOCS = "docs/"
OUTSIDE = "project/"
"""Where the site has the files that are not in docs/."""

_LINK = re.compile(r"(\]\(\s*)([^)\s]+)")
_FENCE = re.compile(r"^ *(```+).*?^ *\1 *$", re.MULTILINE | re.DOTALL)
_DRAWING = re.compile(r'<img alt="([^"]*)" src="([^"]*drawings/[\w-]+\.svg)" */?>')
_LANGUAGES = {".toml": "toml", ".py": "python", ".yaml": "yaml", ".conf": "ini", ".service": "ini", ".socket": "ini"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what the pages link to, and what that links to."""
    known = {_in_repository(file.src_uri) for file in files}
    waiting = [name for name in sorted(known) if name.endswith(".md")]
    while waiting:
        name = waiting.pop()
        for target in _targets(name):
            if target not in known:
                known.add(target)
                files.append(_generated(target, config))
                if target.endswith(".md"):
                    waiting.append(target)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links between files of the repository, as links between pages of the site."""
    here = page.file.src_uri
    name = _in_repository(here)

    def moved(link: re.Match[str]) -> str:
        path, mark, anchor = link[2].partition("#")
        target = _resolved(name, path)
        if target is None:
            return link[0]
        return f"{link[1]}{posixpath.relpath(_in_site(target), posixpath.dirname(here) or '.')}{mark}{anchor}"

    return _outside_fences(markdown, lambda text: _LINK.sub(moved, text))


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Drawings within the page: there the page's own colours apply (site.css)."""

    def drawn(image: re.Match[str]) -> str:
        name = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.src_uri), image[2]))
        svg = (ROOT / DOCS / name).read_text(encoding="utf-8")
        return svg.replace("<svg ", f'<svg role="img" aria-label="{image[1]}" class="drawing" ', 1)

    return _DRAWING.sub(drawn, html)


def _outside_fences(markdown: str, change: Callable[[str], str]) -> str:
    parts, end = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [change(markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, change(markdown[end:])])


def _targets(name: str) -> list[str]:
    found: list[str] = []

    def look(text: str) -> str:
        targets = [_resolved(name, link[2].partition("#")[0]) for link in _LINK.finditer(text)]
        found.extend(target for target in targets if target is not None)
        return text

    _outside_fences((ROOT / name).read_text(encoding="utf-8"), look)
    return found


def _resolved(name: str, link: str) -> str | None:
    """The file of the repository that `link` in `name` leads to; None where it leads to none, or to the page itself."""
    if not link or re.match(r"[a-z][a-z0-9+.-]*:", link):
        return None
    target = posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
    if (ROOT / target).is_dir():
        target += "/README.md"
    return target if (ROOT / target).is_file() else None


def _in_repository(uri: str) -> str:
    """The file of the repository that the site has at `uri`."""
    if not uri.startswith(OUTSIDE):
        return DOCS + uri
    name = uri.removeprefix(OUTSIDE)
    return name if (ROOT / name).is_file() else name.removesuffix(".md")


def _in_site(name: str) -> str:
    if name.startswith(DOCS):
        return name.removeprefix(DOCS)
    return OUTSIDE + (name if name.endswith((".md", ".svg", ".png")) else f"{name}.md")


def _generated(name: str, config: MkDocsConfig) -> File:
    uri, path = _in_site(name), ROOT / name
    if path.suffix in (".md", ".svg", ".png"):
        return File.generated(config, uri, abs_src_path=str(path))
    text = path.read_text(encoding="utf-8")
    language = _LANGUAGES.get(path.suffix, "text")
    return File.generated(config, uri, content=f"# {path.name}\n\n`````{language}\n{text}\n`````\n")
