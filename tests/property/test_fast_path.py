"""However reads are cut and whenever fast paths open, the client gets the same and the same is counted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ..relay.test_fast_path import Scene, chunk, content
from ..support.dialogue import understood
from ..support.streams import CHAT

OPENED = st.lists(st.booleans(), min_size=1, max_size=5)
TEXTS = st.lists(st.one_of(st.text(max_size=8), st.sampled_from([" word", "\n", '"'])), min_size=1, max_size=40)
CUTS = st.lists(st.one_of(st.none(), st.integers(1, 600)), min_size=1, max_size=10)


def relayed(texts: list[str], cuts: list[int | None], opened: list[bool], budget: int | None) -> tuple[object, ...]:
    """`cuts`: bytes of a read, None for one that is a chunk; a fast path may be opened where `opened` says so;
    nowhere if that is empty."""
    scene = Scene(max_tokens=budget)
    if not opened:
        scene.close_fast_paths()
    waiting = [chunk(event) for event in [*map(content, texts), *CHAT.closing]] + [b"0\r\n\r\n"]
    turn = 0
    while waiting and scene.exchange.ended_at is None:
        cut = cuts[turn % len(cuts)]
        if cut is None:
            read = waiting.pop(0)
        else:
            joined = b"".join(waiting)
            read, rest = joined[:cut], joined[cut:]
            waiting = [rest] if rest else []
        scene.provider.says(read)
        if opened and opened[turn % len(opened)]:
            scene.open_fast_path()
        turn += 1
    meter = scene.exchange.account.meter
    assert meter is not None
    counts = (meter.content_events, meter.content_bytes, scene.exchange.bytes_down, scene.exchange.chunks_down)
    answer = understood(bytes(scene.client.transport.sent))
    return answer.body, answer.whole, scene.relay.observer.ends, *counts, scene.exchange.account.output


@given(TEXTS, CUTS, OPENED, st.one_of(st.none(), st.integers(1, 60)))
def test_a_fast_path_changes_nothing(
    texts: list[str], cuts: list[int | None], opened: list[bool], budget: int | None
) -> None:
    assert relayed(texts, cuts, opened, budget) == relayed(texts, cuts, [], budget)
