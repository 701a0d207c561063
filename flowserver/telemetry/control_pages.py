"""Control of a running relay over HTTP: requests, access, and answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote_to_bytes

import orjson

from ..http.messages import Headers, RequestHead
from ..relay.interfaces import DownstreamStream
from .admin_access import AdminAccess
from .log import LEVELS
from .paced_answer import PacedAnswer

MOST_BODY = 1024
"""Most bytes of a request's body."""
BODY_TIME = 10.0
"""Seconds within which a request's body must arrive."""
_PLAIN = b"text/plain; charset=utf-8"
_JSON = b"application/json"

END, OUT, IN, LOG_LEVEL = "end", "out", "in", "log_level"
"""Commands that each serving process carries out: `[END, request_id]`, `[OUT, upstream]`, ..."""


class Executed(NamedTuple):
    """The result of a command."""

    ended: int
    """Number of streams that it ended."""
    silent: Collection[str] = ()
    """Workers that have not answered in time; they will carry it out later."""


class Controlled(Protocol):
    """The target of control: a process, or a parent with all its workers."""

    @property
    def upstreams(self) -> Collection[str]:
        """The names of all providers."""

    @property
    def streams(self) -> int:
        """Number of open streams."""

    def execute(self, command: list[str], done: Callable[[Executed], None]) -> None: ...

    def drain(self) -> bool:
        """Drain, as a first SIGTERM does. False: the relay is not a process of its own."""

    def reload(self, done: Callable[[], None]) -> None:
        """Read the configuration again; `last_reload` has the result."""

    def last_reload(self) -> dict[str, Any]:
        """See `app.reload_result`."""

    def configuration(self) -> dict[str, Any]:
        """See `config.effective`."""

    def told(self, action: str, argument: str, by: str) -> None:
        """Log that `by` had `action` carried out, with `argument`."""


class _Asked(PacedAnswer):
    """One request, until its body is complete."""

    __slots__ = ("_body", "_deadline", "_is_taken", "_on_done", "_on_whole")

    def __init__(
        self,
        stream: DownstreamStream,
        on_whole: Callable[[_Asked, bytes], None],
        on_done: Callable[[bytes], None],
    ) -> None:
        """`on_done` is called with the answer's body, once the request is carried out."""
        self._on_done = on_done
        self._body = b""
        self._deadline: float | None = None
        self._is_taken = False
        """Whether it was passed on, or refused."""
        self._on_whole = on_whole
        super().__init__(stream)

    def refuse(self, status: int, text: bytes, further: Headers | None = None) -> None:
        self._is_taken = True
        self.answer(status, _PLAIN, text, further)

    def tell(self, status: int, told: dict[str, Any]) -> None:
        """Send the answer."""
        self._on_done(self._body)
        self.answer(status, _JSON, orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE))

    def on_downstream_data(self, data: bytes) -> None:
        if self._is_taken:
            return
        self._body += data
        if len(self._body) > MOST_BODY:
            self.refuse(413, b"expected a body of at most %d bytes\n" % MOST_BODY)

    def on_downstream_end(self) -> None:
        if not self._is_taken:
            self._is_taken = True
            self._on_whole(self, self._body)

    def sweep(self, now: float) -> None:
        if self._is_taken:
            return
        if self._deadline is None:
            self._deadline = now + BODY_TIME
        elif now >= self._deadline:
            self.refuse(408, b"the request's body did not arrive in time\n")


Act = Callable[[_Asked, str, bytes], None]
"""Carries out a request; arguments: the request, the name in its path, and its body."""


class ControlPages:
    """Answers control requests."""

    def __init__(self, controlled: Controlled, access: AdminAccess | None) -> None:
        """`access` None: anyone who can connect has access, as on a socket that only its owner can open."""
        self._controlled = controlled
        self._access = access
        table: dict[bytes, dict[bytes, Act]] = {
            rb"/drain": {b"POST": self._drain},
            rb"/streams/(.+)/end": {b"POST": self._end},
            rb"/streams/end": {b"POST": self._end_by_body},
            rb"/upstreams/(.+)/out": {b"POST": partial(self._move, OUT)},
            rb"/upstreams/(.+)/in": {b"POST": partial(self._move, IN)},
            rb"/log-level": {b"PUT": self._set_log_level},
            rb"/config": {b"GET": self._show_configuration},
            rb"/reload": {b"GET": self._show_reload, b"POST": self._reload},
        }
        self._table = [(re.compile(path), acts) for path, acts in table.items()]

    def serves(self, path: bytes) -> bool:
        return any(pattern.fullmatch(path) for pattern, _ in self._table)

    def open_exchange(self, request: RequestHead, stream: DownstreamStream) -> None:
        """Open an exchange for a path that it `serves`."""
        acts, name = self._found(request.path)
        act = acts.get(request.method)
        by = "the control socket" if self._access is None else (stream.client.address or "the admin listener")

        def on_whole(asked: _Asked, body: bytes) -> None:
            assert act is not None
            act(asked, name, body)

        def on_done(body: bytes) -> None:
            if request.method != b"GET":
                self._controlled.told(request.path.decode("latin-1"), body.decode("latin-1").strip(), by)

        asked = _Asked(stream, on_whole, on_done)
        refusal = None if self._access is None else self._access.refusal(request)
        if act is None:
            allowed = b", ".join(acts)
            asked.refuse(405, b"expected %b\n" % allowed, [(b"allow", allowed)])
        elif refusal is not None:
            status, text = refusal
            challenge = [(b"www-authenticate", b'Bearer realm="flowserver"')] if status == 401 else None
            asked.refuse(status, text, challenge)
        elif not request.has_body:
            asked.on_downstream_end()

    def _found(self, path: bytes) -> tuple[dict[bytes, Act], str]:
        for pattern, acts in self._table:
            match = pattern.fullmatch(path)
            if match is not None:
                return acts, unquote_to_bytes(match[1]).decode("utf-8", "replace") if pattern.groups else ""
        raise AssertionError(path)

    # --- what may be asked for -------------------------------------------------------------------------------------

    def _end(self, asked: _Asked, name: str, body: bytes) -> None:
        def done(executed: Executed) -> None:
            if executed.ended:
                asked.tell(200, {"ended": executed.ended})
            elif executed.silent:
                asked.refuse(504, _silence(executed.silent))
            else:
                asked.refuse(404, f"there is no open stream {name!r}; /streams lists them\n".encode())

        self._controlled.execute([END, name], done)

    def _end_by_body(self, asked: _Asked, name: str, body: bytes) -> None:
        """For ids that no path can name, as two slashes in one are refused."""
        self._end(asked, body.decode("utf-8", "replace").strip(), b"")

    def _move(self, command: str, asked: _Asked, name: str, body: bytes) -> None:
        known = sorted(self._controlled.upstreams)
        if name in known:
            self._execute(asked, [command, name], {"upstream": name, "out": command == OUT})
        else:
            asked.refuse(404, f"there is no provider {name!r}: expected one of {', '.join(known)}\n".encode())

    def _set_log_level(self, asked: _Asked, name: str, body: bytes) -> None:
        level = body.decode("latin-1").strip().strip('"').lower()
        if level in LEVELS:
            self._execute(asked, [LOG_LEVEL, level], {"log_level": level})
        else:
            asked.refuse(400, f"expected one of {', '.join(LEVELS)} as the request's body\n".encode())

    def _execute(self, asked: _Asked, command: list[str], told: dict[str, Any]) -> None:
        def done(executed: Executed) -> None:
            if executed.silent:
                asked.refuse(504, _silence(executed.silent))
            else:
                asked.tell(200, told)

        self._controlled.execute(command, done)

    def _drain(self, asked: _Asked, name: str, body: bytes) -> None:
        streams = self._controlled.streams
        if self._controlled.drain():
            asked.tell(202, {"draining": True, "streams": streams})
        else:
            asked.refuse(501, b"this relay is part of another program, which must drain it\n")

    def _show_configuration(self, asked: _Asked, name: str, body: bytes) -> None:
        asked.tell(200, self._controlled.configuration())

    def _show_reload(self, asked: _Asked, name: str, body: bytes) -> None:
        asked.tell(200, self._controlled.last_reload())

    def _reload(self, asked: _Asked, name: str, body: bytes) -> None:
        def done() -> None:
            told = self._controlled.last_reload()
            asked.tell(422 if told["result"] == "failed" else 200, told)

        self._controlled.reload(done)


def _silence(workers: Collection[str]) -> bytes:
    which = ", ".join(sorted(workers))
    return f"worker {which} did not answer in time; it will carry out the request later\n".encode()
