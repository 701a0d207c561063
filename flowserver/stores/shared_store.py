"""The limit store of all workers, in the parent process, as each worker sees it."""

from __future__ import annotations

from collections.abc import Sequence

from ..quota.limits import Decision, LeaseLost, Limit, Usage, check_tag, countable, tag_of
from .shared_channel import ParentChannel
from .shared_limits import read_decision, read_usage, written


class SharedStore:
    """A `LimitStore`. What a worker holds is released at once when it dies; see `SharedStoreServer`."""

    __slots__ = ("_channel",)

    def __init__(self, channel: ParentChannel) -> None:
        self._channel = channel

    def __repr__(self) -> str:
        return f"<SharedStore over {self._channel}>"

    async def admit(self, stream_id: str, limits: Sequence[Limit], *, need: int, want: int) -> Decision:
        check_tag(tag_of(stream_id), limits)
        return read_decision(await self._channel.call("admit", stream_id, need, want, written(limits)), limits)

    async def extend(self, stream_id: str, used: int, want: int) -> int:
        granted: int
        used, want = countable(used, stream_id), countable(want, stream_id)
        [granted] = await self._channel.call("extend", stream_id, used, want)
        if granted < 0:
            raise LeaseLost(f"nothing is known of the stream {stream_id}")
        return granted

    async def settle(self, stream_id: str, used: int) -> bool:
        settled: bool
        [settled] = await self._channel.call("settle", stream_id, countable(used, stream_id))
        return settled

    async def usage(self, limits: Sequence[Limit]) -> tuple[Usage, ...]:
        if not limits:
            return ()
        check_tag(tag_of(limits[0].key), limits)
        return read_usage(await self._channel.call("usage", written(limits)), limits)

    async def close(self) -> None:
        """The connection is shared, so it stays open."""
