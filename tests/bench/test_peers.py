"""The configurations of the relays beside which the suite measures: each starts and passes a stream on."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from bench.client import Client, Connection, request
from bench.h2_client import H2Connection
from bench.peers import (
    PEERS,
    PLAIN,
    ROUNDS_OF_A_START,
    Running,
    Wiring,
    certificate,
    in_round,
    side_by_side,
    those_that,
)
from bench.processes import Process, cpu_ns, free_port, wait_until_at_rest
from bench.source import command

STARTED = ("flowserver", "nginx", "haproxy", "envoy", "caddy")


@pytest.mark.serial
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


class Reader(H2Connection):
    def on_stream_data(self, stream: int, data: bytes) -> None: ...


@pytest.mark.serial
@pytest.mark.slow
@pytest.mark.parametrize("name", STARTED)
@pytest.mark.parametrize("client", ["h1", "h2"])
@pytest.mark.parametrize("provider", ["h1", "h2"])
def test_the_provider_rests_when_clients_have_gone(name: str, client: str, provider: str) -> None:
    peer = PEERS[name]
    wiring = Wiring(client=client, provider=provider, streams=100)
    if not peer.available() or not peer.supports(wiring):
        pytest.skip(f"{name} is not installed, or does not speak so")
    port = free_port()
    with Process(command(port, rate=50), port) as source, peer.start(port, wiring) as relay:
        with Client[Connection]() as clients:
            if client == "h1":
                for _ in range(20):
                    clients.add(Connection(relay.port)).send(request())
            else:
                connection = Reader(relay.port)
                for _ in range(20):
                    connection.request()
                clients.add(connection)
            before = cpu_ns(source.pid)
            clients.run(0.5)
            assert cpu_ns(source.pid) > before + 10_000_000, "it sends"
        wait_until_at_rest()


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


def test_those_that_are_near_each_other_are_measured_one_after_the_other_and_the_others_around_them() -> None:
    names = ["flowserver", "envoy", "litellm", "nginx", "direct"]
    assert [in_round(names, number, None) for number in range(4)] == [
        ["flowserver", "nginx", "envoy", "direct", "litellm"],
        ["envoy", "direct", "nginx", "flowserver"],
        ["direct", "flowserver", "nginx", "envoy"],
        ["nginx", "flowserver", "envoy", "direct"],
    ]
    assert in_round(["nginx", "direct"], 1, 1) == ["nginx"]
    assert in_round([], 0, None) == []


@dataclass
class FakePeer:
    name: str
    log: list[str]
    share: float = 1.0
    speaks: tuple[Wiring, ...] = field(default=(PLAIN,))
    install: str = ""

    def available(self) -> bool:
        return True

    def supports(self, wiring: Wiring) -> bool:
        return wiring in self.speaks

    @contextmanager
    def start(self, upstream_port: int, wiring: Wiring = PLAIN) -> Iterator[Running]:
        self.log.append(f"{self.name} starts")
        yield Running(self.name, upstream_port, None, self.share)
        self.log.append(f"{self.name} ends")


def test_relays_stay_for_all_rounds_but_one_that_is_given_a_part_of_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    peers = (FakePeer("flowserver", log), FakePeer("nginx", log, speaks=()), FakePeer("heavy", log, 0.5))
    monkeypatch.setattr("bench.peers.PEERS", {peer.name: peer for peer in peers})
    monkeypatch.setattr("bench.peers.wait_until_quiet", lambda: log.append("quiet"))
    monkeypatch.setattr("bench.peers.wait_until_at_rest", lambda: log.append("at rest"))
    with side_by_side(["heavy", "flowserver", "nginx"], 1) as started:
        for number in range(2):
            for relay in started.round(number, None):
                log.append(relay.name)
    assert log == [
        "flowserver starts",
        *("quiet", "flowserver", "at rest", "heavy starts", "heavy", "heavy ends", "at rest"),
        *("quiet", "flowserver", "at rest"),
        "flowserver ends",
    ]


def test_those_that_are_close_are_started_anew_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    peers = (FakePeer("flowserver", log), FakePeer("nginx", log), FakePeer("far", log))
    monkeypatch.setattr("bench.peers.PEERS", {peer.name: peer for peer in peers})
    monkeypatch.setattr("bench.peers.wait_until_quiet", lambda: None)
    monkeypatch.setattr("bench.peers.wait_until_at_rest", lambda: None)
    starts = []
    with side_by_side(["flowserver", "nginx", "far"], 1) as started:
        for number in range(2 * ROUNDS_OF_A_START + 1):
            assert {relay.name for relay in started.round(number, None)} == {"flowserver", "nginx", "far"}
            starts.append([log.count(f"{peer.name} starts") - log.count(f"{peer.name} ends") for peer in peers])
    assert starts == [[1, 1, 1]] * len(starts)
    assert [log.count(f"{peer.name} starts") for peer in peers] == [3, 3, 1]
    assert [log.count(f"{peer.name} ends") for peer in peers] == [3, 3, 1]


def test_rest_is_waited_for_until_what_was_started_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.processes.REST_TIMEOUT", 0.5)
    port = free_port()
    with Process(command(port, rate=50), port):
        wait_until_at_rest()
        with socket.create_connection(("127.0.0.1", port), 10) as client:
            client.sendall(request())
            assert client.recv(1)
            with pytest.raises(RuntimeError, match="still works"):
                wait_until_at_rest()


def test_flowserver_itself_is_never_left_out() -> None:
    assert PEERS["flowserver"].available()
    assert PEERS["flowserver"].supports(PLAIN)
