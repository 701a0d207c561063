"""First-token deadlines and hedges: who is asked when, what is withheld, and what is accounted for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flowserver.http.messages import ResponseHead
from flowserver.routing.context import DispatchState
from flowserver.routing.first_token_times import ENOUGH
from flowserver.routing.hedge_budget import HedgeBudget
from flowserver.routing.routes import FirstTokenPolicy
from flowserver.routing.upstream_host import ExtraAttempt
from flowserver.routing.withheld_answer import MOST_PIECES, MOST_WITHHELD

from ..support.asker import Asker
from .scene import BROKEN, REFUSED, UNREACHABLE, Scene

DEADLINE = FirstTokenPolicy(5.0)
SLOW, USUAL = 3.0, 1.0


def hedging(*tiers: tuple[str, ...], timeout: float | None = None, share: float = 1.0, **settings: object) -> Scene:
    """A scene where the first tokens of all providers usually take a second, and one hedge is saved up."""
    scene = Scene(
        *tiers,
        first_token=FirstTokenPolicy(timeout, HedgeBudget(share)),
        **settings,  # type: ignore[arg-type]
    )
    for host in scene.hosts.values():
        for _ in range(ENOUGH):
            host.first_token_times.of(None).note(USUAL, scene.clock())
    return scene


# The deadline


@pytest.mark.parametrize("shown", [None, b"", b" \n"], ids=["nothing", "head", "blanks"])
def test_an_attempt_without_content_is_cancelled_in_time(shown: bytes | None) -> None:
    scene = Scene(("a",), ("b",), first_token=DEADLINE)
    dispatcher, events = scene.ask(b"hello")
    scene.wait(4.9)
    if shown is not None:
        scene.answer("a")
    if shown:
        scene.show("a", shown)
    assert (events.log, events.asked) == ([], ["a"])
    scene.wait(0.2)
    assert scene.providers["a"].streams[0].log[-1] == "cancel"
    assert scene.providers["b"].streams[0].body == b"hello"
    scene.answer("b")
    assert events.log == []
    scene.show("b")
    scene.show("b", b" more")
    assert (events.log, events.body) == (["head 200", "data", "data"], b"content more")
    a, b = scene.hosts["a"], scene.hosts["b"]
    assert (a.first_token_timeouts, b.first_token_timeouts, a.open, b.open, b.fallbacks) == (1, 0, 0, 1, 1)
    assert a.failures == {"first_token_timeout": 1}
    assert (dispatcher.upstream, dispatcher.attempts) == ("b", 2)
    dispatcher.cancel()
    assert (scene.open, scene.timers.waiting) == (0, 0)


def test_withheld_pieces_pass_whole_and_in_order() -> None:
    scene = Scene(("a",), ("b",), first_token=DEADLINE)
    _, events = scene.ask()
    stream = scene.providers["a"].streams[0]
    stream.events.on_upstream_interim(ResponseHead(103, []))
    scene.answer("a", 200, (b"x-first", b"1"))
    for piece in (b" ", b"\n", b"x"):
        assert events.log == []
        scene.show("a", piece)
    assert events.log == ["interim 103", "head 200", "data", "data", "data"]
    assert events.body == b" \nx"
    assert events.heads[0].headers == [(b"x-first", b"1")]
    scene.wait(60)
    assert (scene.asked("b"), scene.timers.waiting) == (0, 0)


def test_the_only_provider_is_waited_for_and_what_it_sent_passes() -> None:
    scene = Scene(first_token=DEADLINE)
    dispatcher, events = scene.ask()
    scene.answer("a")
    scene.show("a", b" ")
    scene.wait(5)
    assert (events.log, scene.asked("a")) == (["head 200", "data"], 1)
    assert dispatcher.state is DispatchState.ANSWERED
    scene.show("a")
    assert events.body == b" content"
    assert scene.hosts["a"].first_token_timeouts == 0


def test_a_head_that_comes_behind_the_deadline_passes_at_once() -> None:
    scene = Scene(first_token=DEADLINE)
    _, events = scene.ask()
    scene.wait(6)
    scene.answer("a")
    assert events.log == ["head 200"]


def test_each_attempt_has_its_own_deadline_and_the_last_one_goes_on() -> None:
    scene = Scene(("a",), ("b",), ("c",), ("d",), first_token=DEADLINE, attempts=3)
    _, events = scene.ask(b"hello")
    scene.wait(5)
    scene.wait(5)
    scene.wait(50)
    assert events.asked == ["a", "b", "c"]
    scene.answer("c")
    assert events.log == ["head 200"]


def test_the_time_for_retries_does_not_defeat_the_deadline() -> None:
    scene = Scene(("a",), ("b",), ("c",), first_token=FirstTokenPolicy(30.0), time=10.0)
    _, events = scene.ask(b"hello")
    scene.wait(30)
    scene.wait(2)
    scene.fail("b", UNREACHABLE)
    assert events.asked == ["a", "b", "c"]
    scene.clock.advance(9)  # 2 and 9 s of its own
    scene.fail("c", UNREACHABLE)
    assert events.errors == [UNREACHABLE]


def test_a_body_that_is_too_large_is_not_sent_again() -> None:
    scene = Scene(("a",), ("b",), first_token=DEADLINE, replay=10)
    _, events = scene.ask(b"x" * 11)
    scene.wait(60)
    assert events.asked == ["a"]


def test_time_runs_from_when_the_request_is_whole() -> None:
    scene = Scene(("a",), ("b",), first_token=DEADLINE)
    dispatcher, events = scene.ask(b"hel", whole=False)
    scene.wait(60)
    dispatcher.send_data(b"lo")
    dispatcher.send_end()
    scene.wait(4)
    assert events.asked == ["a"]
    scene.wait(2)
    assert scene.providers["b"].streams[0].body == b"hello"


def test_a_full_provider_is_no_alternative() -> None:
    scene = Scene(("a",), ("b",), first_token=DEADLINE, max_concurrent=1, queue=5)
    assert scene.hosts["b"].places.reserve(Asker())
    _, events = scene.ask(b"hello")
    scene.wait(60)
    assert (events.asked, scene.hosts["b"].waiting) == (["a"], 0)


def test_a_queue_is_no_part_of_the_time() -> None:
    scene = Scene(("a",), ("b",), first_token=DEADLINE, max_concurrent=1, queue=5)
    first, _ = scene.ask(b"1")
    _, events = scene.ask(b"2")
    assert scene.hosts["a"].waiting == 1
    scene.wait(4)
    scene.leave(first)
    assert events.asked == ["a"]
    scene.wait(4)
    scene.answer("a")
    scene.show("a")
    assert events.log == ["head 200", "data"]


@pytest.mark.parametrize("status", [400, 401, 404, 500])
def test_an_error_passes_at_once(status: int) -> None:
    scene = Scene(("a",), ("b",), first_token=DEADLINE)
    _, events = scene.ask()
    scene.answer("a", status)
    assert events.log == [f"head {status}"]
    scene.wait(60)
    assert scene.asked("b") == 0


def test_an_unhealthy_status_leads_elsewhere_as_ever() -> None:
    scene = Scene(("a",), ("b",), first_token=DEADLINE)
    _, events = scene.ask()
    scene.answer("a", 503)
    assert events.asked == ["a", "b"]
    scene.wait(4.9)
    scene.answer("b")
    scene.show("b")
    assert events.log == ["head 200", "data"]


def test_a_failure_behind_the_head_and_before_the_content_leads_to_another_provider() -> None:
    scene = Scene(("a",), ("b",), first_token=DEADLINE)
    _, events = scene.ask()
    scene.answer("a")
    scene.show("a", b" ")
    scene.fail("a", BROKEN)
    assert (events.log, events.asked) == ([], ["a", "b"])
    assert scene.context.first_token.figures.held == 0


def test_an_answer_without_content_passes_when_it_is_whole() -> None:
    scene = Scene(("a",), ("b",), first_token=DEADLINE)
    _, events = scene.ask()
    scene.answer("a")
    scene.providers["a"].streams[0].events.on_upstream_end()
    assert events.log == ["head 200", "end"]
    assert (scene.open, scene.timers.waiting) == (0, 0)


@pytest.mark.parametrize(("size", "pieces"), [(MOST_WITHHELD + 1, 1), (1, MOST_PIECES + 1)])
def test_what_waits_is_bounded(size: int, pieces: int) -> None:
    scene = Scene(("a",), ("b",), first_token=DEADLINE)
    _, events = scene.ask()
    scene.answer("a")
    for _ in range(pieces):
        assert events.log == []
        scene.show("a", b" " * size)
    assert len(events.body) == size * pieces
    assert scene.context.first_token.figures.held == 0
    scene.wait(60)
    assert scene.asked("b") == 0


def test_a_client_that_leaves_frees_everything() -> None:
    scene = Scene(("a",), ("b",), first_token=DEADLINE)
    dispatcher, events = scene.ask()
    scene.answer("a")
    scene.show("a", b" ")
    assert scene.context.first_token.figures.held == 1
    scene.leave(dispatcher)
    assert scene.context.first_token.figures.held == 0
    assert (scene.open, scene.timers.waiting, events.log) == (0, 0, [])


def test_deadlines_in_a_row_open_the_breaker() -> None:
    scene = Scene(("a",), ("b",), first_token=DEADLINE, failures=2)
    for _ in range(3):
        scene.ask()
        scene.wait(5)
    assert scene.asked("a") == 2


def test_an_exchange_that_ends_all_in_the_middle_of_what_waited_hears_no_more() -> None:
    scene = Scene(("a",), ("b",), first_token=DEADLINE)
    dispatcher, events = scene.ask()
    scene.answer("a")
    scene.show("a", b" ")
    heard = events.on_upstream_head

    def leave(head: ResponseHead) -> None:
        heard(head)
        dispatcher.cancel()

    events.on_upstream_head = leave  # type: ignore[method-assign]
    scene.show("a")
    assert (events.log, scene.open) == (["head 200"], 0)


# Hedges


def test_a_late_first_token_is_hedged_and_the_first_content_wins() -> None:
    scene = hedging(("a",), ("b",))
    dispatcher, events = scene.ask(b"hello")
    scene.answer("a")
    scene.wait(0.9)
    assert scene.asked("b") == 0
    scene.wait(0.2)
    assert scene.providers["b"].streams[0].log == ["data 5", "end"]
    assert (dispatcher.upstream, events.asked, dispatcher.attempts) == ("a", ["a"], 2)
    scene.answer("b")
    scene.show("b")
    assert events.log == ["head 200", "data"]
    assert (dispatcher.upstream, events.asked) == ("b", ["a", "b"])
    assert scene.providers["a"].streams[0].log[-1] == "cancel"
    a, b = scene.hosts["a"], scene.hosts["b"]
    assert (a.open, b.open, b.hedges, b.hedges_won, b.fallbacks) == (0, 1, 1, 1, 0)
    assert (b.answers, a.answers, sum(a.failures.values())) == (1, 0, 0)
    assert b.extra_tokens[ExtraAttempt.HEDGE] >= 0
    dispatcher.cancel()
    assert (scene.open, scene.timers.waiting, scene.context.first_token.figures.held) == (0, 0, 0)


def test_the_slow_one_may_still_win() -> None:
    scene = hedging(("a",), ("b",))
    dispatcher, events = scene.ask(b"hello")
    scene.wait(2)
    scene.answer("b")
    scene.answer("a")
    scene.show("a")
    assert (events.log, dispatcher.upstream) == (["head 200", "data"], "a")
    assert scene.providers["b"].streams[0].log[-1] == "cancel"
    assert (scene.hosts["b"].open, scene.hosts["b"].hedges_won) == (0, 0)


def test_what_the_loser_sends_reaches_nobody() -> None:
    scene = hedging(("a",), ("b",))
    _, events = scene.ask()
    scene.wait(2)
    scene.answer("a")
    scene.answer("b")
    scene.show("a", b" ")
    scene.show("b", b"\n")
    scene.show("b")
    assert events.body == b"\ncontent"
    scene.show("a", b"late")
    assert events.body == b"\ncontent"


@pytest.mark.parametrize("how", ["refused", "failed", "unhealthy"])
def test_where_the_first_one_fails_the_hedge_goes_on(how: str) -> None:
    scene = hedging(("a",), ("b",))
    dispatcher, events = scene.ask(b"hello")
    scene.wait(2)
    if how == "unhealthy":
        scene.answer("a", 503)
    else:
        scene.fail("a", REFUSED if how == "refused" else BROKEN)
    assert (dispatcher.upstream, scene.asked("a"), scene.asked("b")) == ("b", 1, 1)
    scene.answer("b")
    scene.show("b")
    assert events.log == ["head 200", "data"]
    assert scene.open == 1


@pytest.mark.parametrize("how", [401, 429, 503, "failed"])
def test_where_the_hedge_fails_the_first_one_goes_on(how: int | str) -> None:
    scene = hedging(("a",), ("b",))
    dispatcher, events = scene.ask(b"hello")
    scene.wait(2)
    if isinstance(how, int):
        scene.answer("b", how)
    else:
        scene.fail("b", BROKEN)
    assert (events.log, scene.hosts["b"].open) == ([], 0)
    scene.answer("a")
    scene.show("a")
    assert (events.log, dispatcher.upstream) == (["head 200", "data"], "a")


def test_both_failures_end_the_request() -> None:
    scene = hedging(("a",), ("b",))
    _, events = scene.ask(b"hello")
    scene.wait(2)
    scene.fail("b", BROKEN)
    scene.fail("a", BROKEN)
    assert events.errors == [BROKEN]
    assert (scene.asked("a"), scene.asked("b"), scene.open) == (1, 1, 0)


def test_an_error_of_the_first_one_passes_and_ends_the_hedge() -> None:
    scene = hedging(("a",), ("b",))
    _, events = scene.ask(b"hello")
    scene.wait(2)
    scene.answer("a", 400)
    assert events.log == ["head 400"]
    assert scene.hosts["b"].open == 0


def test_nobody_is_late_where_too_little_is_known() -> None:
    scene = Scene(("a",), ("b",), first_token=FirstTokenPolicy(None, HedgeBudget(1.0)))
    _, events = scene.ask()
    scene.answer("a")
    assert events.log == ["head 200"], "what can't be hedged is not withheld"
    scene.wait(60)
    assert scene.asked("b") == 0
    scene.show("a")
    assert scene.hosts["a"].first_token_times.of(None).known == 1


def test_the_share_of_requests_is_kept() -> None:
    scene = hedging(("a",), ("b",), share=0.1)
    for _ in range(200):
        dispatcher, _ = scene.ask(b"x")
        scene.wait(SLOW)
        scene.leave(dispatcher)
    assert scene.asked("b") == 20


def test_without_a_budget_the_answer_passes_when_it_is_late() -> None:
    scene = hedging(("a",), ("b",), share=0.5)
    _, events = scene.ask()
    scene.answer("a")
    assert events.log == []
    scene.wait(2)
    assert (events.log, scene.asked("b")) == (["head 200"], 0)


def test_one_provider_alone_is_asked_again() -> None:
    scene = hedging()
    dispatcher, events = scene.ask(b"hello")
    scene.wait(2)
    first, second = scene.providers["a"].streams
    assert second.body == b"hello"
    second.answer()
    second.events.on_upstream_data(b"content")
    assert (events.body, first.log[-1], dispatcher.upstream) == (b"content", "cancel", "a")
    assert scene.open == 1


def test_one_of_several_providers_is_not_hedged_at_itself() -> None:
    scene = hedging(("a",), ("b",), max_concurrent=2)
    scene.hosts["b"].places.reserve(Asker())
    scene.hosts["b"].places.reserve(Asker())
    scene.ask(b"hello")
    scene.wait(2)
    assert (scene.asked("a"), scene.asked("b")) == (1, 0)


def test_an_upload_under_way_is_not_hedged() -> None:
    scene = hedging(("a",), ("b",))
    scene.ask(b"hel", whole=False)
    scene.wait(60)
    assert scene.asked("b") == 0


def test_a_client_that_leaves_cancels_both() -> None:
    scene = hedging(("a",), ("b",))
    dispatcher, _ = scene.ask(b"hello")
    scene.wait(2)
    assert scene.open == 2
    scene.leave(dispatcher)
    assert (scene.open, scene.timers.waiting) == (0, 0)
    assert scene.providers["b"].streams[0].log[-1] == "cancel"


def test_the_deadline_of_the_first_one_leaves_the_hedge_its_own() -> None:
    scene = hedging(("a",), ("b",), ("c",), timeout=5.0)
    _, events = scene.ask(b"hello")
    scene.wait(2)
    assert scene.asked("b") == 1
    scene.wait(3.5)
    assert scene.providers["a"].streams[0].log[-1] == "cancel"
    assert (events.asked, scene.asked("c")) == (["a", "b"], 0)
    assert scene.hosts["a"].first_token_timeouts == 1
    scene.wait(1)
    assert scene.asked("c") == 1
    scene.answer("c")
    scene.show("c")
    assert events.log == ["head 200", "data"]
    assert scene.open == 1


def test_times_of_those_that_were_cancelled_count_as_they_had_waited() -> None:
    scene = hedging(("a",), ("b",))
    times = scene.hosts["a"].first_token_times.of(None)
    for _ in range(ENOUGH):
        dispatcher, _ = scene.ask(b"x")
        scene.wait(USUAL + 0.1)
        scene.answer("b")
        scene.show("b")
        scene.leave(dispatcher)
    late = times.quantile(0.95, scene.clock())
    assert late is not None
    assert late >= USUAL + 0.1, "the slow ones that hedges overtook are not forgotten"


CHAT = b'{"model": "m", "stream": true, "messages": []}'


def test_what_is_counted_goes_by_the_attempt_whose_answer_passes() -> None:
    scene = hedging(("a",), ("b",), replay=1000)
    a, b = scene.hosts["a"], scene.hosts["b"]
    a.settings = replace(a.settings, asks_usage=False)
    for _ in range(ENOUGH):
        a.first_token_times.of("m").note(USUAL, scene.clock())
    scene.ask(CHAT, path="/v1/chat/completions")
    scene.wait(2)
    assert b"include_usage" not in scene.providers["a"].streams[0].body
    assert b"include_usage" in scene.providers["b"].streams[0].body
    assert (scene.account.upstream, scene.account.asks_usage) == (a, False)
    scene.answer("b")
    scene.show("b", b'data: {"choices": [{"delta": {"content": ""}}]}\n\n')
    assert (scene.account.upstream, scene.account.asks_usage) == (a, False)
    scene.show("b", b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n')
    assert (scene.account.upstream, scene.account.asks_usage) == (b, True)
    assert scene.hosts["b"].extra_tokens[ExtraAttempt.HEDGE] == scene.account.request.input_estimate > 0


def test_the_option_for_usage_is_noted_where_the_hedge_wins_with_it() -> None:
    scene = hedging(("a",), ("b",), replay=1000)
    for host in scene.hosts.values():
        for _ in range(ENOUGH):
            host.first_token_times.of("m").note(USUAL, scene.clock())
    scene.ask(CHAT, path="/v1/chat/completions")
    scene.wait(2)
    scene.answer("b")
    scene.show("b", b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n')
    assert not scene.hosts["b"].usage_option.may_be_refused("m")
    assert scene.hosts["a"].usage_option.may_be_refused("m")


def test_a_request_that_is_repeated_without_the_option_still_races() -> None:
    scene = hedging(("a",), ("b",), replay=1000)
    for host in scene.hosts.values():
        for _ in range(ENOUGH):
            host.first_token_times.of("m").note(USUAL, scene.clock())
    _, events = scene.ask(CHAT, path="/v1/chat/completions")
    scene.wait(2)
    scene.answer("a", 400)
    assert (scene.asked("a"), scene.open) == (2, 2)
    scene.answer("a")
    scene.answer("b")
    assert events.log == []
    scene.show("b", b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n')
    assert events.asked[-1] == "b"
    assert (events.log, scene.open) == (["head 200", "data"], 1)


def test_its_state_shows() -> None:
    scene = hedging(("a",), ("b",))
    dispatcher, _ = scene.ask(b"x")
    scene.wait(2)
    scene.answer("a")
    assert "2 attempts" in repr(dispatcher)
    assert "requests=0.00" in repr(scene.context.routes.find(b"/v1/chat", None).first_token)  # type: ignore[union-attr]
