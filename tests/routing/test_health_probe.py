"""One active check: what passes, what fails, and what says nothing."""

from __future__ import annotations

import pytest

from flowserver.dialects.profiles import quirks_for
from flowserver.errors import RelayError
from flowserver.http.messages import ResponseHead
from flowserver.relay.interfaces import UpstreamEvents
from flowserver.routing.health_probe import MAX_ANSWER, CheckResult, HealthProbe, check_request

from ..support.recording import target
from .scene import BROKEN, NO_CONNECTION, REFUSED, UNREACHABLE, Provider, Stream

PASSED = (CheckResult.PASSED, "")


class Check:
    """A probe under way."""

    def __init__(
        self, expect: int = 200, *, api_key: bytes | None = None, url: str = "http://provider.test/v1"
    ) -> None:
        self.results: list[tuple[CheckResult, str]] = []
        fields = [(b"x-team", b"a"), (b"accept", b"text/plain")]
        self.host = target(name="a", url="http://provider.test/v1", api_key=api_key, headers=fields)
        self.provider = Provider(self.host.health, lambda: 0.0)
        self.host.connector = self.provider
        self.request = check_request(self.host, "/health?full=1", pseudonym=b"relay", request_id=b"health-1")
        self.probe = HealthProbe(self.host, self.request, expect, lambda *result: self.results.append(result))
        self.probe.start()

    @property
    def stream(self) -> Stream:
        return self.provider.streams[-1]

    @property
    def events(self) -> UpstreamEvents:
        return self.stream.events


def test_the_expected_status_and_a_whole_answer_pass() -> None:
    check = Check(204)
    check.stream.answer(204)
    check.events.on_upstream_data(b"x")
    assert check.results == []
    check.events.on_upstream_end()
    assert check.results == [PASSED]


def test_another_status_fails_at_once() -> None:
    check = Check()
    check.stream.answer(503)
    assert check.results == [(CheckResult.FAILED, "status 503, not 200")]
    assert check.stream.is_over, "the rest is not read"


def test_of_a_long_answer_little_is_read() -> None:
    check = Check()
    check.stream.answer()
    for _ in range(MAX_ANSWER // 1024):
        check.events.on_upstream_data(b"x" * 1024)
    assert not check.results
    check.events.on_upstream_data(b"x")
    assert (check.results, check.stream.is_over) == ([PASSED], True)


def test_its_time_is_over() -> None:
    check = Check()
    check.probe.expire(2.0)
    assert check.results == [(CheckResult.FAILED, "no answer within 2 s")]
    assert check.stream.is_over
    check = Check()
    check.stream.answer()
    check.probe.expire(2.0)
    assert check.results == [(CheckResult.FAILED, "no complete answer within 2 s")]


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (UNREACHABLE, (CheckResult.FAILED, "Not there")),
        (BROKEN, (CheckResult.FAILED, "Broke off")),
        (NO_CONNECTION, (CheckResult.SKIPPED, "")),
    ],
)
def test_failures(error: RelayError, result: tuple[CheckResult, str]) -> None:
    check = Check()
    check.stream.fail(error)
    assert check.results == [result]


def test_a_connection_that_was_just_closed_is_no_failure() -> None:
    check = Check()
    check.stream.fail(REFUSED)
    assert (check.results, len(check.provider.streams)) == ([], 2)
    check.stream.answer()
    check.events.on_upstream_end()
    assert check.results == [PASSED]


def test_it_is_repeated_once() -> None:
    check = Check()
    check.stream.fail(REFUSED)
    check.stream.fail(REFUSED)
    assert check.results == [(CheckResult.FAILED, "Refused")]


def test_nothing_is_heard_of_one_that_is_cancelled() -> None:
    check = Check()
    check.probe.cancel()
    check.events.on_upstream_head(ResponseHead(503, []))
    check.events.on_upstream_failed(BROKEN)
    check.probe.expire(2.0)
    assert (check.results, len(check.provider.streams)) == ([], 1)


def test_the_request_has_the_provider_s_fields_and_its_key() -> None:
    request = Check(api_key=b"sk-1").request
    assert (request.method, request.target, request.has_body) == (b"GET", b"/health?full=1", False)
    fields = dict(request.headers)
    assert len(fields) == len(request.headers)
    assert fields[b"host"] == b"provider.test"
    assert fields[b"authorization"] == b"Bearer sk-1"
    assert (fields[b"x-team"], fields[b"accept"]) == (b"a", b"text/plain")
    assert b"authorization" not in dict(Check().request.headers)


def test_the_key_goes_where_the_provider_takes_it() -> None:
    host = target(api_key=b"sk-1", quirks=quirks_for(None, "api.anthropic.com"))
    request = check_request(host, "/v1/models", pseudonym=b"relay", request_id=b"health-1")
    assert (b"x-api-key", b"sk-1") in request.headers
