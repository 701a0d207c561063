"""What answers cost: each is played to a relay with a tenant, and the charge, the access line and what the client
gets are held against what the provider reports."""

from __future__ import annotations

import base64
import gzip
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support import streams as S
from tests.support import wholes as W
from tests.support.bills import FRAMES, JSON, LINES, SSE, Answer, Bill, Till, answer, told
from tests.support.lab import Lab
from tests.support.streams import INPUT, STREAMS, Stream
from tests.support.wholes import NO_OUTPUT, WHOLES, Whole

TEXTS = ["Hello", " there", ", how", " are", " you", " today", "?"]
TEXT = "Hello there, how are you today? I am fine."
LABELS = (SSE, JSON, LINES, FRAMES, "text/plain", "application/problem+json", "Text/Event-Stream;charset=UTF-8", None)

streams = pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)
wholes = pytest.mark.parametrize("whole", WHOLES, ids=lambda whole: whole.name)


def played(stream: Stream, tokens: int = 9, texts: list[str] = TEXTS) -> Answer:
    return answer(*stream.events(texts, tokens), kind=stream.kind.decode())


def asking(stream: Stream) -> dict[str, Any]:
    """The request, that asks for the usage where that is told on demand."""
    asks = {"stream_options": {"include_usage": True}} if "completions" in stream.target else {}
    return stream.body | asks


def is_paid(bill: Bill, output: int = 9) -> bool:
    """Whether the charge is what the provider reports, and the log says so."""
    counted = (bill.input, bill.output, bill.charge, bill.line["estimated"])
    return counted == (INPUT, output, INPUT + output, False) and bill.whole


# --- what an answer is ---


@streams
async def test_a_stream_is_read_whatever_it_calls_itself(lab: Lab, tmp_path: Path, stream: Stream) -> None:
    till = await Till.of(lab, tmp_path)
    chance = random.Random(stream.name)
    for label in LABELS:
        for size in (1, 40, 100_000):
            given = replace(
                played(stream).cut(size),
                kind=label,
                framing=chance.choice(("chunked", "length", "close")),
                status=chance.choice(("200 OK", "201 Created", "203 Other", "206 Partial Content")),
            )
            bill = await till.play(stream.target, asking(stream), given, http2=chance.random() < 0.3)
            assert is_paid(bill), (given, bill)
            assert bill.body == given.body
            assert bill.line.get("uncounted") is None


@wholes
async def test_a_whole_answer_is_read_whatever_it_calls_itself(lab: Lab, tmp_path: Path, whole: Whole) -> None:
    """Also one behind blanks: some providers send them while they work, to show that they do."""
    till = await Till.of(lab, tmp_path)
    chance = random.Random(whole.name)
    body = whole.answer(TEXT, 12)
    for label in LABELS:
        for before in (b"", b"\n\n", b" \r\n\t", b"\xef\xbb\xbf", b"\xef\xbb\xbf \n"):
            framing = chance.choice(("chunked", "length", "close"))
            given = replace(answer(before + body, kind=label).cut(chance.choice((1, 50, 10_000))), framing=framing)
            bill = await till.play(whole.target, whole.body, given, http2=chance.random() < 0.3)
            assert is_paid(bill, 0 if whole in NO_OUTPUT else 12), (given, bill)
            assert bill.body == given.body


async def test_blanks_reach_the_client_before_the_answer(lab: Lab, tmp_path: Path) -> None:
    till = await Till.of(lab, tmp_path)
    waits = answer(b"\n", b"\n", kind=JSON, holds=True)
    bill = await till.play(W.CHAT.target, W.CHAT.body, waits, leaves=2)
    assert (bill.status, bill.body, bill.output) == (200, b"\n\n", 0)


@pytest.mark.parametrize("status", ["200 OK", "204 No Content"])
async def test_an_answer_without_a_body_costs_its_request(lab: Lab, tmp_path: Path, status: str) -> None:
    till = await Till.of(lab, tmp_path)
    for whole in WHOLES:
        framing = "length" if status.startswith("200") else "close"
        bill = await till.play(whole.target, whole.body, answer(kind=JSON, status=status, framing=framing))
        assert (bill.output, bill.body, bill.line.get("uncounted")) == (0, b"", None)
        assert bill.sums_up


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (answer(gzip.compress(TEXT.encode() * 50), kind=JSON, fields=("Content-Encoding: gzip",)), "unreadable"),
        (answer(gzip.compress(TEXT.encode() * 50), fields=("Content-Encoding: gzip",)), "unreadable"),
        (answer(TEXT.encode() * 9, kind="text/plain"), "unreadable"),
        (answer(TEXT.encode() * 9), "unreadable"),
        (answer(b"<html>" + TEXT.encode() * 9), "unreadable"),
        (answer(b'{"a":' + TEXT.encode() * 9, kind=JSON), "malformed"),
        (answer(*[b"data: %b\n\n" % TEXT.encode()] * 9), "malformed"),
        (answer(*[b'{"a": %b\n' % TEXT.encode()] * 9, kind=LINES), "malformed"),
    ],
    ids=["gzip", "gzip-stream", "text", "text-as-stream", "html", "half", "stream-of-text", "lines-of-text"],
)
async def test_what_cannot_be_read_is_counted_by_its_bytes(
    lab: Lab, tmp_path: Path, given: Answer, reason: str
) -> None:
    till = await Till.of(lab, tmp_path)
    for stream in STREAMS:
        bill = await till.play(stream.target, stream.body, given)
        assert len(given.body) // 6 <= bill.output <= len(given.body) // 3, (stream.name, bill)
        assert bill.line["estimated"] is True
        assert bill.line["uncounted"] == {reason: 1}
        assert bill.sums_up
        assert bill.body == given.body
    assert await till.metric("flow_uncounted_total") == len(STREAMS)


@wholes
async def test_an_answer_with_numbers_that_are_none_is_read(lab: Lab, tmp_path: Path, whole: Whole) -> None:
    """NaN, which Python's own JSON writes."""
    till = await Till.of(lab, tmp_path)
    body = b'{"logprobs":[NaN,-Infinity],' + whole.answer(TEXT, 12)[1:]
    bill = await till.play(whole.target, whole.body, answer(body, kind=JSON))
    assert is_paid(bill, 0 if whole in NO_OUTPUT else 12), bill


# --- size ---


def _fat(kind: str, size: int) -> object:
    """A value of about so many bytes."""
    if kind == "logprobs":
        one = {"token": " word", "logprob": -0.1234567, "bytes": [32, 119, 111, 114, 100]}
        return {"content": [one | {"top_logprobs": [one] * 5}] * (size // 450)}
    if kind == "image":
        return base64.b64encode(random.Random(size).randbytes(size * 3 // 4)).decode()
    return [0.0123456789] * (size // 13)


@pytest.mark.parametrize("kind", ["logprobs", "image", "floats"])
@wholes
async def test_a_large_answer_is_read_wherever_its_report_stands(
    lab: Lab, tmp_path: Path, whole: Whole, kind: str
) -> None:
    till = await Till.of(lab, tmp_path)
    report, content = whole.report(12), whole.content(TEXT)
    for size in (300_000, 1_200_000):
        fat = {"fat": _fat(kind, size)}
        for body in (report | content | fat, content | report | fat | {"more": 1}, fat | content | report):
            given = answer(orjson.dumps(body), kind=JSON).cut(60_000)
            bill = await till.play(whole.target, whole.body, given)
            assert is_paid(bill, 0 if whole in NO_OUTPUT else 12), bill.line
            assert bill.line.get("uncounted") is None
            assert bill.body == given.body


async def test_an_answer_of_six_megabytes_is_read(lab: Lab, tmp_path: Path) -> None:
    till = await Till.of(lab, tmp_path)
    for whole in (W.CHAT, W.GEMINI, W.IMAGES):
        given = answer(whole.answer(TEXT, 12, fat=_fat("image", 6_000_000)), kind=JSON).cut(60_000)
        assert is_paid(await till.play(whole.target, whole.body, given), 12), whole.name


def _padded(event: bytes, where: str) -> bytes:
    """A JSON event with 5 KB more in it."""
    pad = b'"pad":"%b"' % (b"x" * 5000)
    at = event.find(b"{") + 1 if where == "first" else event.rfind(b"}")
    return event[:at] + (pad + b"," if where == "first" else b"," + pad) + event[at:] if at > 0 else event


@pytest.mark.parametrize("stream", [s for s in STREAMS if s.kind != S.FRAMES], ids=lambda stream: stream.name)
async def test_events_over_the_bound_are_read(lab: Lab, tmp_path: Path, stream: Stream) -> None:
    till = await Till.of(lab, tmp_path, max_event="2k")
    for where in ("first", "last"):
        events = [_padded(event, where) for event in stream.events(TEXTS, 9)]
        for size in (100, 1_000_000):
            for budget in (None, 1_000_000):
                given = answer(*events, kind=stream.kind.decode()).cut(size)
                bill = await till.play(stream.target, asking(stream), given, budget=budget)
                assert is_paid(bill), (where, size, bill.line)
                assert bill.line.get("uncounted") is None
                assert bill.body == given.body


# --- reports ---

NONSENSE: tuple[object, ...] = (
    -1,
    2.5,
    "x",
    None,
    2**32 - 1,
    2**53,
    2**63,
    0,
    [],
    {},
    True,
    1e300,
    "-5",
    3_000_000_000,
)
_MARK = 987_654_321


def _misreported(body: bytes, value: object) -> bytes:
    return body.replace(str(_MARK).encode(), json.dumps(value).encode())


@pytest.mark.parametrize("stream", [s for s in STREAMS if s.kind != S.FRAMES], ids=lambda stream: stream.name)
async def test_a_stream_s_report_that_makes_no_sense_is_not_believed(lab: Lab, tmp_path: Path, stream: Stream) -> None:
    till = await Till.of(lab, tmp_path)
    for value in NONSENSE:
        events = [_misreported(event, value) for event in stream.events(TEXTS, _MARK)]
        bill = await till.play(stream.target, stream.body, answer(*events, kind=stream.kind.decode()))
        assert bill.sums_up
        assert bill.line["estimated"] is True, (value, bill.line)
        assert 5 <= bill.output <= 30, (value, bill.line)
        assert bill.input <= 100, (value, bill.line)


@pytest.mark.parametrize("whole", [w for w in WHOLES if w not in (W.IMAGES, *NO_OUTPUT)], ids=lambda whole: whole.name)
async def test_a_whole_answer_s_report_that_makes_no_sense_is_not_believed(
    lab: Lab, tmp_path: Path, whole: Whole
) -> None:
    till = await Till.of(lab, tmp_path)
    for value in NONSENSE:
        body = _misreported(whole.answer(TEXT, _MARK), value)
        bill = await till.play(whole.target, whole.body, answer(body, kind=JSON))
        assert bill.sums_up
        assert bill.line["estimated"] is True, (value, bill.line)
        assert 5 <= bill.output <= 40, (value, bill.line)


def _chat(usage: dict[str, Any], *, most: int | None = None) -> tuple[dict[str, Any], Answer]:
    body = W.CHAT.body | ({"max_tokens": most} if most is not None else {})
    return body, answer(orjson.dumps(W.CHAT.content(TEXT) | {"usage": usage}), kind=JSON)


@pytest.mark.parametrize(
    ("usage", "most"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 500}, 100),
        ({"prompt_tokens": 7, "completion_tokens": 4_000_000}, 2**52),
        (
            {
                "prompt_tokens": 7,
                "completion_tokens": 2**32 - 1,
                "completion_tokens_details": {"reasoning_tokens": 2**32 - 1},
            },
            100,
        ),
        ({"prompt_tokens": 2**32 - 1, "completion_tokens": 12}, None),
    ],
    ids=["above-bound", "above-a-huge-bound", "reasoning", "prompt"],
)
async def test_a_disbelieved_report_is_told(lab: Lab, tmp_path: Path, usage: dict[str, Any], most: int | None) -> None:
    till = await Till.of(lab, tmp_path)
    bill = await till.play(W.CHAT.target, *_chat(usage, most=most))
    assert bill.line["disbelieved_report"] == {
        "input_tokens": usage["prompt_tokens"],
        "output_tokens": usage["completion_tokens"],
    }
    assert await till.metric("flow_reports_disbelieved_total") == 1
    assert bill.line["estimated"] is True
    assert bill.charge < 100


async def test_several_answers_may_have_the_bound_each(lab: Lab, tmp_path: Path) -> None:
    till = await Till.of(lab, tmp_path)
    _, given = _chat({"prompt_tokens": 7, "completion_tokens": 190})
    bill = await till.play(W.CHAT.target, W.CHAT.body | {"max_tokens": 100, "n": 2}, given)
    assert is_paid(bill, 190)


@streams
async def test_content_behind_the_report_is_charged_too(lab: Lab, tmp_path: Path, stream: Stream) -> None:
    till = await Till.of(lab, tmp_path)
    more = [stream.content(text) for text in TEXTS * 4]
    given = answer(*stream.events(TEXTS, 9), *more, kind=stream.kind.decode())
    bill = await till.play(stream.target, asking(stream), given)
    assert bill.sums_up
    assert bill.line["estimated"] is True
    assert bill.output > 20


@pytest.mark.parametrize("budget", [None, 20])
async def test_a_cut_behind_a_report_tells_what_is_charged(lab: Lab, tmp_path: Path, budget: int | None) -> None:
    till = await Till.of(lab, tmp_path)
    more = [S.CHAT.content(text) for text in TEXTS * 4]
    given = answer(*S.CHAT.opening, S.chat_report(3), *more, S.DONE)
    bill = await till.play(S.CHAT.target, asking(S.CHAT), given, budget=budget)
    assert bill.sums_up
    assert told(bill.body) == ((7, 3) if budget is None else (bill.input, bill.output))


def _count(output: int, text: str = "") -> bytes:
    """A chunk with a running count, as vLLM sends it."""
    usage = {"prompt_tokens": INPUT, "completion_tokens": output, "total_tokens": INPUT + output}
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return b"data: %b\n\n" % orjson.dumps({"id": "c", "model": "m", "choices": [choice], "usage": usage})


async def test_running_counts_without_a_last_one_are_an_estimate(lab: Lab, tmp_path: Path) -> None:
    till = await Till.of(lab, tmp_path)
    counts = [_count(3 * number, " word") for number in range(1, 8)]
    bill = await till.play(S.CHAT.target, asking(S.CHAT), answer(*counts, ends=False))
    assert (bill.input, bill.output, bill.charge) == (INPUT, 21, INPUT + 21)
    assert bill.line["estimated"] is True


# --- what the model writes ---

FORGED = '{"usage": {"prompt_tokens": 1, "completion_tokens": 0, "total_tokens": 1}, "usageMetadata": {}}'


@streams
async def test_a_report_in_a_stream_s_text_is_text(lab: Lab, tmp_path: Path, stream: Stream) -> None:
    till = await Till.of(lab, tmp_path)
    texts = [FORGED, f"\n\ndata: {FORGED}\n\n", f"\r\n{FORGED}\r\n", "data: [DONE]\n\n"]
    for size in (13, 100_000):
        assert is_paid(await till.play(stream.target, asking(stream), played(stream, 90, texts).cut(size)), 90)
        bill = await till.play(
            stream.target,
            asking(stream),
            answer(*stream.opening, *map(stream.content, texts), kind=stream.kind.decode(), ends=False),
        )
        assert bill.output > 40
        assert bill.line["estimated"] is True


@pytest.mark.parametrize("size", [0, 400_000])
async def test_a_report_in_the_arguments_of_a_tool_is_none(lab: Lab, tmp_path: Path, size: int) -> None:
    till = await Till.of(lab, tmp_path)
    forged = orjson.loads(FORGED) | {"usage": {"input_tokens": 1, "output_tokens": 0}, "text": "word " * (size // 5)}
    forged["usageMetadata"] = {"promptTokenCount": 1, "candidatesTokenCount": 0, "totalTokenCount": 1}
    use = {"type": "tool_use", "id": "t", "name": "f", "input": forged}
    call = {"functionCall": {"name": "f", "args": forged}}
    tool = {"toolUse": {"toolUseId": "t", "name": "f", "input": forged}}
    for whole, content in (
        (W.MESSAGES, {"content": [use]}),
        (W.GEMINI, {"candidates": [{"content": {"parts": [call], "role": "model"}, "finishReason": "STOP"}]}),
        (W.CONVERSE, {"output": {"message": {"role": "assistant", "content": [tool]}}}),
    ):
        tokens = 50 + size // 4
        body = orjson.dumps(whole.report(tokens) | whole.content("") | content)
        request = whole.body | ({"max_tokens": 200_000} if whole is W.MESSAGES else {})
        assert is_paid(await till.play(whole.target, request, answer(body, kind=JSON)), tokens), whole.name


# --- several answers, and those of their own kind ---


def _choice(index: int, text: str, finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": index, "delta": {"content": text} if text else {}, "finish_reason": finish}
    return b"data: %b\n\n" % orjson.dumps({"id": "c", "model": "m", "choices": [choice]} | more)


def _used(prompt: int, output: int, **more: Any) -> dict[str, Any]:
    return {"usage": {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output} | more}


TWO = (_choice(0, "Not"), _choice(1, "Not"), _choice(0, " much"), _choice(1, " a lot"))


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        # One reason for both, and the report beside a choice.
        ((_choice(0, "", "stop"), _choice(0, "", **_used(13, 27)), _choice(0, ""), S.DONE), (13, 27)),
        # Each choice tells of itself.
        ((_choice(0, "", "stop", **_used(13, 11)), _choice(1, "", "stop", **_used(13, 16)), S.DONE), (13, 27)),
        ((_choice(0, "", "stop"), _choice(1, "", "stop"), S.chat_report(27), S.DONE), (7, 27)),
    ],
    ids=["beside-a-choice", "by-choice", "total"],
)
async def test_two_choices_cost_their_sum(
    lab: Lab, tmp_path: Path, ending: tuple[bytes, ...], expected: tuple[int, int]
) -> None:
    till = await Till.of(lab, tmp_path)
    bill = await till.play(S.CHAT.target, asking(S.CHAT) | {"n": 2}, answer(*TWO, *ending))
    assert ((bill.input, bill.output), bill.line["estimated"]) == (expected, False)
    assert bill.charge == sum(expected)


async def test_audio_apart_is_input(lab: Lab, tmp_path: Path) -> None:
    till = await Till.of(lab, tmp_path)
    details = {"audio_tokens": 375, "cached_tokens": 9}
    usage = {"prompt_tokens": 11, "completion_tokens": 15, "total_tokens": 401, "prompt_tokens_details": details}
    bill = await till.play(S.CHAT.target, asking(S.CHAT), answer(_choice(0, "ok", "stop", usage=usage), S.DONE))
    assert (bill.input, bill.output, bill.charge, bill.line["estimated"]) == (386, 15, 401, False)


async def test_what_a_cache_read_and_took_is_input(lab: Lab, tmp_path: Path) -> None:
    till = await Till.of(lab, tmp_path)
    usage = {"input_tokens": 11, "cache_creation_input_tokens": 500, "cache_read_input_tokens": 3000}
    body = orjson.dumps(W.MESSAGES.content(TEXT) | {"usage": usage | {"output_tokens": 20}})
    bill = await till.play(W.MESSAGES.target, W.MESSAGES.body, answer(body, kind=JSON))
    assert (bill.charge, bill.output, bill.line["estimated"]) == (3531, 20, False)
    assert (bill.line["cached_tokens"], bill.line["cache_written_tokens"]) == (3000, 500)


async def test_what_iterations_and_tools_used_is_charged(lab: Lab, tmp_path: Path) -> None:
    till = await Till.of(lab, tmp_path)
    steps = [{"input_tokens": 40, "output_tokens": 30}, {"input_tokens": 10, "output_tokens": 12}]
    usage = {"input_tokens": 10, "output_tokens": 12, "iterations": steps}
    body = orjson.dumps(W.MESSAGES.content(TEXT) | {"usage": usage})
    bill = await till.play(W.MESSAGES.target, W.MESSAGES.body, answer(body, kind=JSON))
    assert (bill.input, bill.output, bill.charge) == (50, 42, 92)
    report = {"promptTokenCount": 10, "toolUsePromptTokenCount": 90, "candidatesTokenCount": 12}
    body = orjson.dumps(W.GEMINI.content(TEXT) | {"usageMetadata": report})
    bill = await till.play(W.GEMINI.target, W.GEMINI.body, answer(body, kind=JSON))
    assert (bill.input, bill.output, bill.charge) == (100, 12, 112)


async def test_counts_in_the_head_of_an_answer_are_a_report(lab: Lab, tmp_path: Path) -> None:
    till = await Till.of(lab, tmp_path)
    heads = ("x-amzn-bedrock-input-token-count: 30", "x-amzn-bedrock-output-token-count: 20")
    given = answer(b'{"generation": "hello"}', kind=JSON, fields=heads)
    bill = await till.play("/model/meta.llama/invoke", {"prompt": "x", "max_gen_len": 100}, given)
    assert (bill.input, bill.output, bill.charge, bill.line["estimated"]) == (30, 20, 50, False)


# --- fetched answers ---


def _response(tokens: int | None, **more: Any) -> Answer:
    body = W.RESPONSES.content(TEXT) | (W.RESPONSES.report(tokens) if tokens is not None else {"usage": None})
    return answer(orjson.dumps(body | more), kind=JSON)


async def test_a_response_is_charged_once_wherever_it_is_fetched(lab: Lab, tmp_path: Path) -> None:
    till = await Till.of(lab, tmp_path)
    queued = _response(None, status="queued", output=[])
    begun = await till.play("/v1/responses", W.RESPONSES.body | {"background": True}, queued)
    charges = [begun.charge]
    for given in (_response(None, status="in_progress", output=[]), _response(50), _response(50)):
        charges.append((await till.play("/v1/responses/resp_1", None, given, method="GET")).charge)
    assert charges[1:] == [0, INPUT + 50 - begun.charge, 0]


async def test_a_response_whose_id_came_before_is_charged_again(lab: Lab, tmp_path: Path) -> None:
    """Some servers let clients choose the id."""
    till = await Till.of(lab, tmp_path)
    charges = [(await till.play("/v1/responses", W.RESPONSES.body, _response(tokens))).charge for tokens in (50, 50, 9)]
    assert charges == [57, 57, 16]
    assert (await till.play("/v1/responses/resp_1", None, _response(9), method="GET")).charge == 0


# --- ends ---


@pytest.mark.parametrize("http2", [False, True], ids=["h1", "h2"])
@streams
async def test_a_cut_tells_what_is_charged(lab: Lab, tmp_path: Path, stream: Stream, http2: bool) -> None:
    till = await Till.of(lab, tmp_path)
    events = [*stream.opening, *map(stream.content, TEXTS * 4)]
    for budget in (1, 2, 3, 5, 8):
        given = answer(*events, kind=stream.kind.decode(), holds=True)
        bill = await till.play(stream.target, asking(stream), given, budget=budget, http2=http2)
        assert bill.line["end"] == "budget"
        assert bill.whole
        assert bill.output <= budget
        assert bill.sums_up
        assert told(bill.body) == (bill.input, bill.output), bill.body[-300:]


@pytest.mark.parametrize("stream", [s for s in STREAMS if s.kind == S.SSE], ids=lambda stream: stream.name)
async def test_a_cut_of_lines_is_lines(lab: Lab, tmp_path: Path, stream: Stream) -> None:
    """Of formats that are events elsewhere."""
    till = await Till.of(lab, tmp_path)
    events = [*stream.opening, *map(stream.content, TEXTS * 4)]
    lines = [line[6:] + b"\n" for event in events for line in event.splitlines() if line.startswith(b"data: ")]
    bill = await till.play(stream.target, asking(stream), answer(*lines, kind=LINES, holds=True), budget=3)
    assert [orjson.loads(line) for line in bill.body.splitlines()]
    assert told(bill.body) == (bill.input, bill.output)
    assert bill.sums_up


@pytest.mark.parametrize("http2", [False, True], ids=["h1", "h2"])
@streams
async def test_who_leaves_is_charged_for_what_came(lab: Lab, tmp_path: Path, stream: Stream, http2: bool) -> None:
    till = await Till.of(lab, tmp_path)
    events = stream.events(TEXTS, 9)
    outputs = []
    for count in range(1, len(events)):
        given = answer(*events[:count], kind=stream.kind.decode(), holds=True)
        bill = await till.play(stream.target, asking(stream), given, leaves=len(given.body), http2=http2)
        assert bill.line["end"] == "client_gone"
        assert bill.sums_up
        outputs.append(bill.output)
    assert outputs == sorted(outputs)
    assert outputs[len(stream.opening) + len(TEXTS) - 1] >= 5


@streams
async def test_an_answer_that_breaks_off_is_charged_for_what_came(lab: Lab, tmp_path: Path, stream: Stream) -> None:
    till = await Till.of(lab, tmp_path)
    events = stream.events(TEXTS, 9)
    outputs = []
    for count in range(len(events)):
        given = answer(*events[:count], b"".join(events[count:])[:20], kind=stream.kind.decode(), ends=False)
        bill = await till.play(stream.target, asking(stream), given, http2=count % 2 > 0)
        assert not bill.whole
        assert bill.sums_up
        outputs.append(bill.output)
    assert outputs == sorted(outputs)
    assert outputs[-1] >= 5


@wholes
async def test_a_whole_answer_is_charged_as_far_as_it_came(lab: Lab, tmp_path: Path, whole: Whole) -> None:
    till = await Till.of(lab, tmp_path)
    body = whole.answer(TEXT * 20, 200)
    outputs = []
    for part in (0.02, 0.3, 0.6, 0.9):
        piece = body[: int(len(body) * part)]
        left = answer(piece, kind=JSON, holds=True)
        gone = await till.play(whole.target, whole.body, left, leaves=len(piece), http2=part == 0.6)
        broken = await till.play(whole.target, whole.body, answer(piece, kind=JSON, ends=False))
        assert gone.sums_up
        assert broken.sums_up
        assert gone.output == broken.output
        assert gone.line["estimated"] is broken.line["estimated"] is True
        outputs.append(gone.output)
    assert outputs == sorted(outputs)
    assert outputs[-1] >= 100 or whole in (W.IMAGES, *NO_OUTPUT)
    assert outputs[-1] <= 400


# --- arrays ---

ARRAY = "/v1beta/models/m:streamGenerateContent"


def _array(between: bytes, texts: list[str] = TEXTS) -> bytes:
    return b"[" + between.join(event[6:-2] for event in S.GEMINI.events(texts, 9)) + b"\n]\n"


@pytest.mark.parametrize("http2", [False, True], ids=["h1", "h2"])
@pytest.mark.parametrize("between", [b",", b",\r\n", b"\n,\n"])
async def test_an_array_stays_one_wherever_it_is_cut(lab: Lab, tmp_path: Path, between: bytes, http2: bool) -> None:
    till = await Till.of(lab, tmp_path)
    for size in (1, 30, 100_000):
        for budget in (None, 1, 2, 3, 4, 5):
            given = answer(_array(between), kind=JSON).cut(size)
            bill = await till.play(ARRAY, S.GEMINI.body, given, budget=budget, http2=http2)
            events = json.loads(bill.body)
            assert bill.sums_up
            assert told(bill.body) == (bill.input, bill.output)
            assert bill.whole
            if budget is None:
                assert is_paid(bill)
            else:
                assert bill.line["end"] == "budget"
                assert events[-1]["candidates"][0]["finishReason"] == "MAX_TOKENS"


@pytest.mark.parametrize("stream", [s for s in STREAMS if s.kind == S.SSE], ids=lambda stream: stream.name)
async def test_an_array_of_any_format_stays_one(lab: Lab, tmp_path: Path, stream: Stream) -> None:
    till = await Till.of(lab, tmp_path)
    events = [*stream.opening, *map(stream.content, TEXTS * 4)]
    values = [line[6:] for event in events for line in event.splitlines() if line.startswith(b"data: ")]
    given = answer(b"[" + b",".join(values) + b"]", kind=JSON, holds=True).cut(50)
    bill = await till.play(stream.target, asking(stream), given, budget=3)
    assert len(json.loads(bill.body)) >= 2
    assert told(bill.body) == (bill.input, bill.output)
    assert bill.sums_up


async def test_who_leaves_an_array_is_charged_for_what_came(lab: Lab, tmp_path: Path) -> None:
    till = await Till.of(lab, tmp_path)
    body = _array(b",", TEXTS * 4)
    for part in (0.3, 0.6, 0.95):
        piece = body[: int(len(body) * part)]
        piece = piece[: piece.rfind(b"}") + 1]
        bill = await till.play(ARRAY, S.GEMINI.body, answer(piece, kind=JSON, holds=True), leaves=len(piece) - 200)
        assert bill.sums_up
        assert bill.line["estimated"] is True
        assert bill.output >= 28 * part * 0.7
