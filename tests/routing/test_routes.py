"""Where a request goes under a provider's base URL."""

from __future__ import annotations

import random

import pytest

from flowserver.routing.affinity import Affinity
from flowserver.routing.routes import Route, RouteTable, choose, join_target

from ..support.asker import Asker
from ..support.recording import target


@pytest.mark.parametrize(
    ("base", "target", "joined"),
    [
        ("", b"/v1/models?x", b"/v1/models?x"),
        ("/v1", b"/models", b"/v1/models"),
        ("/v1", b"/v1/models", b"/v1/models"),
        ("/openai/v1", b"/v1/chat/completions", b"/openai/v1/chat/completions"),
        ("/a/b", b"/a/b/c", b"/a/b/c"),
        ("/a/b", b"/b/a", b"/a/b/a"),
        ("/v1", b"/v1", b"/v1"),
        ("/v1", b"/", b"/v1/"),
        ("/v1", b"/v12/x", b"/v1/v12/x"),
        ("/v1", b"/x?next=/v1/y", b"/v1/x?next=/v1/y"),
        ("/v1", b"/v1?", b"/v1?"),
        ("/v1", b"//evil/x", b"/v1//evil/x"),
    ],
)
def test_the_target_is_put_under_the_base_and_an_overlap_counts_once(base: str, target: bytes, joined: bytes) -> None:
    assert join_target(base, target) == joined


# Which route


def test_the_first_route_that_fits_serves() -> None:
    one, two, three = (target(name=name) for name in "abc")
    routes = [
        Route("/v1/chat/*", ("gpt-*", "o[13]"), ((one,),)),
        Route("/v1/*", (), ((two,),)),
        Route("*", (), ((three,),)),
    ]
    table = RouteTable(routes)
    assert table.find(b"/v1/chat/completions", "gpt-4o") is routes[0]
    assert table.find(b"/v1/chat/completions", "o3") is routes[0]
    assert table.find(b"/v1/chat/completions", "O3") is routes[1]
    assert table.find(b"/v1/chat/completions", "my-gpt-4o") is routes[1]
    assert table.find(b"/v1/chat/completions", None) is routes[1]
    assert table.find(b"/v2", "gpt-4o") is routes[2]
    assert RouteTable(routes[:1]).find(b"/v1/models", None) is None


def test_the_body_is_looked_into_only_where_it_matters() -> None:
    assert not RouteTable([Route("*", (), ((target(),),))]).needs_body
    assert RouteTable([Route("*", ("x",), ((target(),),))]).needs_body
    assert RouteTable([Route("*", (), ((target(models={"a": "b"}),),))]).needs_body
    assert RouteTable([Route("*", (), ((target(),),), affinity=Affinity(by_session=True))]).needs_body


# Which of several providers


def test_the_one_of_two_with_less_to_do_is_chosen() -> None:
    idle, busy = target(name="idle"), target(name="busy")
    for _ in range(3):
        busy.places.reserve(Asker())
    for first in (0.0, 0.9):
        draws = iter([first, 0.9 - first])
        assert choose([idle, busy], lambda draws=draws: next(draws)) is idle  # type: ignore[misc]


def test_load_is_seen_in_proportion_to_weight() -> None:
    light, heavy = target(weight=1), target(weight=4)
    light.places.reserve(Asker())
    for _ in range(3):
        heavy.places.reserve(Asker())
    assert heavy.load < light.load


def test_shares_follow_the_weights() -> None:
    hosts = [target(name="a", weight=1), target(name="b", weight=3)]
    draw = random.Random(1)
    for _ in range(4000):
        choose(hosts, draw.random).places.reserve(Asker())
    assert abs(hosts[1].open / hosts[0].open - 3) < 0.1
