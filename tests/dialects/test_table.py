"""The table of formats: a new one is a class and a line of the table, and everything else follows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from flowserver.dialects import FORMATS, TABLE
from flowserver.dialects.api_paths import ends_with
from flowserver.dialects.base import Auth, KeyPaths, Meter, Quirks, RequestParams
from flowserver.dialects.common import BaseFormat, JsonMeter, count, lower
from flowserver.dialects.estimate import Ratios
from flowserver.dialects.key_fields import KEY_FIELDS, key_field
from flowserver.dialects.limit_fields import LimitFields
from flowserver.dialects.table import FormatTable
from flowserver.errors import EndReason, RelayError, bad_request
from flowserver.http.messages import CREDENTIALS, ResponseHead
from flowserver.json_text.members import Reads
from flowserver.quota.tenants import TenantLimits
from flowserver.relay.account import Account, AccountSettings
from flowserver.relay.exchange import Exchange

from ..support.accounts import count_of
from ..support.build import COMPILED
from ..support.quota import FakeLimiter, asking, quota, tenant
from ..support.recording import RecordingDownstream, RecordingUpstream, ask, exchange_context, read_request, target

if COMPILED:
    pytest.skip("interpreted classes cannot extend compiled ones", allow_module_level=True)


class ShoutMeter(JsonMeter):
    """{"word": "..."} until {"total": 9}."""

    __slots__ = ()

    def _read(self, event: Any) -> None:
        if "total" in event:
            self.finished = True
            self.finish = "total"
            self.usage.input = 1
            self._note_report(count(event["total"]))
        else:
            self._add(event["word"])

    def ending(self, prompt: int, output: int) -> bytes:
        return b'data: {"total": %d}\n\n' % output

    def failure(self, error: RelayError) -> bytes:
        return b'data: {"oops": %b}\n\n' % orjson.dumps(error.code)


class Shout(BaseFormat):
    """An API that nobody has."""

    name = "shout"
    heartbeat: bytes | None = None
    reads = Reads({"voice": None, "most": None})
    key_paths: KeyPaths | None = KeyPaths(Auth.X_API_KEY, re.compile(r"/shout(?:[/?]|$)"))
    limit_fields = LimitFields(
        requests=(b"shouts-max", b"shouts-left", b"shouts-again"),
        tokens=(b"words-max", b"words-left", b"words-again"),
        reset=lambda now, seconds: b"%d" % (now + seconds),
        prefix=b"words-",
        remaining=re.compile(rb"(words)-left"),
    )

    account_fields = frozenset((b"shouter",))

    def serves(self, target: str) -> bool:
        return ends_with(target, "/shout")

    def read_params(self, target: str, body: Mapping[str, Any]) -> RequestParams:
        return RequestParams(model=body.get("voice"), stream=True, max_tokens=count(body.get("most")))

    def limit(self, body: dict[str, Any], most: int, quirks: Quirks) -> bool:
        return lower(body, "most", most)

    def meter(self, params: RequestParams, quirks: Quirks, *, cuttable: bool) -> Meter:
        return ShoutMeter()

    def error(self, error: RelayError) -> bytes:
        return orjson.dumps({"oops": error.code})


WITH_SHOUT = FormatTable((*FORMATS.values(), Shout()))
BODY = b'{"voice":"loud","most":900}'
EVENTS = [b'data: {"word": "aloud and clear "}\n\n'] * 3
REPORT = b'data: {"total": 7}\n\n'
STREAM = ResponseHead(200, [(b"content-type", b"text/event-stream")])


class Scene:
    """A request in the new format, on its way to a provider."""

    def __init__(self, *, budget: int | None = None, limiter: FakeLimiter | None = None) -> None:
        tenants = quota(tenant(limits=TenantLimits(tokens_per_day=10_000)), limiter=limiter) if limiter else None
        request = asking(target=b"/v9/shout")
        known = WITH_SHOUT.recognise("/v9/shout")
        self.account = Account(AccountSettings(Ratios(), 1 << 20, 8192, quota=tenants), known, request)
        self.account.bound(budget)
        self.account.identify(request, lambda error: None)
        assert read_request(self.account, BODY) is None
        self.account.request_permit(request, lambda error: None, lambda: None, providers=())
        self.down = RecordingDownstream()
        self.exchange = Exchange(request, self.down, exchange_context(), request_id=b"1", account=self.account)
        self.sent = ask(self.account, target(), BODY)
        self.exchange.start(RecordingUpstream())
        self.exchange.on_downstream_end()

    def hear(self, *events: bytes) -> None:
        self.exchange.on_upstream_head(STREAM)
        for event in events:
            if not self.exchange.is_over:
                self.exchange.on_upstream_data(event)

    def end(self) -> None:
        if not self.exchange.is_over:
            self.exchange.on_upstream_end()
        self.exchange.on_downstream_finished()


def test_a_new_format_is_relayed_and_counted() -> None:
    scene = Scene(limiter=(limiter := FakeLimiter()))
    scene.hear(*EVENTS, REPORT)
    scene.end()
    assert scene.down.body == b"".join([*EVENTS, REPORT])
    assert (scene.account.output, count_of(scene.account).is_estimate, scene.account.model) == (7, False, "loud")
    assert limiter.settled == [8]


def test_a_new_format_is_bounded_and_cut_in_its_own_way() -> None:
    scene = Scene(budget=4)
    assert scene.sent == b'{"voice":"loud","most":4}'
    scene.hear(*EVENTS, REPORT)
    scene.end()
    assert scene.down.body == EVENTS[0] + b'data: {"total": 4}\n\n'
    assert scene.exchange.end_reason is EndReason.BUDGET


def test_a_new_format_is_refused_in_its_own_shape() -> None:
    scene = Scene(limiter=FakeLimiter())
    scene.exchange.on_upstream_failed(bad_request("No.", code="no"))
    assert scene.down.body == b'{"oops":"no"}'
    fields = dict(scene.down.heads[0].headers)
    assert fields[b"words-max"] == b"10000"
    assert not [name for name in fields if b"ratelimit" in name]


def test_a_failure_in_mid_stream_is_told_in_its_own_shape() -> None:
    scene = Scene()
    scene.hear(EVENTS[0])
    scene.exchange.on_upstream_failed(bad_request("No.", code="no"))
    assert scene.down.body == EVENTS[0] + b'data: {"oops": "no"}\n\n'


def test_the_table_has_its_paths_keys_and_limits() -> None:
    assert WITH_SHOUT.recognise("/v1/chat/completions") is FORMATS["openai-chat"]
    assert TABLE.recognise("/v9/shout") is None
    assert Shout.key_paths in WITH_SHOUT.key_paths
    assert WITH_SHOUT.remaining_kind(b"words-left") == "words"
    assert TABLE.remaining_kind(b"words-left") is None
    assert b"words-left" in WITH_SHOUT.limit_fields
    assert {b"shouter", b"openai-project"} < WITH_SHOUT.account_fields


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        (b"x-ratelimit-remaining-tokens", "tokens"),
        (b"x-ratelimit-remaining-tokens-day", None),
        (b"anthropic-ratelimit-input-tokens-remaining", "input-tokens"),
        (b"anthropic-ratelimit-requests-limit", None),
        (b"date", None),
    ],
)
def test_fields_with_what_remains_are_known_by_their_kind(field: bytes, kind: str | None) -> None:
    assert TABLE.remaining_kind(field) == kind
    assert kind is None or field.startswith(TABLE.limit_prefixes)


def test_a_field_that_takes_a_key_is_a_credential() -> None:
    """What the relay hides of clients, http/ has to know."""
    assert CREDENTIALS.issuperset(KEY_FIELDS)
    taken = [key_field(auth, b"k")[0] for auth in Auth if auth is not Auth.AWS_SIGV4]
    assert taken == list(KEY_FIELDS)
