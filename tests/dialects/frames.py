"""Recordings taken apart into events, simply, and metered."""

from __future__ import annotations

from flowserver.dialects import recognise
from flowserver.dialects.base import Format, Meter, Quirks

from ..support.corpus import Recording
from .reading import sse_events

Event = tuple[bytes, bytes, bytes]
"""Name, payload, and all its bytes as they passed."""

QUIRKS = Quirks("any")


def split(body: bytes, extension: str) -> list[Event]:
    """The whole events in `body`; `extension` tells the framing."""
    if extension == ".eventstream":
        return split_frames(body)
    if extension == ".ndjson":
        return [(b"", line, line + b"\n") for line in body.splitlines() if line]
    return sse_events(body)


def split_frames(body: bytes) -> list[Event]:
    frames = []
    while body:
        length, headers = int.from_bytes(body[:4], "big"), int.from_bytes(body[4:8], "big")
        frame, body = body[:length], body[length:]
        fields = _headers(frame[12 : 12 + headers])
        kind = fields[b":message-type"]
        name = (b"" if kind == b"event" else b"!") + fields[b":" + kind + b"-type"]
        frames.append((name, frame[12 + headers : -4], frame))
    return frames


def _headers(rest: bytes) -> dict[bytes, bytes]:
    fields = {}
    while rest:
        length = rest[0]
        name, rest = rest[1 : 1 + length], rest[1 + length :]
        assert rest[0] == 7, "only texts are expected here"
        length = int.from_bytes(rest[1:3], "big")
        fields[name], rest = rest[3 : 3 + length], rest[3 + length :]
    return fields


def target_of(recording: Recording) -> str:
    path: str = recording.about["request_path"]
    # Some recordings have lost their query.
    return path + "?alt=sse" if recording.path.suffix == ".sse" and path.endswith(":streamGenerateContent") else path


def format_of(recording: Recording) -> Format:
    found = recognise(target_of(recording))
    assert found is not None
    return found


def meter_for(recording: Recording) -> Meter:
    format = format_of(recording)
    params = format.read_params(target_of(recording), recording.about["request_body"] or {})
    return format.meter(params, QUIRKS, cuttable=True)


def metered(recording: Recording) -> Meter:
    """A meter that has read all of it."""
    meter = meter_for(recording)
    if recording.path.suffix == ".jsonarray":
        meter.read_whole(recording.body)
    else:
        for name, payload, _ in split(recording.body, recording.path.suffix):
            assert meter.read(name, payload)
    return meter


def reported(meter: Meter) -> dict[str, int | None]:
    """Its usage in the words of the sidecars."""
    usage = meter.usage
    return {
        "input_tokens": usage.input,
        "output_tokens": usage.output,
        "cache_read_input_tokens": usage.cached,
        "cache_creation_input_tokens": usage.cache_written,
        "reasoning_tokens": usage.reasoning,
    }
