"""The live page: one HTML file, made from the parts in `page/`. It needs no other file and no other host."""

from __future__ import annotations

from base64 import b64encode
from collections import defaultdict
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import NamedTuple

_OWN = ("base", "charts", "streams", "panels", "detail", "feed")
_PARTS = (
    (b"style", ("uPlot.min.css", "page.css")),
    (b"script", ("uPlot.iife.min.js",)),
    (b"script", tuple(f"js/{name}.js" for name in _OWN)),
)
"""The empty elements in page.html, in their order, and the files that are put into them."""
_POLICY = (
    b"default-src 'none'",
    b"connect-src 'self'",
    b"img-src data:",
    b"base-uri 'none'",
    b"form-action 'none'",
    b"frame-ancestors 'none'",
    b"require-trusted-types-for 'script'",
)


class PageFile(NamedTuple):
    body: bytes
    policy: bytes
    """A Content-Security-Policy that allows the page's own script and style, by their hashes, and its own host."""


@cache
def page() -> PageFile:
    """The page, as it is sent."""
    folder = files(__package__).joinpath("page")
    body = folder.joinpath("page.html").read_bytes()
    hashes: defaultdict[bytes, list[bytes]] = defaultdict(list)
    for element, names in _PARTS:
        text = b"\n".join(folder.joinpath(name).read_bytes().strip() for name in names)
        body = body.replace(b"<%b></%b>" % (element, element), b"<%b>%b</%b>" % (element, text, element), 1)
        hashes[element].append(b"'sha256-%b'" % b64encode(sha256(text).digest()))
    sources = [b"%b-src %b" % (element, b" ".join(found)) for element, found in hashes.items()]
    return PageFile(body, b"; ".join((*sources, *_POLICY)))
