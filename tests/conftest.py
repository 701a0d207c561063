"""What all tests share: the event loop that the relay runs on, a lab of real sockets, and who may run beside whom."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import os
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping

import hypothesis
import pytest
import trustme
import uvloop

from tests.support.lab import Lab

hypothesis.settings.register_profile("flowserver", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("flowserver")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Serial tests run last, so that workers do not wait for each other before that."""
    items.sort(key=_is_serial)


def pytest_collection_finish() -> None:
    """A test that calls `gc.collect` pays for its own objects, not for all modules and items: 0.1 s, not 0.4 s."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """With several workers (pytest-xdist), a serial test starts when the others' tests have ended, and they wait."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    with _lock(fcntl.LOCK_EX if _is_serial(item) else fcntl.LOCK_SH):
        return (yield)


def _is_serial(item: pytest.Item) -> bool:
    return item.get_closest_marker("serial") is not None


@contextlib.contextmanager
def _lock(kind: int) -> Iterator[None]:
    """Holds a lock that all workers of this checkout share: that of this very file."""
    descriptor = os.open(__file__, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, kind)
        yield
    finally:
        os.close(descriptor)


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    """Starts relays, providers and clients; afterwards nothing of them may be left."""
    async with Lab() as started:
        yield started


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A certificate authority that nobody trusts unless told to."""
    return trustme.CA()
