"""The bytes around the text of an event: what fits them, compared with a regular expression of the same."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserver.dialects.event_template import EventTemplate, TemplateFinder

FINDER = TemplateFinder(frozenset(), padded=("p",), padded_with_blanks=True)
TEXT = rb"([ !#-\[\]-\xff]*)"
PADDINGS = {"letters": (b'{"t":"a","u":[],"p":"bc","e":1}', b"[0-9A-Za-z]*"), "blanks": (b'{"t":"a"}  ', b" *")}

_broken = [b"\\", b"\x1f", b"\xff", "é".encode()[:1]]
_around = [b'"', b'"}', b'","u":[],"p":"', b'","e":1}', b'{"t":"']
_pieces = st.sampled_from([*_broken, *_around, b"a", b" ", b"\\n", b"\x7f", "é".encode(), b"-", b"0"])


def template(event: bytes) -> EventTemplate:
    parsed = json.loads(event)
    found = FINDER.find(event, parsed, parsed, "t")
    assert found is not None
    return found


@pytest.mark.parametrize("padding", PADDINGS)
@given(st.lists(_pieces, max_size=8).map(b"".join), st.booleans())
def test_what_fits(padding: str, altered: bytes, whole: bool) -> None:
    event, pattern = PADDINGS[padding]
    found = template(event)
    parts = (found.rest.middle, found.rest.tail)
    fits = re.compile(re.escape(found.head) + TEXT + re.escape(parts[0]) + pattern + re.escape(parts[1]))
    data = altered if whole else event.replace(b'"a"', b'"%b"' % altered)
    match = fits.fullmatch(data)
    if match is not None and _is_utf8(data):
        assert found.text_of(data) == match[1]
    elif b"\\" not in data:
        assert found.text_of(data) == b""


@pytest.mark.parametrize("size", range(30))
def test_less_than_an_event_does_not_fit(size: int) -> None:
    """Nor where its head and what follows the text would overlap."""
    for event, _ in PADDINGS.values():
        if size < len(event.rstrip()):
            assert template(event).text_of(event[:size]) == b""
            assert template(event).text_of(event[:8] + event[len(event) - size :]) in (b"", b"a")


def test_escapes_are_what_they_stand_for() -> None:
    for event, _ in PADDINGS.values():
        assert template(event).text_of(event.replace(b'"a"', rb'"\"},\n\u00e9"')) == '"},\né'.encode()
        assert template(event).text_of(event.replace(b'"a"', rb'"\x"')) == b""
        assert template(event).text_of(event.replace(b'"a"', rb'"\\","q":"b"')) == b""


def _is_utf8(data: bytes) -> bool:
    return data.decode(errors="ignore").encode() == data
