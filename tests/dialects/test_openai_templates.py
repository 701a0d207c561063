"""OpenAI's chat: events that are read by their template say what parsing them says."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowserver.dialects.base import RequestParams
from flowserver.dialects.openai_chat import OPENAI_CHAT, ChatMeter
from tests.dialects.chat_events import HEAD, choice, chunk, counted, meter, report, say, sent
from tests.dialects.reading import events
from tests.support.corpus import Recording, each_recording


def text_of(answer: ChatMeter, data: bytes) -> bytes | None:
    """The text that the template finds in the event; None: there is no template."""
    return answer.template.text_of(wire(data)) if answer.template is not None else None


def parsed(answer: ChatMeter, number: int, data: bytes) -> bool | bytes:
    """Have event `number` read by parsing: no other has the same blanks at its head, so that no template fits."""
    blanks = format(number, "b").translate({48: " ", 49: "\t"}).encode() if data.startswith(b"{") else b""
    passed = answer.read(b"", blanks + data)
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
    params = RequestParams(stream=True, choices=choices, usage=False)
    quick, slow = meter(params), meter(params)
    for number, data in enumerate(stream):
        assert quick.read(b"", data) == parsed(slow, number, data)
        assert counted(quick) == counted(slow)
        assert (quick.usage, quick.running, quick.finish) == (slow.usage, slow.running, slow.finish)
        assert (quick.failed, quick.model, quick.finished) == (slow.failed, slow.model, slow.finished)
        assert [end["choices"] for end in sent(quick.ending(7, 5))] == [
            end["choices"] for end in sent(slow.ending(7, 5))
        ]


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
    assert answer.count_if_matches(b"data: %b\n\n" % said)
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
    quick, slow = meter(params), meter(params)
    for number, (name, data, _) in enumerate(events(recording)):
        assert quick.read(name, data) == parsed(slow, number, data)
        assert counted(quick) == counted(slow)
        assert (quick.running, quick.usage) == (slow.running, slow.usage)
    assert quick.ending(7, 3) == slow.ending(7, 3)
