"""The live page as a file: complete, self-contained, and allowed by its own policy."""

from __future__ import annotations

import re
import tomllib
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

import pytest

from flowserver.telemetry.page_file import page


@pytest.mark.parametrize("element", [b"style", b"script"])
def test_the_policy_allows_what_the_page_has_and_nothing_else(element: bytes) -> None:
    file = page()
    texts = re.findall(rb"<%b>(.*?)</%b>" % (element, element), file.body, re.DOTALL)
    assert texts
    assert all(texts)
    hashes = b" ".join(b"'sha256-%b'" % b64encode(sha256(text).digest()) for text in texts)
    policy = dict(part.partition(b" ")[::2] for part in file.policy.split(b"; "))
    assert policy[element + b"-src"] == hashes
    assert policy[b"default-src"] == b"'none'"
    assert policy[b"connect-src"] == b"'self'"
    assert b"unsafe" not in file.policy


def test_it_asks_no_other_host_and_has_no_handlers_in_its_markup() -> None:
    markup = re.sub(rb"<(style|script)>.*?</\1>", b"", page().body, flags=re.DOTALL)
    assert re.findall(rb"""(?:src|href)=["'](?!#|data:|/streams|/metrics)[^"']*""", markup) == []
    assert re.findall(rb"\son\w+=|\sstyle=", markup) == []


def test_names_get_into_the_page_as_text_only() -> None:
    own = page().body.rpartition(b"<script>")[2]
    assert b'"use strict"' in own
    assert re.findall(rb"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(", own) == []


def test_all_parts_are_in_the_package() -> None:
    root = Path(__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["flowserver"]
    folder = root / "flowserver"
    packed = {path for pattern in patterns for path in folder.glob(pattern)}
    assert {path for path in (folder / "telemetry" / "page").rglob("*") if path.is_file()} <= packed
    assert all((root / name).is_file() for name in project["project"]["license-files"])


def test_uplot_is_there_with_its_version() -> None:
    assert b"uPlot (v1.6.32)" in page().body
