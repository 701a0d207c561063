"""Which of equal providers a request prefers, and what it belongs to."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import orjson
import pytest

from flowserver.http.messages import RequestHead
from flowserver.routing.affinity import SLACK, Affinity, Preference, order
from flowserver.routing.circuit_breaker import CircuitBreaker
from flowserver.routing.routes import Route, RouteTable

from ..support.asker import Asker
from ..support.later import Later
from ..support.recording import account, target
from .equals import choose, fill, hosts, key

# --- the order ---

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 2, 5), (3, 1), (1, 1, 1, 1, 1, 20)])
def test_each_is_preferred_by_its_weight(weights: tuple[int, ...]) -> None:
    tier = hosts(*weights)
    keys = 6000
    firsts = Counter(order(key(number), tier)[0].name for number in range(keys))
    for host, weight in zip(tier, weights, strict=True):
        fair = weight / sum(weights)
        deviation = (keys * fair * (1 - fair)) ** 0.5
        assert abs(firsts[host.name] - keys * fair) < 4.5 * deviation


def test_all_processes_agree() -> None:
    code = (
        f"import sys; sys.path.append({str(ROOT)!r})\n"
        "from tests.routing.equals import hosts, key; from flowserver.routing.affinity import order\n"
        "print([[host.name for host in order(key(number), hosts(1, 2, 3))] for number in range(50)])"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert told == {f"{[[host.name for host in order(key(n), hosts(1, 2, 3))] for n in range(50)]}\n".encode()}


def test_the_order_stays_what_it_is() -> None:
    """Other versions of the relay have the same, or an update moves all conversations."""
    tier = hosts(1, 1, 1)
    assert [order(key(number), tier)[0].name[-1] for number in range(12)] == list("021020200022")


# --- the bound ---


def test_the_first_gets_it_below_the_bound_and_the_next_above() -> None:
    tier = hosts(1, 1, 1)
    first, second, _ = order(key(1), tier)
    for host in tier:
        fill(host, 40)
    assert choose(1, tier) is first
    fill(first, 14)  # 54 of 134: the bound is 56.25 of 135
    assert choose(1, tier) is first
    fill(first, 2)  # 56 of 136: the bound is 57.08 of 137
    assert choose(1, tier) is first
    fill(first, 2)  # 58 of 138: the bound is 57.92 of 139
    assert choose(1, tier) is second
    assert first.affinity == {"preferred": 3, "load": 1}
    for _ in range(2):
        first.places.release(None)
    assert choose(1, tier) is first


def test_few_requests_need_no_balance() -> None:
    tier = hosts(1, 1, 1)
    first = order(key(1), tier)[0]
    for _ in range(SLACK + 5):  # a share of 13/3 and eight more
        assert choose(1, tier) is first
        fill(first, 1)
    assert choose(1, tier) is not first


def test_several_workers_have_less_slack_each() -> None:
    request = RequestHead(b"POST", b"/v1/chat/completions", [(b"x-flow-session", b"s")], has_body=True)
    tier = hosts(1, 1, 1)

    def taken(workers: int) -> int:
        preference = Affinity(by_session=True, workers=workers).preference(request, account(), ())
        assert preference is not None
        first, taken = preference.choose(tier, tier, ()), 0
        while preference.choose(tier, tier, ()) is first:
            fill(first, 1)
            taken += 1
        for _ in range(taken):
            first.places.release(None)
        return taken

    assert taken(1) > taken(2) >= taken(8) >= 1


# --- who may not be asked ---


def test_the_next_in_the_order_takes_over() -> None:
    broken = CircuitBreaker(failures=1, cooldown=10.0)
    tier = [*hosts(1, 1), target(name="gpu-2", health=broken)]
    number = next(number for number in range(100) if order(key(number), tier)[0] is tier[2])
    second = order(key(number), tier)[1]
    assert choose(number, tier) is tier[2]
    broken.failed(0.0, probe=False)
    assert choose(number, tier) is second
    assert tier[2].affinity == {"preferred": 1, "unhealthy": 1}
    assert second.affinity == {}
    broken.succeeded()
    assert choose(number, tier) is tier[2]


def test_a_full_one_is_asked_when_all_are_full() -> None:
    tier = [target(name=f"gpu-{number}", max_concurrent=1, queue=5, later=Later()) for number in range(3)]
    ordered = order(key(1), tier)
    for expected in (*ordered, ordered[0]):
        assert choose(1, tier) is expected
        expected.places.reserve(Asker())
    assert ordered[0].affinity == {"preferred": 2, "full": 2}


def test_who_waits_counts_as_load() -> None:
    tier = [target(name=f"gpu-{number}", max_concurrent=1, queue=50, later=Later()) for number in range(2)]
    first, second = order(key(1), tier)
    for host in tier:
        fill(host, 1)
    for _ in range(19):
        assert first.places.wait(Asker()) is None
    assert choose(1, tier) is second


def test_one_that_was_given_up_in_its_queue_counts_as_full() -> None:
    tier = hosts(1, 1)
    first, second = order(key(1), tier)
    preference = Preference(key(1))
    assert preference.choose(tier, tier, ()) is first
    preference.count(second)
    preference.count(first)
    assert (first.affinity, second.affinity) == ({"full": 1}, {})


def test_where_there_is_no_choice_nothing_counts() -> None:
    [only] = hosts(1)
    assert choose(1, [only]) is only
    assert only.affinity == {}


# --- what belongs together ---

SESSION, PREFIX = Affinity(by_session=True), Affinity(by_session=False)
TIER = hosts(*[1] * 50)


def home(
    affinity: Affinity,
    body: Mapping[str, object] | bytes = b"",
    *headers: tuple[bytes, bytes],
    path: bytes = b"/v1/chat/completions",
    tenant: str | None = None,
) -> str | None:
    """The provider that the request prefers among fifty; None: it has no preference."""
    written = body if isinstance(body, bytes) else orjson.dumps(body)
    request = RequestHead(b"POST", path, list(headers), has_body=bool(written))
    asked = account(request=request)
    asked.request.open(finds_conversation=True)
    asked.request.feed(written)
    asked.request.finish()
    preference = affinity.preference(request, asked, [written])
    return None if preference is None else preference.choose(TIER, TIER, ()).name


def chat(text: str = "Hi", **more: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


def session(value: bytes) -> tuple[bytes, bytes]:
    return (b"x-flow-session", value)


def test_the_header_comes_before_the_body_and_the_user_last() -> None:
    named = home(SESSION, chat(), session(b"s"))
    assert named == home(SESSION, chat("Other", prompt_cache_key="k", user="u"), session(b"s"))
    assert named == home(SESSION, chat("Other", prompt_cache_key="s", user="u"))
    assert named == home(SESSION, chat("Other", conversation={"id": "s"}, user="u"))
    assert named == home(SESSION, chat(), session(b"s"), (b"x-flow-user", b"v"))
    user = home(SESSION, chat(user="u"))
    assert user != named
    assert user == home(SESSION, chat("Other", user="u")) == home(SESSION, chat("Third", safety_identifier="u"))
    assert user == home(SESSION, chat("Other", user="x"), (b"x-flow-user", b"u"))
    anthropic = chat(max_tokens=5, metadata={"user_id": "u"})
    assert user == home(SESSION, anthropic, path=b"/v1/messages")


def test_a_session_has_its_provider_whatever_the_model() -> None:
    assert home(SESSION, chat(model="n"), session(b"s")) == home(SESSION, chat(), session(b"s"))


def test_without_a_name_a_session_is_what_begins_alike() -> None:
    assert home(SESSION, chat()) == home(PREFIX, chat()) == home(PREFIX, chat(user="u"), session(b"s"))
    assert home(SESSION, chat()) != home(SESSION, chat("Other"))


def test_what_begins_alike_depends_on_the_model() -> None:
    assert home(PREFIX, chat()) != home(PREFIX, chat(model="n"))
    gemini = {"contents": [{"parts": [{"text": "Hi"}]}]}
    one, other = (home(PREFIX, gemini, path=b"/v1beta/models/%b:generateContent" % name) for name in (b"a", b"b"))
    assert one != other


@pytest.mark.parametrize("value", [b"", b"\xff\xfe", b"s" * 8192, b'{"a":1}', "s\u00fc\u00df".encode(), b"0"])
def test_odd_names_of_sessions(value: bytes) -> None:
    found = home(SESSION, chat(), session(value))
    assert found == home(SESSION, chat(), session(value))
    assert (found == home(SESSION, chat())) == (not value)


@pytest.mark.parametrize("value", [7, True, None, "", [], {"a": "b"}, ["k"]])
def test_what_is_no_name_in_a_body(value: object) -> None:
    assert home(SESSION, chat(prompt_cache_key=value)) == home(SESSION, chat())


def test_a_body_with_two_names_has_no_conversation_but_is_read_alike() -> None:
    body = b'{"model":"m","prompt_cache_key":"a","prompt_cache_key":"b","messages":[]}'
    assert home(SESSION, body) == home(SESSION, body) is not None
    assert home(SESSION, body) != home(SESSION, chat(prompt_cache_key="a"))


def test_a_request_without_a_body_prefers_nobody() -> None:
    assert home(SESSION) is None
    assert home(PREFIX, b"", session(b"s")) is None
    assert home(SESSION, b"", session(b"s")) is not None


def test_a_form_prefers_nobody_but_for_its_user() -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="user"\r\n\r\nu\r\n--x--\r\n'
    kind = (b"content-type", b"multipart/form-data; boundary=x")
    assert home(PREFIX, form, kind, path=b"/v1/images/edits") is None
    assert home(SESSION, form, kind, path=b"/v1/images/edits") == home(SESSION, chat(user="u"))


def test_a_body_is_read_for_its_conversation_where_no_header_names_it() -> None:
    def finds(request: RequestHead, *affinities: Affinity | None) -> bool:
        tier = tuple(hosts(1, 1))
        return RouteTable([Route("*", (), (tier,), affinity=each) for each in affinities]).finds_conversation(request)

    named, nameless = (RequestHead(b"POST", b"/x", [session(name)], has_body=True) for name in (b"s", b""))
    assert [finds(named, each) for each in (SESSION, PREFIX)] == [False, True]
    assert [finds(nameless, each) for each in (SESSION, PREFIX)] == [True, True]
    assert finds(named, None, SESSION, PREFIX)
