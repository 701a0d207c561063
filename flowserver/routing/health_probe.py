"""One active health check: a small request over the provider's own connector, outside places and queues. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from ..dialects.key_fields import auth_for, key_field
from ..errors import Party, RelayError
from ..http.messages import Headers, RequestHead, ResponseHead, request_for_upstream
from ..relay.failures import is_passing
from ..relay.interfaces import UpstreamStream
from .upstream_host import UpstreamHost

MAX_ANSWER = 1 << 16
"""Bytes of an answer that are read; then it is cancelled."""
MAX_PROBLEM = 300
"""Most characters of a provider's problem in log and answers."""


class CheckResult(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    """No connection was free, which says nothing about the provider."""


Done = Callable[[CheckResult, str], None]
"""Is called with the result, and the problem of a failed check."""


def check_request(host: UpstreamHost, path: str, *, pseudonym: bytes, request_id: bytes) -> RequestHead:
    """The request of a check. `path`: the complete path, perhaps with a query. The provider's own fields and key are
    added."""
    settings, target = host.settings, path.encode("ascii")
    own = {name for name, _ in settings.headers}
    headers: Headers = [(b"host", host.authority)]
    headers += [field for field in ((b"accept", b"*/*"), (b"user-agent", b"flowserver")) if field[0] not in own]
    if settings.api_key is not None:
        headers.append(key_field(auth_for(settings.auth, settings.quirks, target, {}), settings.api_key))
    headers += settings.headers
    head = request_for_upstream(
        RequestHead(b"GET", target, []), target, headers, pseudonym=pseudonym, request_id=request_id
    )
    head.awaits_whole = True
    return head


class HealthProbe:
    """Sends one request, or a second if a kept connection turns out to be closed. Calls `done` once, unless cancelled.

    An `UpstreamEvents`. To pass, the answer must be complete: a provider that stops in the middle is unhealthy.
    """

    __slots__ = ("_done", "_expect", "_host", "_is_repeated", "_request", "_size", "_status", "_stream")

    def __init__(self, host: UpstreamHost, request: RequestHead, expect: int, done: Done) -> None:
        """`expect`: the status of a healthy provider."""
        self._host = host
        self._request = request
        self._expect = expect
        self._done: Done | None = done
        """None: it is over."""
        self._stream: UpstreamStream | None = None
        self._is_repeated = False
        self._status: int | None = None
        self._size = 0

    def __repr__(self) -> str:
        return f"<HealthProbe of {self._host.name}: {'over' if self._done is None else self._status or 'asked'}>"

    def start(self) -> None:
        self._stream = stream = self._host.connector.open(self._request, self)
        stream.send_end()

    def expire(self, seconds: float) -> None:
        """Its time is over."""
        what = "no answer" if self._status is None else "no complete answer"
        self._finish(CheckResult.FAILED, f"{what} within {seconds:g} s")

    def cancel(self) -> None:
        """Cancel it; `done` is not called."""
        self._done = None
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.cancel()

    def _finish(self, result: CheckResult, problem: str = "") -> None:
        done = self._done
        if done is not None:
            self.cancel()
            done(result, problem)

    # --- relay.interfaces.UpstreamEvents ---

    def on_upstream_interim(self, head: ResponseHead) -> None: ...

    def on_upstream_head(self, head: ResponseHead) -> None:
        self._status = head.status
        if head.status != self._expect:
            self._finish(CheckResult.FAILED, f"status {head.status}, not {self._expect}")

    def on_upstream_data(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > MAX_ANSWER:
            self._finish(CheckResult.PASSED)

    def on_upstream_end(self) -> None:
        self._finish(CheckResult.PASSED)

    def on_upstream_failed(self, error: RelayError) -> None:
        stream, self._stream = self._stream, None
        if self._done is None:
            return
        if error.party is Party.RELAY:
            self._finish(CheckResult.SKIPPED)
        elif not self._is_repeated and (is_passing(error) or (stream is not None and stream.reused)):
            self._is_repeated = True
            self._status, self._size = None, 0
            self.start()
        else:
            self._finish(CheckResult.FAILED, error.message[:MAX_PROBLEM].rstrip("."))

    def fast_path(self) -> None:
        return None

    def unacknowledged(self) -> int:
        return 0

    def on_upstream_full(self) -> None: ...

    def on_upstream_drained(self) -> None: ...
