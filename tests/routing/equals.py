"""Equal providers, and requests that prefer one of them."""

from __future__ import annotations

from flowserver.routing.affinity import Preference
from flowserver.routing.candidates import Search, next_candidate
from flowserver.routing.routes import Route
from flowserver.routing.upstream_host import UpstreamHost

from ..support.asker import Asker
from ..support.recording import target


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def hosts(*weights: int) -> list[UpstreamHost]:
    return [target(name=f"gpu-{number}", weight=weight) for number, weight in enumerate(weights)]


def fill(host: UpstreamHost, requests: int) -> None:
    for _ in range(requests):
        assert host.places.reserve(Asker())


def choose(number: int, tier: list[UpstreamHost]) -> UpstreamHost | None:
    preference = Preference(key(number))
    route = Route("*", (), (tuple(tier),))
    chosen = next_candidate(route, (), Search(0.0, preference, Asker(), lambda _: True))
    if chosen is not None:
        preference.count(chosen)
    return chosen
