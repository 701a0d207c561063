"""What is heard of a provider for its adaptive limit, and what follows: in one process, and over several workers."""

from __future__ import annotations

import pytest

from flowserver.http.messages import RequestHead, ResponseHead
from flowserver.routing.adaptive_limit import FIRST, REFUSED, SLOW
from flowserver.routing.adaptive_places import LocalAdaptation, is_overload, kind_of
from flowserver.routing.claim import Claim
from flowserver.routing.places import LocalPlaces

from ..support.asker import Asker
from ..support.clock import FakeClock
from ..support.later import Later
from ..support.recording import account, target
from .scene import Scene
from .shares import Group, Request, Worker

LEFT_NONE = (b"x-ratelimit-remaining-requests", b"0")
LEFT_FEW = (b"anthropic-ratelimit-tokens-remaining", b"90")
LEFT_MANY = (b"x-ratelimit-remaining-tokens", b"5000")


@pytest.mark.parametrize("status", [503, 529])
@pytest.mark.parametrize("api_key", [None, b"key"])
@pytest.mark.parametrize("after", [None, 60.0])
def test_an_overloaded_server_is_overloaded(status: int, api_key: bytes | None, after: float | None) -> None:
    assert is_overload(target(api_key=api_key), ResponseHead(status, []), after, 100)


@pytest.mark.parametrize("status", [200, 400, 401, 404, 500, 502, 504])
def test_other_statuses_say_nothing_of_the_load(status: int) -> None:
    assert not is_overload(target(api_key=b"key"), ResponseHead(status, []), None, 100)


@pytest.mark.parametrize(
    ("headers", "after", "expected"),
    [
        ([], None, True),
        ([], 2.0, True),
        ([LEFT_MANY], 1.0, True),
        ([], 60.0, False),
        ([LEFT_NONE], 1.0, False),
        ([LEFT_MANY, LEFT_FEW], 1.0, False),
        ([(b"x-ratelimit-remaining-requests", b"soon")], 1.0, True),
    ],
)
def test_a_rate_that_is_used_up_is_no_overload(
    headers: list[tuple[bytes, bytes]], after: float | None, expected: bool
) -> None:
    assert is_overload(target(api_key=b"key"), ResponseHead(429, headers), after, 100) is expected


def test_429_for_a_client_s_own_key_is_about_that_client() -> None:
    assert not is_overload(target(api_key=None), ResponseHead(429, []), None, 100)


def test_kinds_are_told_apart_by_what_the_first_token_depends_on() -> None:
    def kind(path: str = "/v1/chat/completions", size: int = 300, *, reused: bool = True) -> int:
        request = RequestHead(b"POST", path.encode(), [], has_body=True)
        return kind_of(account(path, request=request), size, reused=reused)

    assert kind() == kind(size=400)
    assert len({kind(), kind("/v1/messages"), kind(size=1000), kind(reused=False), kind(size=0)}) == 5


# One process


def adapting(queue: int | None = None) -> tuple[LocalPlaces, LocalAdaptation]:
    places = LocalPlaces(None, 0, Later(), FakeClock())
    adaptation = LocalAdaptation(places)
    adaptation.begin(queue)
    return places, adaptation


def test_places_are_those_of_the_limit_and_as_many_may_wait() -> None:
    places, _ = adapting()
    assert all(places.reserve(Asker()) for _ in range(FIRST))
    assert not places.reserve(Asker())
    waiters = [Asker() for _ in range(FIRST)]
    assert all(places.wait(waiter) is None for waiter in waiters)
    assert not places.has_room(Asker())


def test_a_queue_that_is_configured_stays() -> None:
    places, adaptation = adapting(queue=0)
    assert not places.has_room(Asker())
    adaptation.refused(1.0, 0.5)
    assert not places.has_room(Asker())


def test_nothing_is_cut_when_the_limit_falls() -> None:
    places, adaptation = adapting()
    for _ in range(FIRST):
        places.reserve(Asker())
    adaptation.refused(1.0, 0.5)
    assert adaptation.limit < FIRST
    assert places.open == FIRST
    places.release(Claim())
    places.release(Claim())
    assert not places.reserve(Asker())
    places.release(Claim())
    assert places.reserve(Asker())


def test_far_from_the_limit_few_first_tokens_are_evaluated() -> None:
    places, adaptation = adapting()
    places.reserve(Asker())
    adaptation.first_token(1.0, 0, 0.1)
    assert not adaptation.wants(1.001)
    assert adaptation.wants(1.1)
    for _ in range(FIRST // 2):
        places.reserve(Asker())
    assert adaptation.wants(1.001), "it may be near its limit"


def test_after_a_refusal_each_first_token_counts() -> None:
    places, adaptation = adapting()
    places.reserve(Asker())
    adaptation.first_token(1.0, 0, 0.1)
    adaptation.refused(1.0, 0.5)
    assert adaptation.wants(1.001)


# By way of a dispatcher


def test_a_first_token_and_a_refusal_reach_the_limit() -> None:
    scene = Scene(("a",), ("b",), adapts=True, queue=None, api_key=b"key")
    dispatcher, _ = scene.ask()
    scene.answer("a", 503)
    adaptive = scene.hosts["a"].adaptive
    assert adaptive is not None
    assert adaptive.decreases == {SLOW: 0, REFUSED: 1}
    assert dispatcher.upstream == "b"
    scene.answer("b")
    assert dispatcher.times_content
    dispatcher.on_first_content()
    assert not dispatcher.times_content


def test_an_error_is_no_answer_to_time() -> None:
    scene = Scene(adapts=True, queue=None)
    dispatcher, _ = scene.ask()
    scene.answer("a", 400)
    assert not dispatcher.times_content


def test_a_provider_with_a_number_is_not_timed() -> None:
    scene = Scene(max_concurrent=3)
    dispatcher, _ = scene.ask()
    scene.answer("a")
    assert not dispatcher.times_content


# Several workers


def group(workers: int = 3, queue: int | None = None) -> Group:
    made = Group(workers)
    for worker in made.workers:
        worker.share.adaptation.begin(queue)
    made.settle()
    return made


def has_place(made: Group, worker: Worker) -> bool:
    request = Request(worker).ask()
    made.settle()
    return request.has_place


def test_one_limit_holds_over_all_workers() -> None:
    made = group()
    assert sum(has_place(made, made.workers[number % 3]) for number in range(2 * FIRST)) == FIRST


def test_a_refusal_at_one_worker_lowers_the_limit_of_all() -> None:
    made = group()
    made.workers[1].share.adaptation.refused(5.0, 4.0)
    made.settle()
    assert made.workers[0].share.adaptation.limit == FIRST // 2, "places of refused requests are not filled at once"
    made.workers[0].share.adaptation.first_token(5.1, 7, 0.1)
    for number in range(10):
        made.workers[0].share.adaptation.first_token(5.2 + number / 1000, 7, 0.1)
    made.workers[0].share.adaptation.sweep(6.0)
    made.settle()
    assert {worker.share.adaptation.limit for worker in made.workers} == {int(FIRST * 0.9)}
    told = [worker.share.adaptation.decreases[REFUSED] for worker in made.workers]
    assert told == [0, 1, 0], "the sum over workers is what happened"


def test_samples_are_told_together_and_refusals_at_once() -> None:
    made = group(1)
    worker = made.workers[0]
    adaptation = worker.share.adaptation
    for number in range(5):
        adaptation.first_token(1.0 + number / 1000, 7, 0.2)
    assert not worker.wire.up
    adaptation.sweep(2.0)
    assert len(worker.wire.up) == 1
    for number in range(40):
        adaptation.first_token(2.0 + number / 1000, 7, 0.2)
    assert len(worker.wire.up) == 3
    adaptation.refused(2.1, 2.0)
    assert [event[0] for event in worker.wire.up] == ["first_tokens"] * 4 + ["overloaded"]
    made.settle()


def test_samples_of_all_workers_make_the_limit_grow() -> None:
    made = group()
    limits = []
    for turn in range(60):
        for worker in made.workers:
            Request(worker).ask()
            made.settle()
            for _ in range(4):
                made.clock.now += 0.05
                worker.share.adaptation.first_token(made.clock.now, 7, 0.1)
            worker.share.adaptation.sweep(made.clock.now)
        made.settle()
        limits.append(made.workers[turn % 3].share.adaptation.limit)
    assert limits[-1] > 2 * FIRST
    assert len({worker.share.adaptation.limit for worker in made.workers}) == 1


def test_what_was_learned_outlives_a_number_and_a_worker() -> None:
    made = group()
    made.workers[0].share.adaptation.refused(5.0, 4.0)
    made.settle()
    learned = made.workers[0].share.adaptation.limit
    for worker in made.workers:
        worker.places.limit(3, 0)
    made.settle()
    assert sum(has_place(made, made.workers[0]) for _ in range(10)) == 3
    made.workers[2].share.adaptation.first_token(9.0, 7, 0.1)  # of before the reload; nothing comes of it
    made.workers[2].share.adaptation.sweep(10.0)
    made.settle()
    made.kill(made.workers[1])
    late = made.add()
    for worker in made.workers:
        worker.share.adaptation.begin(None)
    made.settle()
    assert late.share.adaptation.limit == learned < FIRST


def test_requests_that_run_before_the_limit_are_counted() -> None:
    made = Group(2)
    worker = made.workers[0]
    assert all(worker.places.reserve(Asker()) for _ in range(FIRST))
    for each in made.workers:
        each.share.adaptation.begin(None)
    made.settle()
    assert not has_place(made, made.workers[1])
