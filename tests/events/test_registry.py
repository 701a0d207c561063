"""What a body is taken for."""

from __future__ import annotations

import gzip

import pytest

from flowserver.events.registry import BodyKind, body_kind
from tests.support.scanning import frame

FRAME = frame({b":event-type": b"chunk"}, b"{}")
SSE = b"text/event-stream"
JSON = b"application/json"


@pytest.mark.parametrize(
    ("label", "first", "expected"),
    [
        (SSE, b"", BodyKind.UNDECIDED),
        (b"Text/Event-Stream ; charset=UTF-8", b"dat", BodyKind.UNDECIDED),
        (SSE, b": OPENROUTER PROCESSING\n", BodyKind.SSE),
        (SSE, b"x-odd: 1\ndata: x\n", BodyKind.SSE),
        (SSE, b'{"a": 1}', BodyKind.JSON),
        (SSE, b'{"a": 1}\n{"a": 2}\n', BodyKind.NDJSON),
        (SSE, b"[{}", BodyKind.ARRAY),
        (SSE, gzip.compress(b"data: x\n\n", mtime=0), BodyKind.OPAQUE),
        (SSE, b"<!doctype html>", BodyKind.OPAQUE),
        (JSON, b"", BodyKind.UNDECIDED),
        (JSON, b"\n\n\n" + b" " * 100, BodyKind.UNDECIDED),
        (JSON, b'{"id": "x"', BodyKind.JSON),
        (b"APPLICATION/JSON;charset=utf-8", b'\n\n {"id"', BodyKind.JSON),
        (b"application/problem+json", b"{", BodyKind.JSON),
        (JSON, b"\xef\xbb\xbf{", BodyKind.JSON),
        (JSON, b'[{"candidates"', BodyKind.ARRAY),
        (JSON, b"data: {}\n\n", BodyKind.SSE),
        (JSON, b"d", BodyKind.UNDECIDED),
        (JSON, b"even", BodyKind.UNDECIDED),
        (JSON, b"event:", BodyKind.SSE),
        (JSON, b'{"response": "}{\\""}\r\n{"re', BodyKind.NDJSON),
        (JSON, b'{"a": 1} {"a": 2}', BodyKind.JSON),
        (JSON, FRAME, BodyKind.EVENTSTREAM),
        (b"application/x-ndjson", b"{", BodyKind.NDJSON),
        (b" application/JSONL ", b"[1]\n", BodyKind.NDJSON),
        (b"application/stream+json", b"{}\n", BodyKind.NDJSON),
        (b"application/x-ndjson", b"data: {}", BodyKind.SSE),
        (b"application/vnd.amazon.eventstream", b"", BodyKind.UNDECIDED),
        (b"application/vnd.amazon.eventstream", FRAME[:11], BodyKind.UNDECIDED),
        (b"application/vnd.amazon.eventstream", FRAME[:12], BodyKind.EVENTSTREAM),
        (b"application/vnd.amazon.eventstream", b"\0" * 12, BodyKind.OPAQUE),
        (b"application/vnd.amazon.eventstream", b'{"message": "no"}', BodyKind.JSON),
        (b"", b"", BodyKind.UNDECIDED),
        (b"", b"\xef\xbb", BodyKind.UNDECIDED),
        (b"", b"id", BodyKind.UNDECIDED),
        (b"", b"retry: 10\n", BodyKind.SSE),
        (b"text/plain; charset=utf-8", b"data: {}\n\n", BodyKind.SSE),
        (b"text/plain", b"idea", BodyKind.OPAQUE),
        (b"application/octet-stream", FRAME, BodyKind.EVENTSTREAM),
        (b"application/octet-stream", b'{"a"', BodyKind.JSON),
        (b"audio/mpeg", b"ID3\x04", BodyKind.OPAQUE),
        (b"application/octet-stream", b"\x28\xb5\x2f\xfd", BodyKind.OPAQUE),
    ],
)
def test_a_body_is_what_it_is_not_what_it_calls_itself(label: bytes, first: bytes, expected: BodyKind) -> None:
    assert body_kind(label, first, compressed=False) is expected


@pytest.mark.parametrize("label", [SSE, JSON, b""])
def test_what_is_compressed_is_opaque(label: bytes) -> None:
    assert body_kind(label, b"data: x\n\n", compressed=True) is BodyKind.OPAQUE


@pytest.mark.parametrize("label", [JSON, b"", b"text/plain", b"application/x-ndjson"])
@pytest.mark.parametrize("body", [b"data: {}\n\n", b"event: a\ndata: {}\n\n", b'{"a": "b"}', b"[{}]", FRAME, b"<html>"])
def test_a_kind_stays_once_it_is_decided(label: bytes, body: bytes) -> None:
    kinds = [body_kind(label, body[:size], compressed=False) for size in range(len(body) + 1)]
    decided = [kind for kind in kinds if kind is not BodyKind.UNDECIDED]
    assert len(set(decided)) == 1
    assert kinds.index(decided[0]) <= 16
    assert BodyKind.UNDECIDED not in kinds[kinds.index(decided[0]) :]
