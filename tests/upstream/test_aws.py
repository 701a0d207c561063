"""Credentials of AWS: found and renewed beside the event loop."""

from __future__ import annotations

import asyncio
import builtins
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from flowserver.errors import RelayError
from flowserver.http.messages import Headers, RequestHead
from flowserver.upstream.aws import (
    HASHED_AT_ONCE,
    LAST_MINUTE,
    NO_CREDENTIALS,
    RENEWAL,
    RETRY,
    AwsSigner,
    Credentials,
    CredentialSource,
    SigningUnavailable,
    aws_signer,
    region_of,
)

from ..support.clock import FakeClock
from ..support.sigv4 import shown, signature

REQUEST = RequestHead(b"POST", b"/model/a%3A0/invoke", [(b"host", b"bedrock.test"), (b"content-type", b"a/b")])


class Source(CredentialSource):
    """Credentials that end when a test says so."""

    def __init__(self) -> None:
        super().__init__(None)
        self.loads = 0
        self.left = float("inf")
        self.next: Credentials | Exception | None = Credentials("AKID", "secret", None)

    def load(self) -> Credentials | None:
        self.loads += 1
        if isinstance(self.next, Exception):
            raise self.next
        return self.next

    def ends_within(self, seconds: int) -> bool:
        return self.left < seconds


class Scene:
    """What runs beside the loop runs when a test says so."""

    def __init__(self) -> None:
        self.source, self.clock = Source(), FakeClock()
        self.jobs: list[Callable[[], None]] = []
        self.signer = AwsSigner(self.source, "us-east-1", self.clock, background=self.jobs.append)
        self.signed: list[Headers | RelayError] = []

    async def work(self) -> None:
        while self.jobs:
            self.jobs.pop(0)()
            await asyncio.sleep(0)

    def sign(self, body: bytes = b"{}") -> None:
        self.signer.sign(REQUEST, [body], self.signed.append)

    @property
    def keys(self) -> list[str | None]:
        """Which credentials signed."""
        found: list[str | None] = []
        for fields in self.signed:
            assert isinstance(fields, list)
            said = shown(dict(fields)[b"authorization"].decode())
            found.append(said.access_key if said is not None else None)
        return found


@pytest.fixture
async def scene() -> Scene:
    pytest.importorskip("botocore")
    return Scene()


async def test_they_are_looked_for_at_the_start_and_requests_wait_for_them(scene: Scene) -> None:
    scene.sign()
    scene.sign()
    assert scene.signed == []
    await scene.work()
    assert scene.keys == ["AKID", "AKID"]
    scene.sign()
    assert (scene.keys, scene.source.loads) == (["AKID"] * 3, 1)


async def test_a_signature_is_what_the_specification_says(scene: Scene) -> None:
    await scene.work()
    scene.source.next = Credentials("AKID", "secret", "token")
    scene.sign(b"abc")
    [fields] = scene.signed
    assert isinstance(fields, list)
    headers = {name.decode(): value.decode() for name, value in [*REQUEST.headers, *fields]}
    said = shown(headers["authorization"])
    assert said is not None
    assert said.names == ("content-type", "host", "x-amz-content-sha256", "x-amz-date")
    scope = f"{said.day}/us-east-1/bedrock/aws4_request"
    assert said.signature == signature("secret", "POST", "/model/a%3A0/invoke", headers, b"abc", said.names, scope)


async def test_near_their_end_they_are_renewed_and_nobody_waits(scene: Scene) -> None:
    await scene.work()
    scene.source.left, scene.source.next = RENEWAL - 1, Credentials("AKID2", "secret", None)
    scene.clock.now += RETRY
    scene.sign()
    scene.sign()
    assert (scene.keys, len(scene.jobs)) == (["AKID", "AKID"], 1)
    await scene.work()
    scene.sign()
    assert scene.keys[-1] == "AKID2"


async def test_at_their_end_requests_wait_for_new_ones(scene: Scene) -> None:
    await scene.work()
    scene.source.left, scene.source.next = LAST_MINUTE - 1, Credentials("AKID2", "secret", None)
    scene.sign()
    assert scene.signed == []
    scene.source.left = 3600
    await scene.work()
    assert scene.keys == ["AKID2"]


async def test_a_renewal_that_fails_is_tried_again_now_and_then(scene: Scene) -> None:
    await scene.work()
    scene.source.left, scene.source.next = RENEWAL - 1, OSError("no metadata")
    scene.clock.now += RETRY
    scene.sign()
    await scene.work()
    assert scene.source.loads == 2
    scene.sign()
    await scene.work()
    assert (scene.keys, scene.source.loads) == (["AKID", "AKID"], 2)
    scene.clock.now += RETRY
    scene.sign()
    await scene.work()
    assert scene.source.loads == 3


@pytest.mark.parametrize("found", [None, OSError("a profile that is not there")])
async def test_without_any_each_request_is_told_and_they_are_looked_for_again(
    scene: Scene, found: Exception | None
) -> None:
    scene.source.next = found
    scene.sign()
    await scene.work()
    scene.sign()
    await scene.work()
    assert scene.signed == [NO_CREDENTIALS, NO_CREDENTIALS]
    scene.source.next = Credentials("AKID", "secret", None)
    scene.signed.clear()
    scene.sign()
    await scene.work()
    assert scene.keys == ["AKID"]


async def test_a_large_body_is_hashed_beside_the_loop(scene: Scene) -> None:
    await scene.work()
    scene.sign(b"x" * (HASHED_AT_ONCE + 1))
    assert (scene.signed, len(scene.jobs)) == ([], 1)
    await scene.work()
    assert scene.keys == ["AKID"]


async def test_a_source_that_hangs_stops_no_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    botocore = pytest.importorskip("botocore.session")
    release = threading.Event()

    def hang(session: object) -> Any:
        release.wait(10)

    monkeypatch.setattr(botocore.Session, "get_credentials", hang)
    signer = aws_signer("bedrock-runtime.us-east-1.amazonaws.com", FakeClock())
    signed: list[Headers | RelayError] = []
    signer.sign(REQUEST, [], signed.append)
    await asyncio.wait_for(asyncio.sleep(0.02), 1)
    assert signed == []
    release.set()
    for _ in range(200):
        if signed:
            break
        await asyncio.sleep(0.01)
    assert signed == [NO_CREDENTIALS]


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("bedrock-runtime.us-east-1.amazonaws.com", "us-east-1"),
        ("Bedrock-Runtime-FIPS.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("bedrock-runtime.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("vpce-0a1b-c2d.bedrock-runtime.ap-southeast-2.vpce.amazonaws.com", "ap-southeast-2"),
        ("bedrock.eu-central-1.amazonaws.com", "eu-central-1"),
        ("127.0.0.1", None),
        ("bedrock.example.com", None),
    ],
)
def test_a_host_names_its_region(host: str, region: str | None) -> None:
    assert region_of(host) == region


async def test_without_botocore_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "botocore"]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "botocore":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SigningUnavailable, match="pip install botocore"):
        aws_signer("bedrock-runtime.us-east-1.amazonaws.com", FakeClock())
