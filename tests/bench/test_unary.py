"""Whole answers: what the source gives, and the two loads."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from bench import unary
from bench.client import Client, request
from bench.figures import Collector
from bench.h2_unary import H2Caller
from bench.peers import Running
from bench.processes import Process, free_port
from bench.source import whole_command
from bench.summary import ANSWER

SETTINGS = unary.Settings(connections=3, rate=100, at_once=5, warm_up=0.05, window=0.2)


@pytest.fixture(scope="module")
def source() -> Iterator[int]:
    port = free_port()
    with Process(whole_command(port, 1024), port):
        yield port


def test_the_source_answers_whole_however_the_body_is_written(source: int) -> None:
    body = b'{"messages": [], "model": "bench"}'
    anew = b"POST / HTTP/1.1\r\nhost: bench\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with socket.create_connection(("127.0.0.1", source), 10) as client:
        for message in (request(stream=False), anew):
            client.sendall(message)
            answer = b""
            while len(answer.partition(b"\r\n\r\n")[2]) < 1024:
                answer += client.recv(65536)
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["usage"]["completion_tokens"] == 150


def test_both_loads_with_http_1_1(source: int) -> None:
    collector = Collector()
    relay = Running("direct", source, None)
    with Client[unary.Caller]() as client:
        callers = [client.add(unary.Caller(source, request(stream=False))) for _ in range(SETTINGS.connections)]
        unary.measure(client, callers, relay, SETTINGS, "", collector)
        unary.measure_full(client, callers, relay, SETTINGS, "", collector)
    _check(collector)


def test_both_loads_with_http_2(source: int) -> None:
    collector = Collector()
    relay = Running("direct", source, None)
    with Client[H2Caller]() as client:
        callers = [client.add(H2Caller(source)) for _ in range(SETTINGS.connections)]
        unary.measure(client, callers, relay, SETTINGS, "", collector)
        unary.measure_full(client, callers, relay, SETTINGS, "", collector)
    _check(collector)


def _check(collector: Collector) -> None:
    figures = {figure.what: figure.median for figure in collector.figures()}
    assert figures["answers that came"] > 0
    assert figures["answers, at full load"] > 2 * SETTINGS.rate
    assert ANSWER not in figures, "there is no relay whose CPU it could be"
