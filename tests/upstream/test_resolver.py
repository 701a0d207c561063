"""Names to addresses: who waits for what, how long an answer holds, what a look-up that hangs costs."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from flowserver.config.addresses import Url
from flowserver.upstream.resolver import STALE_AT_ONCE, Answer, Resolver, fixed_address

from ..support.clock import FakeClock
from ..support.lab import eventually, finishes
from ..support.names import FakeNames

NAME = "api.test"


class Reports:
    def __init__(self) -> None:
        self.log: list[str] = []

    def dns_failed(self, host: str, reason: str, *, has_answer: bool) -> None:
        self.log.append(f"{host} failed: {reason}, has answer: {has_answer}")

    def dns_recovered(self, host: str) -> None:
        self.log.append(f"{host} recovered")


class Scene:
    def __init__(self, *, max_threads: int = 128) -> None:
        self.clock = FakeClock()
        self.names = FakeNames()
        self.reports = Reports()
        self.resolver = Resolver(self.reports, lookup=self.names, clock=self.clock, max_threads=max_threads)

    async def resolve(self, host: str = NAME) -> list[str]:
        return hosts(await finishes(self.resolver.resolve(host, fresh_for=10)))

    async def idle(self) -> None:
        await eventually(lambda: not self.resolver.running)


def hosts(answer: Answer) -> list[str]:
    return [address.address[0] for address in answer.addresses]


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.names.released.set()


# Sharing and keeping


async def test_an_answer_is_kept(scene: Scene) -> None:
    scene.names.answers[NAME] = ("192.0.2.1", "2001:db8::1")
    assert await scene.resolve() == ["192.0.2.1", "2001:db8::1"]
    scene.clock.advance(9)
    assert await scene.resolve() == ["192.0.2.1", "2001:db8::1"]
    assert scene.names.asked[NAME] == 1


async def test_an_answer_that_is_no_longer_fresh_is_used_while_a_new_one_is_fetched(scene: Scene) -> None:
    scene.names.answers[NAME] = ("192.0.2.1",)
    await scene.resolve()
    scene.names.answers[NAME] = ("192.0.2.2",)
    scene.names.hanging.add(NAME)
    scene.clock.advance(11)
    for _ in range(3):
        assert await scene.resolve() == ["192.0.2.1"]
    assert scene.names.asked[NAME] == 2
    scene.names.released.set()
    await scene.idle()
    assert await scene.resolve() == ["192.0.2.2"]
    assert scene.names.asked[NAME] == 2


async def test_a_failed_refresh_keeps_the_old_answer_and_is_told_once(scene: Scene) -> None:
    scene.names.answers[NAME] = ("192.0.2.1",)
    await scene.resolve()
    scene.names.answers[NAME] = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    for _ in range(3):
        scene.clock.advance(11)
        assert await scene.resolve() == ["192.0.2.1"]
        await scene.idle()
    assert scene.reports.log == [f"{NAME} failed: Temporary failure in name resolution, has answer: True"]
    figures = scene.resolver.figures(NAME)
    assert (figures.lookups, figures.failures) == (4, 3)
    scene.names.answers[NAME] = ("192.0.2.3",)
    scene.clock.advance(11)
    await scene.resolve()
    await scene.idle()
    assert await scene.resolve() == ["192.0.2.3"]
    assert scene.reports.log[1:] == [f"{NAME} recovered"]


async def test_a_very_old_answer_is_used_only_after_a_wait_for_its_refresh(scene: Scene) -> None:
    scene.names.answers[NAME] = ("192.0.2.1",)
    await scene.resolve()
    scene.names.answers[NAME] = ("192.0.2.2",)
    scene.clock.advance(STALE_AT_ONCE)
    assert await scene.resolve() == ["192.0.2.2"]


@pytest.mark.parametrize("hangs", [True, False])
async def test_a_very_old_answer_is_better_than_none(scene: Scene, *, hangs: bool) -> None:
    scene.names.answers[NAME] = ("192.0.2.1",)
    await scene.resolve()
    if hangs:
        scene.names.hanging.add(NAME)
    else:
        del scene.names.answers[NAME]
    scene.clock.advance(STALE_AT_ONCE)
    assert await scene.resolve() == ["192.0.2.1"]


async def test_a_distrusted_answer_is_asked_for_again_first(scene: Scene) -> None:
    scene.names.answers[NAME] = ("192.0.2.1",)
    await scene.resolve()
    scene.names.answers[NAME] = ("192.0.2.2",)
    scene.resolver.distrust(NAME)
    assert await scene.resolve() == ["192.0.2.2"]


async def test_a_newer_answer_is_looked_up_unless_it_is_there(scene: Scene) -> None:
    scene.names.answers[NAME] = ("192.0.2.1",)
    first = await scene.resolver.resolve(NAME, fresh_for=10)
    scene.names.answers[NAME] = ("192.0.2.2",)
    scene.clock.advance(1)
    for _ in range(2):
        assert hosts(await finishes(scene.resolver.newer(NAME, first))) == ["192.0.2.2"]
    assert scene.names.asked[NAME] == 2


async def test_addresses_keep_their_order_and_none_is_there_twice(scene: Scene) -> None:
    scene.names.answers[NAME] = ("192.0.2.2", "192.0.2.1", "192.0.2.2")
    assert await scene.resolve() == ["192.0.2.2", "192.0.2.1"]


# Failing


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "not known"),
        (UnicodeError("label too long"), "can't be looked up"),
        (MemoryError(), "can't be looked up"),
    ],
)
async def test_a_look_up_that_raises_fails_those_who_wait_and_the_next_one_tries_again(
    scene: Scene, error: Exception, text: str
) -> None:
    scene.names.answers[NAME] = error
    outcomes = await asyncio.gather(*(scene.resolve() for _ in range(3)), return_exceptions=True)
    assert all(isinstance(outcome, OSError) and text in str(outcome) for outcome in outcomes)
    assert len({id(outcome) for outcome in outcomes}) == 3
    assert scene.names.asked[NAME] == 1
    scene.names.answers[NAME] = ("192.0.2.1",)
    assert await scene.resolve() == ["192.0.2.1"]


async def test_a_name_without_addresses_is_a_failure(scene: Scene) -> None:
    scene.names.answers[NAME] = ()
    with pytest.raises(OSError, match="no address"):
        await scene.resolve()


async def test_no_thread_to_be_had_is_a_failure(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(OSError, match="no thread"):
        await scene.resolve()
    assert scene.resolver.running == 0


# Hanging


async def test_fifty_who_wait_for_a_hanging_name_share_one_thread_and_leave_one_by_one(scene: Scene) -> None:
    scene.names.answers[NAME] = ("192.0.2.1",)
    scene.names.hanging.add(NAME)
    waiting = [asyncio.create_task(scene.resolve()) for _ in range(50)]
    await eventually(lambda: scene.names.asked[NAME])
    for task in waiting[:49]:
        task.cancel()
    await asyncio.wait(waiting[:49])
    assert all(task.cancelled() for task in waiting[:49])
    assert scene.resolver.running == 1
    scene.names.released.set()
    assert await finishes(waiting[49]) == ["192.0.2.1"]
    assert scene.names.asked[NAME] == 1


async def test_names_that_hang_hold_up_no_other(scene: Scene) -> None:
    scene.names.answers[NAME] = ("192.0.2.1",)
    hanging = [f"{number}.test" for number in range(60)]
    scene.names.hanging.update(hanging)
    tasks = [asyncio.create_task(scene.resolve(name)) for name in hanging]
    await eventually(lambda: scene.names.asked.total() == 60)
    assert await scene.resolve() == ["192.0.2.1"]
    scene.names.released.set()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_threads_are_bounded_and_what_waits_for_one_goes_on_in_turn() -> None:
    scene = Scene(max_threads=3)
    names = [f"{number}.test" for number in range(7)]
    scene.names.hanging.update(names[:3])
    scene.names.answers |= dict.fromkeys(names, ("192.0.2.1",))
    tasks = [asyncio.create_task(scene.resolve(name)) for name in names]
    await eventually(lambda: scene.names.asked.total() == 3)
    tasks[5].cancel()
    await asyncio.wait([tasks[5]])
    assert scene.resolver.running == 3
    scene.names.released.set()
    await finishes(asyncio.gather(*tasks[:5], tasks[6]))
    await scene.idle()
    assert scene.names.asked == dict.fromkeys(names, 1)


async def test_a_hanging_look_up_shows_in_the_figures(scene: Scene) -> None:
    scene.names.hanging.add(NAME)
    task = asyncio.create_task(scene.resolve())
    await eventually(lambda: scene.names.asked[NAME])
    scene.clock.advance(7)
    figures = scene.resolver.figures(NAME)
    assert figures.seconds == 7
    for _ in range(3):  # several may give up; it is one look-up
        scene.resolver.timed_out(NAME)
    assert (figures.lookups, figures.failures) == (1, 1)
    assert scene.reports.log == [f"{NAME} failed: no answer in time, has answer: False"]
    scene.names.released.set()
    await asyncio.wait([task])
    scene.clock.advance(5)
    assert (figures.seconds, figures.failures) == (7, 1)


async def test_closing_leaves_a_hanging_look_up_to_itself(scene: Scene) -> None:
    scene.names.answers[NAME] = ("192.0.2.1",)
    scene.names.hanging.add(NAME)
    task = asyncio.create_task(scene.resolve())
    await eventually(lambda: scene.names.asked[NAME])
    scene.resolver.close()
    with pytest.raises(OSError, match="shutting down"):
        await finishes(task)
    with pytest.raises(OSError, match="shutting down"):
        await scene.resolve("other.test")
    scene.names.released.set()
    await scene.idle()
    assert scene.reports.log == []


EXIT = """
import asyncio, threading
from flowserver.upstream.resolver import Resolver

def lookup(host, port, **options):
    threading.Event().wait()

async def main():
    resolver = Resolver(lookup=lookup)
    try:
        await asyncio.wait_for(resolver.resolve("api.test", fresh_for=1), 0.1)
    except TimeoutError:
        print(threading.active_count())

asyncio.run(main())
"""


def test_a_process_ends_while_a_look_up_hangs() -> None:
    ended = subprocess.run([sys.executable, "-c", EXIT], capture_output=True, timeout=30, check=True)
    assert (ended.stdout, ended.stderr) == (b"2\n", b"")


def test_an_answer_after_the_loop_is_closed_is_dropped(scene: Scene, recwarn: pytest.WarningsRecorder) -> None:
    scene.names.hanging.add(NAME)

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(scene.resolver.resolve(NAME, fresh_for=1), 0.05)

    asyncio.run(give_up())
    threads = [thread for thread in threading.enumerate() if thread.name == f"dns {NAME}"]
    scene.names.released.set()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    assert not recwarn.list


# Numbers


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_a_numeric_address_needs_no_look_up(host: str, family: socket.AddressFamily) -> None:
    address = fixed_address(Url("https", host, 443, ""))
    assert address is not None
    assert (address.family, address.address[:2]) == (family, (host, 443))


@pytest.mark.parametrize("host", ["api.test", "localhost", "127.0.0.1.test", "api.test.", "1.2.3.4.5", "x" * 70])
def test_a_name_is_no_numeric_address(host: str) -> None:
    assert fixed_address(Url("https", host, 443, "")) is None


def test_a_unix_socket_needs_no_look_up() -> None:
    url = Url("http", "localhost", 80, "", "/run/vllm.sock")
    assert fixed_address(url) == (socket.AF_UNIX, "/run/vllm.sock")
