"""OpenAI's chat: events that are read by their template say what parsing them says."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowserver.dialects.base import RequestParams
from flowserver.dialects.event_template import RELEARN
from flowserver.dialects.openai_chat import OPENAI_CHAT, ChatMeter
from tests.dialects.chat_events import HEAD, choice, chunk, counted, meter, report, say, sent
from tests.dialects.reading import events
from tests.dialects.templates import count_by_template, unlike_others
from tests.support.corpus import Recording, each_recording


def text_of(answer: ChatMeter, data: bytes) -> bytes | None:
    """The text that the template finds in the event; None: there is no template."""
    return answer.template.text_of(wire(data)) if answer.template is not None else None


def parsed(answer: ChatMeter, number: int, data: bytes) -> bool | bytes:
    """Have event `number` read by parsing."""
    passed = answer.read(b"", unlike_others(number, data) if data.startswith(b"{") else data)
    return passed if isinstance(passed, bool) else passed.lstrip()


def wire(data: bytes) -> bytes:
    return b"data: %b\n\n" % data


_texts = st.sampled_from(
    [
        b"two words",
        "é".encode(),
        b"",
        b"\x7f",
        b"\\n",
        b'\\"',
        b"\\u00e9",
        b"\\",
        b'"',
        b"\n",
        b"\x01",
        b"\xff",
        b"\xc3",
    ]
)
"""What may stand between the quotes of a text: sound, escaped, or broken."""
_paddings = st.sampled_from(
    [b"Q", b"", b"a b", b"-", b"\\n", b"\x02", b"\xff", b'"', b'a","usage":{"completion_tokens":3},"b":"c']
)
_odd = st.sampled_from([*["plain"] * 5, "text", "text", "padding", "finish", "index", "usage", "error", "created"])


def _event(odd: str, shape: dict[str, Any], delta: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {"index": 0, **shape, "delta": delta, "finish_reason": None}
    match odd:
        case "finish":
            return {**HEAD, "choices": [{**entry, "finish_reason": "stop"}]}
        case "index":
            return {**HEAD, "choices": [{**entry, "index": 1}]}
        case "usage":
            return {**HEAD, "choices": [entry], "usage": report(3, 4)}
        case "error":
            return {**HEAD, "choices": [entry], "error": {"message": "no"}}
        case "created":
            return {**HEAD, "choices": [entry], "created": 8}
        case _:
            return {**HEAD, "choices": [entry]}


@st.composite
def _streams(draw: st.DrawFn) -> list[bytes]:
    """Events of one shape, and between them some with something in it that a template must not pass over."""
    field = draw(st.sampled_from(["content", "reasoning_content", "reasoning"]))
    padding = draw(st.sampled_from(["obfuscation", "p", "other"]))
    deltas: list[dict[str, Any]] = [{}, {}, {"role": "assistant"}, {"refusal": "no"}, {"reasoning_content": "TEXT"}]
    shapes: list[dict[str, Any]] = [{}, {}, {"message": {field: "ELSE"}}, {"message": {"delta": {field: "a"}}}]
    delta = {**draw(st.sampled_from(deltas)), field: "TEXT"}
    shape = draw(st.sampled_from(shapes))
    separators = draw(st.sampled_from([(",", ":"), (",", ":"), (",", ":"), (", ", ": ")]))
    stream = []
    for odd in draw(st.lists(_odd, min_size=2, max_size=30)):
        data = json.dumps({**_event(odd, shape, delta), padding: "PADDING"}, separators=separators).encode()
        data = data.replace(b"TEXT", draw(_texts) if odd == "text" else b"a")
        data = data.replace(b"ELSE", draw(st.sampled_from([b"a", b"", b"bc"])))
        stream.append(data.replace(b"PADDING", draw(_paddings) if odd == "padding" else b"abc"))
    return stream


@settings(max_examples=300)
@given(_streams(), st.integers(1, 2))
def test_the_template_sees_what_parsing_sees(stream: list[bytes], choices: int) -> None:
    """Also where the events that fit it are counted on the wire."""
    params = RequestParams(stream=True, choices=choices, usage=False)
    quick, fast, slow = meter(params), meter(params), meter(params)
    for number, data in enumerate(stream):
        passed = parsed(slow, number, data)
        assert quick.read(b"", data) == passed
        assert (count_by_template(fast, wire(data)) or fast.read(b"", data)) == passed
        assert told(quick) == told(fast) == told(slow)


def told(answer: ChatMeter) -> tuple[object, ...]:
    """All that a meter says of an answer, but for the head of its ending."""
    return (
        (counted(answer), answer.content.counts, answer.usage, answer.running, answer.finish),
        (answer.failed, answer.model, answer.finished, answer.is_final),
        [end["choices"] for end in sent(answer.ending(7, 5))],
    )


@pytest.mark.parametrize("field", ["content", "reasoning_content"])
@pytest.mark.parametrize("padding", [None, "obfuscation", "p"])
def test_plain_events_are_read_by_the_template(field: str, padding: str | None) -> None:
    answer = meter()
    for text, pad in (("Hi", "abc"), (" there", "Q"), (" 😄", ""), (",", "abcdefgh")):
        data = chunk(choice({field: text}), **({padding: pad} if padding else {}))
        if text != "Hi":
            assert text_of(answer, data) == text.encode()
        answer.read(b"", data)
    assert counted(answer) == (14, 0 if field == "content" else 14, 4)


def test_a_template_stays_while_events_fit_it() -> None:
    """To look for it takes twice as long as parsing an event."""
    answer = meter()
    answer.read(b"", say("a"))
    template = answer.template
    for _ in range(3 * RELEARN):
        answer.read(b"", say(" and more"))
    assert answer.template is template is not None
    answer.read(b"", say("b", created=8))
    assert answer.template is not template


@pytest.mark.parametrize(
    "other",
    [
        say("x", usage=report(1, 1)),
        chunk(choice({"content": "x"}, finish="stop")),
        chunk(choice({"content": "x"}, index=1)),
        chunk(choice({"content": "x", "refusal": "y"})),
        say("x", created=8),
        say("TEXT", p="a").replace(b"TEXT", rb"\x"),
        say("TEXT", p="a").replace(b"TEXT", rb"\ud83d"),
        say("TEXT", p="a").replace(b"TEXT", b"\\"),
        say("TEXT", p="a").replace(b"TEXT", b"\\\x01"),
        say("x", p="not alike"),
        say("x", p="é"),
        say("TEXT", p="a").replace(b"TEXT", b"\x01"),
        say("TEXT", p="a").replace(b"TEXT", b"\xff"),
        say("x", p="PADDING").replace(b"PADDING", b"\x01"),
    ],
)
def test_another_event_does_not_fit(other: bytes) -> None:
    answer = meter()
    answer.read(b"", say("a", p="a"))
    assert text_of(answer, say("b", p="cde")) == b"b"
    assert text_of(answer, other) == b""


@pytest.mark.parametrize(
    ("escaped", "size"),
    [(rb"\n", 1), (rb"a \"b\\\" c", 8), (rb"\u00e9", 2), (rb"\ud83d\ude04\t", 5), ("é\\n".encode(), 3)],
)
def test_escapes_in_a_text_are_counted_as_what_they_stand_for(escaped: bytes, size: int) -> None:
    answer = meter()
    answer.read(b"", say("a"))
    said = say("TEXT").replace(b"TEXT", escaped)
    assert len(text_of(answer, said) or b"") == size
    assert count_by_template(answer, wire(said))
    assert answer.content_bytes == 1 + size


def test_a_large_text_with_escapes_takes_the_memory_of_parsing_it() -> None:
    answer = meter()
    answer.read(b"", say("a"))
    said = wire(say("line\n" * 100_000))
    assert answer.template is not None
    tracemalloc.start()
    try:
        assert len(answer.template.text_of(said)) == 500_000
        assert tracemalloc.get_traced_memory()[1] < 20 * len(said)  # as parsing it takes
    finally:
        tracemalloc.stop()


def test_a_text_that_stands_elsewhere_too_makes_no_template() -> None:
    answer = meter()
    answer.read(b"", chunk({"message": {"content": "a"}, **choice({"content": "a"})}))
    assert counted(answer) == (1, 0, 1)
    assert answer.template is None


@each_recording("openai-chat", "openai-compatible-other", "groq", "mistral")
def test_a_recording_is_read_by_the_template_as_by_parsing(recording: Recording) -> None:
    params = OPENAI_CHAT.read_params("/", recording.about["request_body"] or {})
    quick, fast, slow = meter(params), meter(params), meter(params)
    for number, (name, data, event) in enumerate(events(recording)):
        passed = parsed(slow, number, data)
        assert quick.read(name, data) == passed
        assert (count_by_template(fast, event) or fast.read(name, data)) == passed
        for answer in (quick, fast):
            assert counted(answer) == counted(slow)
            assert (answer.running, answer.usage) == (slow.running, slow.usage)
    assert quick.ending(7, 3) == fast.ending(7, 3) == slow.ending(7, 3)
