"""A request waits until it is whole and signed; then everything passes through."""

from __future__ import annotations

from collections.abc import Sequence

from flowserver.errors import EndReason, RelayError, upstream_error
from flowserver.http.messages import Headers, RequestHead
from flowserver.relay.interfaces import UpstreamStream
from flowserver.upstream.signing import Signed, SigningConnector

from ..support.recording import RecordingConnector, RecordingUpstreamEvents

NOT_FOUND = upstream_error("no_aws_credentials", "None.", EndReason.REFUSED)
SIGNATURE: Headers = [(b"authorization", b"AWS4"), (b"x-amz-date", b"now")]


class LaterSigner:
    """Signs when a test says so."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.waiting: list[Signed] = []

    def sign(self, request: RequestHead, body: Sequence[bytes], done: Signed) -> None:
        self.bodies.append(b"".join(body))
        self.waiting.append(done)

    def finish(self, result: Headers | RelayError) -> None:
        self.waiting.pop()(result)


class Scene:
    def __init__(self, method: bytes = b"POST", *, has_body: bool = True) -> None:
        self.inner, self.signer, self.events = RecordingConnector(), LaterSigner(), RecordingUpstreamEvents()
        headers = [(b"host", b"p"), (b"x-amz-date", b"then"), (b"via", b"1.1 r")]
        request = RequestHead(method, b"/model/m/invoke", headers, has_body=has_body)
        self.stream: UpstreamStream = SigningConnector(self.inner, self.signer).open(request, self.events)

    def send(self, *pieces: bytes) -> Scene:
        for data in pieces:
            self.stream.send_data(data)
        self.stream.send_end()
        return self


def test_nothing_leaves_before_the_signature() -> None:
    scene = Scene()
    scene.stream.send_data(b"ab")
    assert (scene.signer.bodies, scene.inner.requests) == ([], [])
    scene.send(b"cde")
    assert (scene.signer.bodies, scene.inner.requests) == ([b"abcde"], [])
    scene.signer.finish(SIGNATURE)
    [head] = scene.inner.requests
    assert head.headers == [(b"host", b"p"), (b"via", b"1.1 r"), *SIGNATURE]
    assert (head.content_length, head.has_body, head.body_follows) == (5, True, True)
    assert scene.inner.streams[0].log == ["data 2", "data 3", "end"]


def test_a_request_without_a_body_gets_none() -> None:
    scene = Scene(b"GET", has_body=False).send()
    scene.signer.finish(SIGNATURE)
    [head] = scene.inner.requests
    assert (head.content_length, head.has_body, head.body_follows) == (None, False, False)
    assert scene.inner.streams[0].log == ["end"]


def test_a_request_that_is_cancelled_is_not_sent_when_its_signature_comes() -> None:
    scene = Scene().send(b"a")
    scene.stream.cancel()
    scene.signer.finish(SIGNATURE)
    assert (scene.inner.requests, scene.events.log) == ([], [])


def test_an_end_behind_the_cancel_is_not_signed() -> None:
    scene = Scene()
    scene.stream.cancel()
    scene.stream.send_end()
    assert scene.signer.bodies == []


def test_a_request_that_can_not_be_signed_fails() -> None:
    scene = Scene().send(b"a")
    scene.signer.finish(NOT_FOUND)
    assert scene.events.errors == [NOT_FOUND]
    assert scene.inner.requests == []


def test_what_was_asked_for_meanwhile_holds() -> None:
    scene = Scene().send(b"a")
    scene.stream.pause_reading()
    scene.signer.finish(SIGNATURE)
    scene.stream.resume_reading()
    scene.stream.cancel()
    assert scene.inner.streams[0].log == ["pause", "data 1", "end", "resume", "cancel"]


def test_a_preflight_goes_unsigned() -> None:
    scene = Scene(b"OPTIONS", has_body=False).send()
    assert scene.signer.bodies == []
    assert len(scene.inner.requests) == 1
