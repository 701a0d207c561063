"""What one request asks for, and what a provider gets of it."""

from __future__ import annotations

from itertools import repeat
from typing import Any

import orjson
import pytest

from flowserver.dialects import recognise
from flowserver.http.messages import RequestHead
from flowserver.relay.request_reading import RequestReading
from flowserver.relay.request_rewrite import RequestRewrite
from flowserver.routing.upstream_host import UpstreamHost
from tests.support.recording import target as any_host
from tests.support.scanning import pieces

CHAT = "/v1/chat/completions"
SIGNED = [(b"authorization", b"AWS4-HMAC-SHA256 Credential=A/20260101/us-east-1/bedrock/aws4_request, Signature=f")]


def target(**settings: Any) -> UpstreamHost:
    """A provider that is never asked."""
    return any_host(name="p", **settings)


def reading(path: str, *headers: tuple[bytes, bytes], method: bytes = b"POST") -> RequestReading:
    request = RequestHead(method, path.encode(), list(headers), has_body=True)
    made = RequestReading(request, recognise(path))
    made.open()
    return made


def read(path: str, body: bytes, *headers: tuple[bytes, bytes], size: int = 1 << 20) -> RequestReading:
    made = reading(path, *headers)
    for piece in pieces(body, repeat(size)):
        assert made.feed(piece) is None
    made.finish()
    return made


def rewrite(made: RequestReading) -> RequestRewrite:
    return RequestRewrite(RequestHead(b"POST", b"/", []), made, has_tenants=False)


def sent(made: RequestReading | RequestRewrite, body: bytes, to: UpstreamHost, most: int | None = None) -> bytes:
    """The body as the provider gets it."""
    rewriting = rewrite(made) if isinstance(made, RequestReading) else made
    changed = rewriting.body(to, [body], most=most, repeatable=True)
    if changed is None:
        return body
    assert len(b"".join(changed[0])) == len(body) + changed[1]
    return b"".join(changed[0])


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_a_chat_is_read_and_changed(size: int) -> None:
    body = b'{"messages":[{"role":"user","content":"{\\"model\\":1}"}], "max_tokens" : 5e2,"stream":true,"model":"a"}'
    made = read(CHAT, body, size=size)
    assert made.error(limited=True) is None
    assert (made.params.model, made.params.stream, made.params.max_tokens) == ("a", True, 500)
    assert 0 < made.input_estimate <= len(body)
    rewriting = rewrite(made)
    text = sent(rewriting, body, target(models={"a": "b"}), most=50)
    assert text == body.replace(b"5e2", b"50").replace(b'"a"}', b'"b","stream_options":{"include_usage":true}}')
    assert rewriting.asks_usage
    made.forget()
    assert sent(made, body, target(models={"a": "b"}), most=50) == body


@pytest.mark.parametrize("stream", ["true", "false"])
def test_the_estimate_is_the_same_once_the_answer_has_begun(stream: str) -> None:
    body = b'{"messages":[{"role":"user","content":"%b"}],"stream":%b}' % (b"Go on. " * 50, stream.encode())
    early, late = read(CHAT, body), read(CHAT, body)
    late.forget()
    assert late.input_estimate == early.input_estimate > 50


def test_an_answer_that_begins_before_the_request_s_end_does_not_cut_the_estimate() -> None:
    body = b'{"stream":true,"messages":[{"role":"user","content":"%b"}]}' % (b"Go on. " * 50)
    made, whole = reading(CHAT), read(CHAT, body)
    made.feed(body[:40])
    made.forget()
    made.feed(body[40:])
    made.finish()
    assert made.input_estimate == whole.input_estimate


def test_each_provider_gets_its_own_change() -> None:
    body = b'{"model":"a","stream":true}'
    made = rewrite(read(CHAT, body))
    assert b'"b"' in sent(made, body, target(models={"a": "b"}))
    assert sent(made, body, target(asks_usage=False, models={"a": "c"})) == b'{"model":"c","stream":true}'
    assert not made.asks_usage
    assert sent(made, body, target(asks_usage=False)) == body


UNREADABLE = [
    (b"\xef\xbb\xbf{}", ()),
    ('{"model":"a"}'.encode("utf-16"), ()),
    (b'{"max_tokens":NaN}', ()),
    (b'{"model":"a"', ()),
    (b"\x1f\x8b", [(b"content-encoding", b"gzip")]),
    (b"--B--\r\n", [(b"content-type", b"multipart/form-data; boundary=B")]),
]


@pytest.mark.parametrize(("body", "headers"), UNREADABLE)
def test_what_can_t_be_read_may_go_on_where_nothing_limits_it(body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    made = read(CHAT, body, *headers)
    refused = made.error(limited=True)
    assert refused is made.unread
    assert refused is not None
    assert refused.status in (400, 415)
    assert made.error(limited=False) is None
    assert made.params.model is None
    assert sent(made, body, target(models={"a": "b"}), most=5) == body


@pytest.mark.parametrize("body", [b'{"model":"a","model":"a"}', b'{"Model":"a"}', b'{"model":"a","max_TOKENS":1}'])
def test_what_is_ambiguous_may_not(body: bytes) -> None:
    made = read(CHAT, body)
    for limited in (False, True):
        refused = made.error(limited=limited)
        assert refused is not None
        assert refused.code == "ambiguous_body"


@pytest.mark.parametrize(
    ("path", "body", "refused"),
    [
        ("/openai/deployments/a/chat/completions", b'{"model":"b"}', True),
        ("/openai/deployments/a/chat/completions", b'{"model":"a"}', False),
        ("/openai/deployments/a/chat/completions", b"{}", False),
        ("/openai/deployments/a/chat/completions", b'{"model":null}', False),
        ("/v1beta/models/a:generateContent", b'{"model":"models/a"}', False),
        ("/v1beta/models/a:generateContent", b'{"model":"models/b"}', True),
        ("/model/a/converse", b'{"model":"b"}', True),
        ("/v1/engines/a/completions", b'{"model":"b"}', True),
        ("/openai/deployments/a/audio/speech", b'{"model":"b"}', True),
        (CHAT, b'{"model":"b"}', False),
    ],
)
def test_a_body_that_contradicts_its_path_is_refused(path: str, body: bytes, refused: bool) -> None:
    found = read(path, body).error(limited=False)
    assert (found is not None and found.code == "ambiguous_model") == refused


MULTIPART = (b"content-type", b"multipart/form-data; boundary=B")
MODEL = b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\na\r\n'
FILE = b'--B\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nRIFF\r\n'
TRANSCRIPTIONS = "/v1/audio/transcriptions"


def test_a_form_is_known_when_its_model_is() -> None:
    made = reading(TRANSCRIPTIONS, MULTIPART)
    known = []
    for piece in (FILE + MODEL, b"--B\r\n"):
        made.feed(piece)
        known.append(made.is_known)
    assert known == [False, True]
    assert made.params.model == "a"
    assert made.error(limited=True) is None
    body = FILE + MODEL + b"--B\r\n"
    assert sent(made, body, target(models={"a": "model-a"})) == body.replace(b"\r\na\r\n", b"\r\nmodel-a\r\n")


@pytest.mark.parametrize(
    ("second", "limited", "refused"),
    [
        (MODEL, False, True),
        (MODEL.replace(b'"model"', b'"MODEL"'), False, True),
        (MODEL.replace(b'"model"', b"model"), True, True),
        (MODEL.replace(b'name="model"', b"name*=utf-8''model"), True, True),
        (MODEL.replace(b'name="model"', b"name*=utf-8''model"), False, False),
        (FILE, True, False),
    ],
)
def test_a_second_model_behind_the_first_is_refused_though_it_was_let_in(
    second: bytes, limited: bool, refused: bool
) -> None:
    made = reading(TRANSCRIPTIONS, MULTIPART)
    assert made.feed(MODEL + FILE) is None
    assert made.is_known
    assert made.error(limited=limited) is None
    found = made.feed(second)
    assert (found is not None) == refused
    assert found is None or found.status == 400


def test_a_path_that_is_no_known_api_has_a_model_all_the_same() -> None:
    body = b'{"model":"a","stream":true,"Stream":false}'
    made = read("/v1/unheard-of", body)
    assert made.error(limited=True) is None
    assert made.params.model == "a"
    assert sent(made, body, target(models={"a": "b"}), most=5) == body.replace(b'"a"', b'"b"')


def test_a_long_prompt_of_a_completion_is_read() -> None:
    body = orjson.dumps({"prompt": "p" * 50_000, "model": "a", "max_tokens": 500})
    made = read("/v1/completions", body, size=10_000)
    assert made.error(limited=True) is None
    assert made.params.answers == 1
    assert sent(made, body, target(), most=50) == body.replace(b"500", b"50")
