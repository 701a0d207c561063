"""Tenants as tables: what is read, what is written, and where a table is wrong."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from flowserver.config.tenants import MOST, TenantError, read_tenant, read_tenants, table_of
from flowserver.quota.tenants import ModelLimits, Tenant, TenantKey, TenantLimits, limits_for

KEY = "flow-very-secret"
HASH = "0123456789abcdef" * 4
OTHER = "f" * 64
NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
FULL = f"""
name = "acme"
key_sha256 = "{HASH.upper()}"
keys = [{{ sha256 = "{OTHER}", expires = "2027-01-01T01:00:00+01:00" }}, {{ sha256 = "{"a" * 64}" }}]
disabled = true
models = ["gpt-*"]
paths = ["/v1/*"]
requests_per_minute = 1
request_burst = 2
tokens_per_minute = 3
token_burst = 4
concurrent = 5
tokens_per_stream = 6
tokens_per_session = 7
tokens_per_day = 8
tokens_per_month = 9
[user]
tokens_per_day = 10
[[model_limits]]
models = ["gpt-4*", "o3"]
tokens_per_day = 11
"""


def read(text: str) -> Tenant:
    return read_tenant(tomllib.loads(text), "tenants[0]")


def problems(text: str) -> list[str]:
    with pytest.raises(TenantError) as caught:
        read(text)
    assert KEY not in str(caught.value)
    return caught.value.problems


def test_all_that_can_be_said() -> None:
    assert read(FULL) == Tenant(
        "acme",
        (TenantKey(bytes.fromhex(HASH)), TenantKey(b"\xff" * 32, NEW_YEAR), TenantKey(b"\xaa" * 32)),
        disabled=True,
        models=("gpt-*",),
        paths=("/v1/*",),
        limits=TenantLimits(1, 2, 3, 4, 5, 6, 7, 8, 9),
        user=TenantLimits(tokens_per_day=10),
        model_limits=(ModelLimits(("gpt-4*", "o3"), TenantLimits(tokens_per_day=11)),),
    )


@pytest.mark.parametrize("text", [FULL, 'name = "acme"'])
def test_what_is_written_is_read_again(text: str) -> None:
    tenant = read(text)
    assert read_tenant(orjson.loads(orjson.dumps(table_of(tenant))), "acme") == tenant


def test_only_what_says_something_is_written() -> None:
    assert table_of(Tenant("acme")) == {"name": "acme"}


def test_a_time_of_toml_is_one_too() -> None:
    tenant = read(f'name = "a"\nkeys = [{{ sha256 = "{HASH}", expires = 2027-01-01T00:00:00Z }}]')
    assert tenant.keys[0].expires_at == NEW_YEAR


def test_the_largest_limits_can_be_counted() -> None:
    tenant = read(f'name = "a"\nrequests_per_minute = {MOST}\ntokens_per_minute = {MOST}\ntokens_per_day = {MOST}')
    assert len(limits_for(tenant, user=None, session=None, model=None, now=0.0)) == 3


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("nonsense = 1", "nonsense"),
        ("requests_per_minute = 0", "requests_per_minute"),
        ("tokens_per_minute = -1", "tokens_per_minute"),
        ("tokens_per_day = 1.5", "tokens_per_day"),
        ("tokens_per_day = true", "tokens_per_day"),
        ('tokens_per_month = "1"', "tokens_per_month"),
        (f"tokens_per_month = {MOST + 1}", "tokens_per_month"),
        ("request_burst = 1", "request_burst"),
        ("token_burst = 1", "token_burst"),
        (f'key_sha256 = "{KEY}"', "key_sha256"),
        (f'key_sha256 = "{HASH}0"', "key_sha256"),
        ("key_sha256 = 1", "key_sha256"),
        ('keys = "x"', "keys"),
        (f'keys = ["{KEY}"]', "keys"),
        ("keys = [{}]", "keys[0].sha256"),
        (f'keys = [{{ sha256 = "{KEY}" }}]', "keys[0].sha256"),
        (f'keys = [{{ sha256 = "{HASH}", x = 1 }}]', "keys[0].x"),
        (f'keys = [{{ sha256 = "{HASH}", expires = "soon" }}]', "keys[0].expires"),
        (f'keys = [{{ sha256 = "{HASH}", expires = "2027-01-01T00:00:00" }}]', "keys[0].expires"),
        (f'keys = [{{ sha256 = "{HASH}", expires = 2027-01-01T00:00:00 }}]', "keys[0].expires"),
        (f'keys = [{{ sha256 = "{HASH}", expires = 2027-01-01 }}]', "keys[0].expires"),
        (f'keys = [{{ sha256 = "{HASH}", expires = 1 }}]', "keys[0].expires"),
        ("disabled = 1", "disabled"),
        ('models = "x"', "models"),
        ("models = [1]", "models"),
        ("paths = ['']", "paths"),
        ("paths = ['v1/chat/completions']", "paths"),
        ("user = 1", "user"),
        ("user = { x = 1 }", "user.x"),
        ("user = { tokens_per_day = 0 }", "user.tokens_per_day"),
        ("user = { token_burst = 1 }", "user.token_burst"),
        ("model_limits = {}", "model_limits"),
        ("model_limits = [{ tokens_per_day = 1 }]", "model_limits[0].models"),
        ("model_limits = [{ models = [] }]", "model_limits[0].models"),
        ("model_limits = [{ models = ['a'], x = 1 }]", "model_limits[0].x"),
        ("model_limits = [{ models = ['a'], tokens_per_day = 0 }]", "model_limits[0].tokens_per_day"),
        ("model_limits = [{ models = ['a'] }, { models = ['a'] }]", "model_limits[1].models"),
    ],
)
def test_each_mistake_is_told_with_its_place(line: str, place: str) -> None:
    [problem] = problems(f'name = "acme"\n{line}')
    assert problem.startswith(f"tenants[0].{place}: ")


@pytest.mark.parametrize("name", ["''", "1", "'a b'", "'{a}'", "'-a'", "'a:b'", f"'{'a' * 65}'", "'é'"])
def test_what_is_no_name(name: str) -> None:
    [problem] = problems(f"name = {name}")
    assert problem.startswith("tenants[0].name: ")


def test_all_mistakes_are_told_at_once_and_nothing_may_be_there_twice() -> None:
    assert [problem.split(":")[0] for problem in problems("concurrent = 0\nx = 1")] == [
        "tenants[0].x",
        "tenants[0].name",
        "tenants[0].concurrent",
    ]
    tables: list[dict[str, Any]] = [{"name": "a", "key_sha256": HASH}, {"name": "a", "key_sha256": HASH}]
    with pytest.raises(TenantError) as caught:
        read_tenants(tables)
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["tenants", "tenants"]
    assert HASH not in str(caught.value)


def test_a_key_in_the_place_of_its_hash_is_told_what_to_do() -> None:
    [problem] = problems(f'name = "acme"\nkey_sha256 = "{KEY}"')
    assert "`flowserver tenants key`" in problem


def test_patterns_that_were_stored_once_are_taken_as_they_are() -> None:
    """They fit nothing; a tenant that can't be read would be locked out of all the others."""
    table = {"name": "acme", "paths": ["v1/*", "/v1/files"]}
    assert read_tenant(table, "acme", stored=True).paths == ("v1/*", "/v1/files")
