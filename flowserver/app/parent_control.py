"""Control of several workers by their parent: it passes commands to them, and answers when all have carried them
out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Protocol

import orjson

from ..telemetry.control_pages import IN, LOG_LEVEL, OUT, Executed
from ..telemetry.log import Log
from ..workers.fleet import Fleet
from .own_control import log_control
from .reload_result import ReloadResult

COMMAND = b"command "
"""Prefix of a command to a worker, followed by JSON; the answer is a number."""
ANSWER_TIME = 5.0
"""Seconds to wait for workers' answers."""


class ControlledParent(Protocol):
    """What the parent does itself."""

    def begin_drain(self) -> None: ...

    def begin_reload(self) -> None: ...

    def use_log_level(self, level: str) -> None:
        """Use this level for its own log, and for workers that it starts from now on."""

    def configuration(self) -> dict[str, Any]: ...

    @property
    def upstreams(self) -> Collection[str]: ...


class _Command:
    """One command, until all workers have answered."""

    __slots__ = ("count", "done", "missing", "timer")

    def __init__(self, missing: set[int], done: Callable[[Executed], None]) -> None:
        self.missing = missing
        """Numbers of the workers that have not answered."""
        self.count = 0
        self.done: Callable[[Executed], None] | None = done
        """None: it has been called."""
        self.timer: asyncio.TimerHandle | None = None

    def end_if_all_have_answered(self) -> None:
        if not self.missing:
            self.end()

    def end(self) -> None:
        done, self.done = self.done, None
        if self.timer is not None:
            self.timer.cancel()
        if done is not None:
            done(Executed(self.count, [str(number) for number in sorted(self.missing)]))


class ParentControl:
    """A `control_pages.Controlled`. `out`: the providers that are taken out, passed to new workers when they are
    forked. Nobody waits for a worker that dies in between: its replacement starts with the state of that time."""

    __slots__ = ("_fleet", "_log", "_parent", "_waiting", "last", "out")

    def __init__(self, parent: ControlledParent, fleet: Fleet, log: Log) -> None:
        self._parent = parent
        self._fleet = fleet
        self._log = log
        self._waiting: list[Callable[[], None]] = []
        """Called at the end of the reload that is under way."""
        self.last = ReloadResult()
        self.out: frozenset[str] = frozenset()

    @property
    def upstreams(self) -> Collection[str]:
        return self._parent.upstreams

    @property
    def streams(self) -> int:
        return self._fleet.streams

    def execute(self, command: list[str], done: Callable[[Executed], None]) -> None:
        self._note(*command)
        question = COMMAND + orjson.dumps(command)
        workers = [worker.number for worker in self._fleet.supervisor.alive]
        asked = _Command(set(workers), done)
        asked.timer = asyncio.get_running_loop().call_later(ANSWER_TIME, asked.end)
        for number in workers:
            self._fleet.ask(number, question, partial(self._hear, asked, number))
        asked.end_if_all_have_answered()

    def _note(self, verb: str, argument: str) -> None:
        """Remember what new workers need to know."""
        if verb == OUT:
            self.out |= {argument}
        elif verb == IN:
            self.out -= {argument}
        elif verb == LOG_LEVEL:
            self._parent.use_log_level(argument)

    def _hear(self, asked: _Command, number: int, answer: bytes | None) -> None:
        asked.missing.discard(number)
        asked.count += int(answer) if answer else 0
        asked.end_if_all_have_answered()

    def drain(self) -> bool:
        asyncio.get_running_loop().call_soon(self._parent.begin_drain)  # after the answer
        return True

    def reload(self, done: Callable[[], None]) -> None:
        self._waiting.append(done)
        self._parent.begin_reload()

    def reloaded(self, result: ReloadResult) -> None:
        """A reload is over: all workers have the new configuration, or nothing has changed."""
        self.last = result
        self.out &= frozenset(self._parent.upstreams)
        waiting, self._waiting = self._waiting, []
        for done in waiting:
            done()

    def last_reload(self) -> dict[str, Any]:
        return self.last.table()

    def configuration(self) -> dict[str, Any]:
        return self._parent.configuration()

    def told(self, action: str, argument: str, by: str) -> None:
        log_control(self._log, action, argument, by)
