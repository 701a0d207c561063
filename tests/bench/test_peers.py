"""The configurations of the relays beside which the suite measures: each starts and passes a stream on."""

from __future__ import annotations

import socket

import pytest

from bench.client import request
from bench.peers import PEERS, Wiring, certificate, in_round, those_that
from bench.processes import Process, free_port
from bench.source import command

STARTED = ("flowserver", "nginx", "haproxy", "envoy", "caddy")


@pytest.mark.slow
@pytest.mark.parametrize("name", STARTED)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_a_stream_passes(name: str, tls: bool) -> None:
    peer = PEERS[name]
    if not peer.available():
        pytest.skip(f"{name} is not installed: {peer.install}")
    with certificate() as made:
        if tls and made is None:
            pytest.skip("openssl is not installed")
        wiring = Wiring(certificate=made if tls else None)
        port = free_port()
        source = command(port, rate=50, size=250, tls=(made.file, made.key) if tls and made is not None else None)
        with (
            Process(source, port),
            peer.start(port, wiring) as relay,
            socket.create_connection(("127.0.0.1", relay.port), 10) as client,
        ):
            client.sendall(request())
            answer = b""
            while answer.count(b"data: ") < 3:
                read = client.recv(65536)
                assert read, answer
                answer += read
    assert answer.startswith(b"HTTP/1.1 200")


def test_only_those_that_speak_a_wiring_are_measured() -> None:
    assert those_that(("nginx", "envoy", "direct"), Wiring(client="h2", provider="h2")) == ["envoy", "direct"]
    assert those_that(("litellm", "caddy"), Wiring(client="h2")) == ["caddy"]
    assert those_that(("direct", "nginx"), Wiring(client="h2", provider="h1")) == ["nginx"]


def test_those_that_are_far_off_sit_out_the_later_rounds() -> None:
    names = ["flowserver", "nginx", "envoy", "litellm", "direct"]
    assert [sorted(in_round(names, number, 2)) for number in range(3)] == [
        sorted(names),
        ["direct", "envoy", "flowserver", "nginx"],
        ["flowserver", "nginx"],
    ]
    assert in_round(names, 7, None) == ["envoy", "direct", "flowserver", "nginx"]
