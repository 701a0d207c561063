"""Control of a running relay over HTTP: what may be asked for, by whom, and what is answered."""

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
"""Bytes of a request's body."""
BODY_TIME = 10.0
"""Seconds in which a request's body has to come."""
_PLAIN = b"text/plain; charset=utf-8"
_JSON = b"application/json"

END, OUT, IN, LOG_LEVEL = "end", "out", "in", "log_level"
"""Commands that each serving process carries out: `[END, request_id]`, `[OUT, upstream]`, ..."""


class Executed(NamedTuple):
    """What came of a command."""

    ended: int
    """Streams that it ended."""
    silent: Collection[str] = ()
    """Workers that have not answered in time. They will have done it when they do."""


class Controlled(Protocol):
    """What is controlled: a process, or a parent with all its workers."""

    @property
    def upstreams(self) -> Collection[str]:
        """The names of all providers."""

    @property
    def streams(self) -> int:
        """Those that are open."""

    def execute(self, command: list[str], done: Callable[[Executed], None]) -> None: ...

    def drain(self) -> bool:
        """As a first SIGTERM does. False: no process of its own is there to end."""

    def reload(self, done: Callable[[], None]) -> None:
        """Read the configuration again; `last_reload` tells what came of it."""

    def last_reload(self) -> dict[str, Any]:
        """See `app.reload_result`."""

    def configuration(self) -> dict[str, Any]:
        """See `config.effective`."""

    def told(self, action: str, argument: str, by: str) -> None:
        """For the log: `action` was carried out, with the body `argument`, at the wish of `by`."""


class _Asked(PacedAnswer):
    """One request, until its body is whole."""

    __slots__ = ("_body", "_deadline", "_is_taken", "_on_done", "_on_whole")

    def __init__(
        self,
        stream: DownstreamStream,
        on_whole: Callable[[_Asked, bytes], None],
        on_done: Callable[[bytes], None],
    ) -> None:
        """`on_done`: what was asked for is done; gets the body."""
        self._on_done = on_done
        self._body = b""
        self._deadline: float | None = None
        self._is_taken = False
        """Whether it was handed on, or refused."""
        self._on_whole = on_whole
        super().__init__(stream)

    def refuse(self, status: int, text: bytes, further: Headers | None = None) -> None:
        self._is_taken = True
        self.answer(status, _PLAIN, text, further)

    def tell(self, status: int, told: dict[str, Any]) -> None:
        """It is done."""
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
            self.refuse(408, b"the request's body did not come in time\n")


Act = Callable[[_Asked, str, bytes], None]
"""Carries a request out: with the part of its path that names something, and its body."""


class ControlPages:
    """Answers those who may control the relay."""

    def __init__(self, controlled: Controlled, access: AdminAccess | None) -> None:
        """`access` None: whoever can connect may do all, as with a socket that is the owner's."""
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
        """For a path that it `serves`."""
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
            asked.refuse(501, b"this relay is part of another program, which has to drain it\n")

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
    return f"not answered in time by worker {which}; what was asked is done as soon as it gets to it\n".encode()
