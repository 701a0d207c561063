"""The site has every page and only pages that are there; its tables of errors, fields and events are the code's."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from flowserver.config.environment import load
from flowserver.config.file import load_topology
from flowserver.errors import EndReason
from flowserver.telemetry.log import LEVELS

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
CONCEPTS = sorted((DOCS / "concepts").glob("*.md"))
DRAWINGS = sorted((DOCS / "drawings").glob("*.svg"))
SVG = "{http://www.w3.org/2000/svg}"

LOST = re.compile(r"^(?![-*|#> ]|\d+\. )\S.*\n((?:- |1\. ).*)", re.MULTILINE)
"""A list right behind a paragraph."""

HOSTS = {"keepachangelog.com", "semver.org"}
"""Hosts that pages may link to. Nothing asks them: who adds one has looked at the page."""


class _Loader(yaml.SafeLoader):
    """mkdocs.yml names a function, which is none of our business here."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


def site() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)
    return loaded


def pages_of(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for each in nav.values() if isinstance(nav, dict) else nav:
            yield from pages_of(each)


def pages() -> dict[str, str]:
    return {path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}


# Pages and drawings


def test_every_page_is_in_the_navigation_once() -> None:
    named = [page for page in pages_of(site()["nav"]) if not page.startswith("project/")]
    assert sorted(named) == sorted(pages())


def test_what_the_navigation_takes_from_elsewhere_is_there() -> None:
    named = [page.removeprefix("project/") for page in pages_of(site()["nav"]) if page.startswith("project/")]
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_the_site_asks_no_other_host() -> None:
    settings = site()
    assert settings["theme"]["font"] is False
    assert settings["plugins"] == ["search"]
    assert [key for key in ("extra_javascript",) if key in settings] == []
    assert [name for name in settings["extra_css"] if "//" in name or not (DOCS / name).is_file()] == []
    assert "http" not in (DOCS / "site.css").read_text(encoding="utf-8")


def test_a_broken_link_or_anchor_ends_the_build() -> None:
    checks = site()["validation"]
    assert {rule for group in checks.values() for rule in group.values()} == {"warn"}
    assert set(checks["links"]) == {"not_found", "anchors", "absolute_links", "unrecognized_links"}
    command = re.search(r"/bin/mkdocs .*", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert command
    assert "--strict" in command[0]
    assert "quiet" not in command[0], "strict counts the warnings that are shown"


def test_links_to_other_hosts_are_on_the_list() -> None:
    outside = [ROOT / page.removeprefix("project/") for page in pages_of(site()["nav"]) if page.startswith("project/")]
    texts = [*pages().values(), *(path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *outside])]
    assert {host for text in texts for host in re.findall(r"\]\(https?://([^/)\s]+)", text)} == HOSTS


def test_pages_have_one_title_each_and_no_list_that_is_lost() -> None:
    """Python-Markdown takes a list that follows a paragraph without a blank line for a part of that."""
    wrong = []
    for name, text in pages().items():
        bare = re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL)
        if len(re.findall(r"^# ", bare, re.MULTILINE)) != 1:
            wrong.append(f"{name}: not one title")
        wrong += [f"{name}: {line}" for line in LOST.findall(bare)]
    assert wrong == []


@pytest.mark.parametrize("page", CONCEPTS, ids=lambda page: page.stem)
def test_a_concept_has_one_drawing(page: Path) -> None:
    images = re.findall(r"!\[([^\]]+)\]\(\.\./drawings/([\w-]+\.svg)\)", page.read_text(encoding="utf-8"))
    assert len(images) == 1
    text, name = images[0]
    assert len(text) > 40, "who can't see it has only this text"
    assert (DOCS / "drawings" / name).is_file()


def test_every_drawing_is_shown() -> None:
    text = "".join(pages().values())
    assert [path.name for path in DRAWINGS if f"drawings/{path.name})" not in text] == []


@pytest.mark.parametrize("path", DRAWINGS, ids=lambda path: path.stem)
def test_a_drawing_is_readable_on_a_phone_and_in_the_dark(path: Path) -> None:
    drawing = ElementTree.parse(path).getroot()
    _, _, width, height = map(float, drawing.attrib["viewBox"].split())
    assert width == 360
    assert "width" not in drawing.attrib
    style = drawing.findtext(f"{SVG}style") or ""
    assert "prefers-color-scheme: dark" in style
    assert min(map(int, re.findall(r"(\d+)px", style))) >= 12
    assert (drawing.findtext(f"{SVG}title") or "").strip()
    classes = {name for each in drawing.iter() for name in each.get("class", "").split()}
    assert classes - set(re.findall(r"\.([\w-]+) \{", style)) == set()
    assert "http" not in path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    for text in drawing.iter(f"{SVG}text"):
        x, size = float(text.attrib["x"]), len(text.text or "") * 6.2
        left = {"start": x, "middle": x - size / 2, "end": x - size}[text.get("text-anchor", "start")]
        assert left >= 0, text.text
        assert left + size <= 360, text.text
        assert float(text.attrib["y"]) <= height, text.text


# Configurations in the guides


def configurations() -> Iterator[tuple[str, str]]:
    for name, text in pages().items():
        for block in re.finditer(r'^( *)```toml title="flowserver.toml"\n(.*?)^ *```$', text, re.MULTILINE | re.DOTALL):
            yield name, re.sub(rf"^{block[1]}", "", block[2], flags=re.MULTILINE)


@pytest.mark.parametrize(("name", "text"), list(configurations()))
def test_configurations_of_the_guides_are_right(name: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / "flowserver.toml"
    file.write_text(text, encoding="utf-8")
    environment = dict.fromkeys(re.findall(r'"env:(\w+)"', text), "secret")
    config = load({**environment, "FLOW_CONFIG": str(file)})
    assert load_topology(config, environment).upstreams
    assert tomllib.loads(text).get("open") or "tenants" in tomllib.loads(text), f"{name}: open to everybody, unsaid"


# Tables that follow the code


def first_cells(page: str) -> set[str]:
    """The code words in the first cells of a page's tables."""
    rows = re.findall(r"^\| (`[^|]+) \|", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)
    return {word for row in rows for word in re.findall(r"`(\w+)`", row)}


def sources() -> Iterator[ast.Module]:
    for path in sorted((ROOT / "flowserver").rglob("*.py")):
        if "simulator" not in path.parts:
            yield ast.parse(path.read_text(encoding="utf-8"))


def calls(*names: str) -> Iterator[ast.Call]:
    for source in sources():
        for node in ast.walk(source):
            if isinstance(node, ast.Call):
                name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                if name in names:
                    yield node


def words(node: ast.AST | None) -> list[Any]:
    """The constants that an expression may give: one, or those of `a if x else b`."""
    if isinstance(node, ast.Constant):
        return [node.value]
    return [*words(node.body), *words(node.orelse)] if isinstance(node, ast.IfExp) else []


def error_codes() -> dict[str, set[int]]:
    """Code -> statuses of the errors that the code makes with a constant code."""
    found: dict[str, set[int]] = {}
    for call in calls("RelayError", "bad_request", "upstream_error", "_limited"):
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        if name == "RelayError":
            statuses, codes = words(call.args[0]), words(call.args[1])
        elif name == "_limited":
            statuses, codes = [429], words(call.args[0])
        elif name == "bad_request":
            statuses = words(given["status"]) if "status" in given else [400]
            codes = words(given["code"]) if "code" in given else ["bad_request"]
        else:
            statuses, codes = words(given["status"]) if "status" in given else [502], words(call.args[0])
        for code in codes:
            found.setdefault(code, set()).update(statuses)
    return found


def test_the_table_of_errors_has_every_code_with_its_status() -> None:
    said: dict[str, set[int]] = {}
    for codes, statuses in re.findall(r"^\| (`[^|]+) \| ([\d, ]+) \|", (DOCS / "errors.md").read_text(), re.MULTILINE):
        said |= {code: set(map(int, statuses.split(","))) for code in re.findall(r"`(\w+)`", codes)}
    made = error_codes()
    assert len(made) > 30
    assert {code: statuses for code, statuses in made.items() if not statuses <= said.get(code, set())} == {}
    # The rest are ends of exchanges, which are the code of what went wrong with a provider, or made with a variable.
    constants = {node.value for source in sources() for node in ast.walk(source) if isinstance(node, ast.Constant)}
    assert {code for code in said if code not in constants} == set()
    assert {code for code in said.keys() - made.keys() if code not in set(EndReason)} <= {"ambiguous_body"}


def test_the_page_of_the_log_has_every_end() -> None:
    assert set(EndReason) - first_cells("log.md") == set()


def test_the_page_of_the_log_has_every_event() -> None:
    logged = [call.args for call in calls("write", "_told") if len(call.args) > 1]
    events = {word for level, *rest in logged if set(words(level)) & LEVELS.keys() for word in words(rest[-1])}
    assert len(events) > 30
    assert events - first_cells("log.md") == set()


def test_the_pages_have_every_field() -> None:
    assert _keys("telemetry/log.py", {"access", "_tokens"}) - first_cells("log.md") == set()
    assert _keys("telemetry/live_streams.py", {"figures"}) - first_cells("admin.md") == set()


def test_the_admin_page_has_every_request() -> None:
    page = (DOCS / "admin.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"`((?:GET|POST|PUT) /[^`]*)`", page))
    served = {"GET /", "GET /live", "GET /live?once"}
    for path, acts in _paths("admin.py") | _paths("control_pages.py"):
        name = "ID" if path.startswith("/streams/") else "NAME"
        served |= {f"{method} {path.replace('(.+)', name)}" for method in acts.split() or ["GET"]}
    assert len(served) > 12
    assert shown == served


def _paths(module: str) -> set[tuple[str, str]]:
    """The paths in the tables of an admin module, each with the methods that its entry names."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / "flowserver/telemetry" / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(key.value, bytes) and key.value.startswith(b"/"):
                    acts = value.keys if isinstance(value, ast.Dict) else []
                    found.add((key.value.decode(), b" ".join(word for act in acts for word in words(act)).decode()))
    return found


def _keys(module: str, functions: set[str]) -> set[str]:
    """The names of fields that these functions make."""
    found = set()
    for function in ast.walk(ast.parse((ROOT / "flowserver" / module).read_text(encoding="utf-8"))):
        if isinstance(function, ast.FunctionDef) and function.name in functions:
            for node in ast.walk(function):
                if isinstance(node, ast.Dict):
                    found |= {key.value for key in node.keys if isinstance(key, ast.Constant)}
                elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                    found.add(node.slice.value)
    named = {name for name in found if isinstance(name, str)}
    assert len(named) > 8, f"{module}: {functions} are not there any more"
    return named
